"""The formats that can be served: one module each, imported when its first model is.

A runtime module has `load(path, options) -> Runtime` (see base.py). Further formats are further entries of
`Settings.formats`; the loader's child imports the same module from the same place.
"""

import importlib
from collections.abc import Mapping
from typing import cast

from serving_adapter.runtimes.base import RuntimeModule

# In the order in which they are preferred, when a version has several variants.
FORMATS: Mapping[str, str] = {
    "onnx": "serving_adapter.runtimes.onnx",
    "sklearn-skops": "serving_adapter.runtimes.sklearn",
}


def import_runtime(module: str) -> RuntimeModule:
    """Import a runtime by its module's name; raise ImportError if what it needs is not installed."""
    return cast(RuntimeModule, importlib.import_module(module))
