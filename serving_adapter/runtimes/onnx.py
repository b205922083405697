"""ONNX, run by onnxruntime on the CPU.

One thread per session: the adapter's lane runs several requests side by side, and threads inside each of them would
fight over the same cores. The session is made from bytes, and a model that keeps tensors in other files is refused:
such a reference is a path chosen by whoever wrote the model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from serving_adapter.errors import BadInput
from serving_adapter.runtimes.base import LoadFailed, Options
from serving_adapter.runtimes.onnx_external import Malformed, has_external_data
from serving_adapter.tensors import DTYPES, Array, Signature, TensorSpec

DATATYPES = {
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
_ONLY_FATAL = 4


class OnnxRuntime:
    """One onnxruntime session."""

    platform = "onnx_onnxv1"

    def __init__(self, session: Any, options: Options) -> None:
        self.signature = _signature(session)
        wanted = options.signature or self.signature
        self._names = _names(session, wanted)
        self._casts = _casts(session, wanted)
        self._session: Any = session

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise RuntimeError("the model has been closed")
        feed = (
            {name: inputs[name].astype(dtype) for name, dtype in self._casts.items()} if self._casts else {}
        )
        try:
            values = session.run(self._names, {**inputs, **feed})
        except InvalidArgument as error:
            raise BadInput("the model does not take inputs of these shapes together") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        self._session = None


def load(path: Path, options: Options) -> OnnxRuntime:
    """Make a session from the file at `path`; raise LoadFailed if it is not a self-contained ONNX model."""
    model = path.read_bytes()
    try:
        external = has_external_data(model)
    except Malformed as error:
        raise LoadFailed(f"not an ONNX model: {error}") from error
    if external:
        raise LoadFailed("the ONNX model keeps tensors in other files; save it with its data inside")
    return OnnxRuntime(_session(model), options)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_FATAL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _signature(session: Any) -> Signature | None:
    """The graph's own; None when it has a sequence, a map or another type that the protocol cannot carry."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if any(node.type not in DATATYPES for node in nodes):
        return None
    return Signature(
        inputs=tuple(_spec(node) for node in session.get_inputs()),
        outputs=tuple(_spec(node) for node in session.get_outputs()),
    )


def _spec(node: Any) -> TensorSpec:
    # A dimension that the graph leaves open is a name or None.
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPES[node.type], shape)


def _names(session: Any, signature: Signature | None) -> list[str]:
    """The outputs to compute: those of the signature, so that no time goes into others."""
    offered = [node.name for node in session.get_outputs()]
    if signature is None:
        raise LoadFailed("the ONNX model has inputs or outputs that are not tensors")
    missing = {spec.name for spec in signature.outputs} - set(offered)
    if missing:
        raise LoadFailed(
            f"the ONNX model has outputs {offered}; its signature also promises {sorted(missing)}"
        )
    return [spec.name for spec in signature.outputs]


def _casts(session: Any, signature: Signature | None) -> dict[str, Any]:
    """Inputs whose type in the graph is another than in the signature: FP32 inside where FP64 is promised, say."""
    declared = {node.name: DATATYPES.get(node.type, "") for node in session.get_inputs()}
    promised = {spec.name: spec.datatype for spec in signature.inputs} if signature else {}
    if declared.keys() != promised.keys():
        raise LoadFailed(
            f"the ONNX model has inputs {sorted(declared)}; its signature says {sorted(promised)}"
        )
    differing = {name: kind for name, kind in declared.items() if kind != promised[name]}
    for name, kind in differing.items():
        if not _castable(promised[name], kind):
            raise LoadFailed(
                f"input '{name}' is {kind or 'no tensor'} in the model, {promised[name]} in its signature"
            )
    return {name: DTYPES[kind] for name, kind in differing.items()}


def _castable(promised: str, declared: str) -> bool:
    if declared not in DTYPES or "BYTES" in (promised, declared):
        return False
    return bool(np.can_cast(DTYPES[promised], DTYPES[declared], "same_kind"))
