"""Comparing two versions, of one model or of two: what is the same, and how far apart are the metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from registry import browse, facts
from registry.access import Caller
from registry.database import ReadSession
from registry.domain import File

Side = tuple[str, int]
"""A version: the model's name, and the number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of either; None: that one does not have it. `difference` is right minus left."""

    name: str
    dataset: str
    slice: str
    left: float | None
    right: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact that differs; None: that one does not have it."""

    kind: Literal["tag", "metadata", "parameter"]
    name: str
    left: facts.Value | None
    right: facts.Value | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that differs; None: that one does not have it."""

    path: str
    left: File | None
    right: File | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All metrics of both; of other facts and of files those that differ."""

    left: browse.Version
    right: browse.Version
    same_content: bool
    same_signature: bool
    metrics: Sequence[Metric]
    facts: Sequence[Fact]
    files: Sequence[Changed]


def compare(session: ReadSession, caller: Caller, left: Side, right: Side) -> Comparison:
    """Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    one, said = _look(session, caller, left)
    other, said_of_other = _look(session, caller, right)
    return Comparison(
        left=one,
        right=other,
        same_content=one.digest == other.digest,
        same_signature=one.signature == other.signature,
        metrics=_metrics(said, said_of_other),
        facts=[
            *_differing("tag", said.tags, said_of_other.tags),
            *_differing("metadata", said.metadata, said_of_other.metadata),
            *_differing("parameter", said.parameters, said_of_other.parameters),
        ],
        files=_files(one.files, other.files),
    )


def _look(session: ReadSession, caller: Caller, side: Side) -> tuple[browse.Version, facts.Facts]:
    version = browse.version(session, caller, *side)
    row = browse.version_row(session, browse.model_row(session, caller, side[0]), side[1])
    return version, facts.facts_of(session, row)


def _metrics(left: facts.Facts, right: facts.Facts) -> list[Metric]:
    one, other = ({(m.name, m.dataset, m.slice): m.value for m in side.metrics} for side in (left, right))
    return [
        Metric(name, dataset, slice_, one.get(key), other.get(key), _apart(one.get(key), other.get(key)))
        for key in _keys(one, other)
        for name, dataset, slice_ in [key]
    ]


def _apart(left: float | None, right: float | None) -> float | None:
    if left is None or right is None or abs(difference := right - left) == float("inf"):
        return None
    return difference


def _differing(
    kind: Literal["tag", "metadata", "parameter"],
    left: Mapping[str, facts.Value],
    right: Mapping[str, facts.Value],
) -> list[Fact]:
    return [
        Fact(kind, name, left.get(name), right.get(name))
        for name in _keys(left, right)
        # 1 and True are equal to Python, and not the same.
        if (type(left.get(name)), left.get(name)) != (type(right.get(name)), right.get(name))
    ]


def _files(left: Sequence[File], right: Sequence[File]) -> list[Changed]:
    one, other = ({file.path: file for file in files} for files in (left, right))
    return [
        Changed(path, one.get(path), other.get(path))
        for path in _keys(one, other)
        if one.get(path) != other.get(path)
    ]


def _keys(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> list[Any]:
    return sorted({*left, *right})
