"""The version of this distribution; a test compares it with pyproject.toml (reading metadata would cost 30 ms)."""

__version__ = "0.1.0"
