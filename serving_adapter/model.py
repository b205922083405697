"""A model that answers by its signature, whatever runtime is behind it.

inputs ──check: names, datatypes, shapes──▶ predict ──settle: datatypes, [n,1] <-> [n], shapes──▶ outputs
         BadInput: the caller's mistake              ModelFailed: the model's
"""

from collections.abc import Iterable, Mapping, Sequence

from serving_adapter.errors import BadInput, ModelFailed
from serving_adapter.runtimes.base import Runtime
from serving_adapter.tensors import Array, Signature, TensorSpec, as_datatype, describe, fits


class Model:
    """A loaded runtime and the signature it is held to: the version's own, else what the file declares, else none."""

    def __init__(self, runtime: Runtime, signature: Signature | None) -> None:
        self._runtime = runtime
        self.signature = signature or runtime.signature
        self.platform = runtime.platform

    def run(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """Answer with the `wanted` outputs, in their order; with all if none is named."""
        signature = self.signature
        if signature is not None:
            _check_inputs(inputs, signature.inputs)
            _check_wanted(wanted, (spec.name for spec in signature.outputs))
        answer = self._predict(inputs)
        if signature is not None:
            answer = {spec.name: _settle(answer, spec) for spec in signature.outputs}
        _check_wanted(wanted, answer)
        return {name: answer[name] for name in wanted} if wanted else answer

    def close(self) -> None:
        self._runtime.close()

    def _predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return self._runtime.predict(inputs)
        except BadInput:
            raise
        except Exception as error:
            # The border to code that anybody may have written: whatever it raises is the model's failure.
            raise ModelFailed(f"the model failed on this input ({type(error).__name__})") from error


def _check_inputs(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> None:
    if inputs.keys() != {spec.name for spec in specs}:
        raise BadInput(_name_mismatch(inputs, specs))
    for spec in specs:
        array = inputs[spec.name]
        if not fits(array, spec):
            raise BadInput(f"input '{spec.name}' must be {spec}, got {describe(array)}")


def _name_mismatch(inputs: Iterable[str], specs: Sequence[TensorSpec]) -> str:
    expected = [spec.name for spec in specs]
    missing = [name for name in expected if name not in inputs]
    unexpected = [name for name in inputs if name not in expected]
    parts = [f"missing {missing}" if missing else "", f"unexpected {unexpected}" if unexpected else ""]
    return f"expected inputs {expected}: {', '.join(part for part in parts if part)}"


def _check_wanted(wanted: Sequence[str], offered: Iterable[str]) -> None:
    if wanted:
        names = list(offered)
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise BadInput(f"no outputs {unknown}; the model has {names}")


def _settle(answer: Mapping[str, Array], spec: TensorSpec) -> Array:
    """The output in the datatype and shape that the signature promises."""
    if spec.name not in answer:
        raise ModelFailed(f"the model answered without the output '{spec.name}'")
    array = answer[spec.name]
    try:
        array = _same_rank(as_datatype(array, spec.datatype), len(spec.shape))
    except ValueError as error:
        raise ModelFailed(f"output '{spec.name}' must be {spec}: {error}") from error
    if not fits(array, spec):
        raise ModelFailed(f"output '{spec.name}' must be {spec}, the model answered {describe(array)}")
    return array


def _same_rank(array: Array, rank: int) -> Array:
    """[n,1] as [n] and [n] as [n,1]: libraries differ in it, and it says the same."""
    if array.ndim == 2 and rank == 1 and array.shape[1] == 1:
        return array.reshape(-1)
    if array.ndim == 1 and rank == 2:
        return array.reshape(-1, 1)
    return array
