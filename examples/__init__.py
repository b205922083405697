"""Modelyard at work, each file a whole story: run them with `python -m examples.<name>` beside `make up`."""
