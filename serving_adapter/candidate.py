"""A candidate: a version's verified files, and how to find out whether it may be served.

    load ──▶ rehearse: answer the recorded example ──▶ same names, shapes, datatypes? finite? near the recorded values?

The loader's child does both first; when it survives and agrees, the adapter does the same once more for itself, which
also warms the model up.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serving_adapter.errors import AdapterError, CandidateRejected
from serving_adapter.model import Model
from serving_adapter.runtimes import import_runtime
from serving_adapter.runtimes.base import LoadFailed, Options
from serving_adapter.tensors import Array, JsonTensor, decode, describe

# Conversion from one runtime to another rounds differently; more than this is another model.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5


class Candidate(msgspec.Struct, frozen=True):
    """What to load: `path` inside `folder`, by `runtime` (a module's name). Travels to the loader's child as JSON."""

    folder: str
    path: str
    runtime: str
    example: str | None = None
    options: Options = Options()


class Example(msgspec.Struct):
    """A recorded request and its answer, in the protocol's own JSON."""

    inputs: list[JsonTensor]
    outputs: list[JsonTensor]


def load(candidate: Candidate) -> Model:
    """Load it; raise CandidateRejected in words for the operator if that fails."""
    try:
        runtime = import_runtime(candidate.runtime).load(
            Path(candidate.folder, candidate.path), candidate.options
        )
    except LoadFailed as error:
        raise CandidateRejected("load", str(error)) from error
    except Exception as error:
        # The border to libraries that raise anything at all when a file is not what it should be.
        what = str(error).replace(candidate.folder, "…")
        raise CandidateRejected("load", f"loading raised {type(error).__name__}: {what:.300}") from error
    return Model(runtime, candidate.options.signature)


def rehearse(model: Model, candidate: Candidate) -> None:
    """Let it answer its recorded example; raise CandidateRejected if it does not answer the same."""
    if candidate.example is None:
        return
    example = _read_example(Path(candidate.folder, candidate.example))
    try:
        answer = model.run({tensor.name: decode(tensor) for tensor in example.inputs})
        recorded = {tensor.name: decode(tensor) for tensor in example.outputs}
    except AdapterError as error:
        raise CandidateRejected("example", _with_cause(error)) from error
    for name, values in recorded.items():
        _compare(name, values, answer.get(name))


def _read_example(path: Path) -> Example:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Example)
    except (OSError, msgspec.DecodeError) as error:
        raise CandidateRejected("example", "the recorded example cannot be read") from error


def _compare(name: str, recorded: Array, answered: Array | None) -> None:
    if answered is None:
        raise CandidateRejected("example", f"the model answered without the output '{name}'")
    if answered.dtype != recorded.dtype or answered.shape != recorded.shape:
        raise CandidateRejected(
            "example", f"output '{name}' was {describe(recorded)} when recorded, is {describe(answered)} now"
        )
    if answered.dtype.kind == "f" and not np.isfinite(answered).all():
        raise CandidateRejected("example", f"output '{name}' is not finite on the recorded example")
    if not _agree(recorded, answered):
        raise CandidateRejected(
            "example", f"output '{name}' differs from what was recorded: {_worst(recorded, answered)}"
        )


def _agree(recorded: Array, answered: Array) -> bool:
    if recorded.dtype.kind == "f":
        return bool(np.allclose(answered, recorded, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE))
    return bool((answered == recorded).all())


def _worst(recorded: Array, answered: Array) -> str:
    """The values at the first place where they differ most, or at all."""
    where: Any
    if recorded.dtype.kind == "f":
        where = np.unravel_index(np.argmax(np.abs(answered - recorded)), recorded.shape)
    else:
        where = tuple(np.argwhere(np.atleast_1d(answered != recorded))[0][: recorded.ndim])
    return f"{answered[where]!s:.80} instead of {recorded[where]!s:.80}"


def _with_cause(error: AdapterError) -> str:
    return f"{error}: {error.__cause__!s:.300}" if error.__cause__ is not None else str(error)
