"""What a file or directory is, judged by names alone: nothing of it is executed, and only ONNX is opened.

MLmodel at the top      mlflow           the folder, for mlflow.pyfunc.load_model
one *.skops             sklearn-skops    with one *.onnx beside it as a variant
one *.onnx              onnx             signature read from the graph, if onnxruntime is installed
anything else           files            kept and versioned, not served
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelyard._errors import ModelyardError
from modelyard._manifest import locate
from modelyard._types import Entry, File, Signature, Variant

_SUFFIXES = {"sklearn-skops": ".skops", "onnx": ".onnx"}


@dataclass(frozen=True, slots=True)
class Described:
    """Format, variants and signature of a collected path; `note` is a warning for the user."""

    format: str
    variants: tuple[Variant, ...]
    signature: Signature | None = None
    note: str | None = None


def guess(files: Sequence[Entry | File]) -> str:
    """The format that file names tell of."""
    if any(file.path == "MLmodel" for file in files):
        return "mlflow"
    return next((name for name in _SUFFIXES if len(_with_suffix(name, files)) == 1), "files")


def describe(root: Path, files: Sequence[Entry | File], name: str, variants: Sequence[Variant]) -> Described:
    """Variants and signature for format `name`. Raises ModelyardError when the files that it needs are not there."""
    described = Described(name, tuple(variants) or _find(name, files))
    graphs = [variant.path for variant in described.variants if variant.format == "onnx"]
    if name != "onnx" or not graphs:
        return described
    return _with_graph_signature(described, locate(root, graphs[0]))


def _with_suffix(name: str, files: Sequence[Entry | File]) -> list[str]:
    return [file.path for file in files if file.path.endswith(_SUFFIXES[name])]


def _find(name: str, files: Sequence[Entry | File]) -> tuple[Variant, ...]:
    """The variants that belong to format `name`: first the format itself, then an ONNX file beside it."""
    if name == "mlflow":
        if guess(files) != "mlflow":
            raise ModelyardError("Format mlflow needs a file MLmodel at the top of the directory.")
        return (Variant("mlflow", "."),)
    if name not in _SUFFIXES:
        return ()
    found = _with_suffix(name, files)
    if len(found) != 1:
        raise ModelyardError(
            f"Format {name} needs one {_SUFFIXES[name]} file, found {len(found)}: say which with "
            f"variants=[Variant({name!r}, path)]."
        )
    beside = _with_suffix("onnx", files) if name != "onnx" else []
    return (Variant(name, found[0]), *(Variant("onnx", path) for path in beside if len(beside) == 1))


def _with_graph_signature(described: Described, path: Path) -> Described:
    try:
        from modelyard._onnx import UnreadableGraph, read_signature
    except ImportError:
        note = "Registered without a signature: reading it from an ONNX file needs onnxruntime, which is not installed."
        return replace(described, note=note)
    try:
        return replace(described, signature=read_signature(path))
    except UnreadableGraph as finding:
        return replace(described, note=f"Registered without a signature: {path.name}: {finding}.")
