"""A fitted scikit-learn estimator as an ONNX graph whose inputs and outputs are named as the signature says.

    "age" ──Cast──┐                     ┌──────────────┐
                  ├──(Concat)──> input  │ skl2onnx's   │ ──Identity──> "label"
    "n"   ──Cast──┘                     │ graph        │ ──Identity──> "probabilities"
                                        └──────────────┘
The converter knows some estimators with 32-bit floats only, and many with one input only. So it is tried with the
example's own types, then with the columns joined to one matrix, then both with float32; the first graph that gives the
estimator's own answers on the example is taken. The casts are part of the graph: its callers never notice.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common import data_types
from sklearn.base import is_classifier

from modelyard._onnx import open_session
from modelyard._tensors import Array, NamedArray

RTOL = 1e-3
ATOL = 1e-5
"""Graphs compute in float32 in places; what differs by more is another model."""

# Operator sets that the converter masters for all its estimators and that runtimes since 2024 know.
_OPSETS = {"": 21, "ai.onnx.ml": 3}

_ELEMENT: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
_CONVERTER_TYPE: dict[int, Any] = {
    TensorProto.DOUBLE: data_types.DoubleTensorType,
    TensorProto.FLOAT: data_types.FloatTensorType,
    TensorProto.INT64: data_types.Int64TensorType,
    TensorProto.STRING: data_types.StringTensorType,
}


class NotConvertible(Exception):
    """No graph gives the estimator's answers; the message says why."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the inputs are prepared: numbers cast to `element` (None: left as they are), columns `joined` or not."""

    element: int | None
    joined: bool

    def inner(self, tensor: NamedArray) -> int:
        """The element type that the converter is told."""
        own = _ELEMENT[tensor.datatype]
        if own == TensorProto.STRING:
            return own
        if self.element is not None:
            return self.element
        return own if own in _CONVERTER_TYPE else TensorProto.FLOAT


def convert(estimator: Any, inputs: Sequence[NamedArray], outputs: Sequence[NamedArray]) -> bytes:
    """Return a graph that answers `outputs` for `inputs`, serialised. Raises NotConvertible."""
    if any(tensor.values.ndim != 2 for tensor in inputs):
        raise NotConvertible("text that is not in columns is not converted")
    reasons: list[str] = []
    for plan in _plans(inputs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the converter's notes to its own developers
                content = _build(estimator, plan, inputs, outputs)
            _compare(content, inputs, outputs)
        except NotConvertible as finding:
            reasons.append(str(finding))
        except Exception as error:  # noqa: BLE001 - whatever three libraries raise, it means: not this way
            reasons.append(f"{type(error).__name__}: {error}".partition("\n")[0][:160])
        else:
            return content
    raise NotConvertible("; ".join(dict.fromkeys(reasons)))


def _plans(inputs: Sequence[NamedArray]) -> Iterator[_Plan]:
    joinable = len(inputs) > 1 and all(tensor.datatype != "BYTES" for tensor in inputs)
    yield _Plan(None, joined=False)
    if joinable:
        yield _Plan(TensorProto.DOUBLE, joined=True)
    yield _Plan(TensorProto.FLOAT, joined=False)
    if joinable:
        yield _Plan(TensorProto.FLOAT, joined=True)


def _build(estimator: Any, plan: _Plan, inputs: Sequence[NamedArray], outputs: Sequence[NamedArray]) -> bytes:
    # Inner names get a prefix, or a column named like one of them would break the graph.
    prefix = _prefix_of_no(tensor.name for tensor in (*inputs, *outputs))
    model = onnx.compose.add_prefix(_convert(estimator, _converter_inputs(plan, inputs)), prefix)
    graph = model.graph
    prelude = list(_prelude(plan, inputs, [each.name for each in graph.input], prefix))
    # The converter may offer more, such as a classifier's scores: the signature's outputs come first.
    kept = list(zip(graph.output, outputs, strict=False))
    finale = [helper.make_node("Identity", [inner.name], [output.name]) for inner, output in kept]
    _replace(graph.node, [*prelude, *graph.node, *finale])
    _replace(graph.input, [_value_info(tensor) for tensor in inputs])
    for inner, output in kept:
        inner.name = output.name
    _replace(graph.output, [inner for inner, _ in kept])
    opsets = {each.domain: each.version for each in model.opset_import}  # the converter may list one twice
    _replace(model.opset_import, [helper.make_opsetid(*each) for each in opsets.items()])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _prefix_of_no(names: Iterable[str]) -> str:
    """A run of underscores longer than any name begins with."""
    return "_" * (1 + max(len(name) - len(name.lstrip("_")) for name in names))


def _replace(field: Any, values: Sequence[Any]) -> None:
    values = [copy.deepcopy(each) for each in values]
    del field[:]
    field.extend(values)


def _value_info(tensor: NamedArray) -> Any:
    return helper.make_tensor_value_info(
        tensor.name, _ELEMENT[tensor.datatype], [None, tensor.values.shape[1]]
    )


def _converter_inputs(plan: _Plan, inputs: Sequence[NamedArray]) -> list[tuple[str, Any]]:
    if plan.joined:
        width = sum(tensor.values.shape[1] for tensor in inputs)
        return [("input", _CONVERTER_TYPE[plan.inner(inputs[0])]([None, width]))]
    return [(t.name, _CONVERTER_TYPE[plan.inner(t)]([None, t.values.shape[1]])) for t in inputs]


def _convert(estimator: Any, types: list[tuple[str, Any]]) -> Any:
    options = {"name": type(estimator).__name__, "initial_types": types, "target_opset": _OPSETS}
    if not is_classifier(estimator):
        return convert_sklearn(estimator, **options)
    try:
        # Probabilities as a matrix, not as a list of dictionaries.
        return convert_sklearn(estimator, options={id(estimator): {"zipmap": False}}, **options)
    except NameError:  # what the converter raises for classifiers that have no probabilities
        return convert_sklearn(estimator, **options)


def _prelude(plan: _Plan, inputs: Sequence[NamedArray], inner_names: list[str], prefix: str) -> Iterator[Any]:
    """Nodes between the signature's inputs and those of the converter's graph."""
    cast_names = [f"{prefix}cast_{at}" for at in range(len(inputs))] if plan.joined else inner_names
    for tensor, cast_name in zip(inputs, cast_names, strict=True):
        yield helper.make_node("Cast", [tensor.name], [cast_name], to=plan.inner(tensor))
    if plan.joined:
        yield helper.make_node("Concat", cast_names, inner_names, axis=1)


def _compare(content: bytes, inputs: Sequence[NamedArray], outputs: Sequence[NamedArray]) -> None:
    """Run the graph on the example; raise NotConvertible unless it gives the estimator's answers."""
    session = open_session(content)
    answers = session.run(
        [output.name for output in outputs], {tensor.name: tensor.values for tensor in inputs}
    )
    for output, answer in zip(outputs, answers, strict=True):
        if answer.size != output.values.size or not _agree(
            answer.reshape(output.values.shape), output.values
        ):
            raise NotConvertible(f"the graph's {output.name} is not the estimator's on the example")


def _agree(answer: Array, expected: Array) -> bool:
    if expected.dtype.kind == "f":
        return bool(np.allclose(answer.astype(np.float64), expected, rtol=RTOL, atol=ATOL))
    return bool((answer.astype(expected.dtype) == expected).all())
