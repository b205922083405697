"""The registry: which models and versions exist, which version is which, and who moved it there."""

__version__ = "0.1.0"
