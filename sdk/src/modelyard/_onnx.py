"""An ONNX file opened with onnxruntime: a session, and the signature that its graph declares."""

from pathlib import Path
from typing import Any

import onnxruntime

from modelyard._types import Signature, Tensor

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class UnreadableGraph(Exception):
    """The file has no signature that the Open Inference Protocol could express; the message says why."""


def open_session(model: bytes | str) -> Any:
    """An onnxruntime session on the CPU for a serialised graph or a file; logs errors only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def read_signature(path: Path) -> Signature:
    """Names, datatypes and shapes of the graph's inputs and outputs; raises UnreadableGraph."""
    try:
        session = open_session(str(path))
    except Exception as error:  # border: onnxruntime's kinds have no common base
        raise UnreadableGraph(f"onnxruntime cannot load it: {error}".partition("\n")[0]) from error
    return Signature(
        inputs=tuple(_tensor(each) for each in session.get_inputs()),
        outputs=tuple(_tensor(each) for each in session.get_outputs()),
    )


def _tensor(argument: Any) -> Tensor:
    if argument.type not in _DATATYPES:
        raise UnreadableGraph(
            f"{argument.name!r} is a {argument.type}, which the inference protocol does not have"
        )
    # A dimension without a number is a name such as "batch", or nothing: any size.
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    return Tensor(argument.name, _DATATYPES[argument.type], shape)
