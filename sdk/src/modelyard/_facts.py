"""Facts about versions: what is said beside the bytes, and may be said later. Values, and the requests that carry them.

Facts ── Metric*      Lineage ── Ref* (parents, children)      Card      Comparison ── Version, Metric …      Deployment, Run

A value is a string, a number, a boolean or an aware datetime. On the wire the last is {"time": "2026-11-22T10:00:00Z"}.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from modelyard._errors import ModelyardError
from modelyard._ref import Ref
from modelyard._types import File, Version, Wire

Value = str | float | bool | datetime


@dataclass(frozen=True, slots=True)
class Metric:
    """One number: of the whole, or of a slice of a dataset. To `change_facts`, None as `value` removes it."""

    name: str
    value: float | None
    dataset: str = ""
    slice: str = ""

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(name=wire["name"], value=wire["value"], dataset=wire["dataset"], slice=wire["slice"])

    def to_wire(self) -> dict[str, Any]:
        value = None if self.value is None else _number(self.name, self.value)
        return {"name": self.name, "value": value, "dataset": self.dataset, "slice": self.slice}


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts of a version. `revision` grows with every change of them, of the card and of the lineage."""

    revision: int
    tags: dict[str, str]
    metadata: dict[str, Value]
    parameters: dict[str, Value]
    metrics: tuple[Metric, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            revision=wire["revision"],
            tags=dict(wire["tags"]),
            metadata={name: value_from_wire(value) for name, value in wire["metadata"].items()},
            parameters={name: value_from_wire(value) for name, value in wire["parameters"].items()},
            metrics=tuple(Metric.from_wire(each) for each in wire["metrics"]),
        )


@dataclass(frozen=True, slots=True)
class Card:
    """A model card: Markdown, its headings, and HTML that is safe to show; `text` is "" where there is none."""

    text: str
    sections: tuple[str, ...]
    html: str
    revision: int

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        sections = tuple(wire["sections"])
        return cls(text=wire["text"], sections=sections, html=wire["html"], revision=wire["revision"])


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from ("": not said), and the newest versions that were made from it."""

    run: str
    repository: str
    commit: str
    image: str
    datasets: dict[str, str]
    parents: tuple[Ref, ...]
    children: tuple[Ref, ...]
    revision: int

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            run=wire["run"],
            repository=wire["repository"],
            commit=wire["commit"],
            image=wire["image"],
            datasets=dict(wire["datasets"]),
            parents=tuple(Ref(each["model"], each["number"]) for each in wire["parents"]),
            children=tuple(Ref(each["model"], each["number"]) for each in wire["children"]),
            revision=wire["revision"],
        )


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric of either version; None: that one does not have it. `difference` is right minus left."""

    name: str
    dataset: str
    slice: str
    left: float | None
    right: float | None
    difference: float | None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(**{name: wire[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class ComparedFact:
    """A tag, parameter or metadata that differs; None: that version does not have it."""

    kind: str
    name: str
    left: Value | None
    right: Value | None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        left, right = value_from_wire(wire["left"]), value_from_wire(wire["right"])
        return cls(kind=wire["kind"], name=wire["name"], left=left, right=right)


@dataclass(frozen=True, slots=True)
class ComparedFile:
    """A file that differs; None: that version does not have it."""

    path: str
    left: File | None
    right: File | None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        left, right = (File.from_wire(wire[side]) if wire[side] else None for side in ("left", "right"))
        return cls(path=wire["path"], left=left, right=right)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions: all metrics of both; of other facts and of files those that differ."""

    left: Version
    right: Version
    same_content: bool
    same_signature: bool
    metrics: tuple[ComparedMetric, ...]
    facts: tuple[ComparedFact, ...]
    files: tuple[ComparedFile, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            left=Version.from_wire(wire["left"]),
            right=Version.from_wire(wire["right"]),
            same_content=wire["same_content"],
            same_signature=wire["same_signature"],
            metrics=tuple(ComparedMetric.from_wire(each) for each in wire["metrics"]),
            facts=tuple(ComparedFact.from_wire(each) for each in wire["facts"]),
            files=tuple(ComparedFile.from_wire(each) for each in wire["files"]),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What a serving adapter says of one model that it serves as `name`; no `number`: no version yet."""

    name: str
    model: str
    number: int | None = None
    digest: str | None = None
    follows: str | None = None
    since: str | None = None
    trouble: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What an adapter runs of a model; `live`: it was heard of within the last 90 seconds."""

    adapter: str
    principal: str
    name: str
    model: str
    number: int | None
    follows: str
    since: datetime | None
    trouble: str
    reported_at: datetime
    live: bool

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        since = wire["since"]
        return cls(
            adapter=wire["adapter"],
            principal=wire["principal"],
            name=wire["name"],
            model=wire["model"],
            number=wire["number"],
            follows=wire["follows"],
            since=None if since is None else datetime.fromisoformat(since),
            trouble=wire["trouble"],
            reported_at=datetime.fromisoformat(wire["reported_at"]),
            live=wire["live"],
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What `change_facts` sends."""

    tags: Mapping[str, str | None] = field(default_factory=dict)
    metadata: Mapping[str, Value | None] = field(default_factory=dict)
    parameters: Mapping[str, Value | None] = field(default_factory=dict)
    metrics: Mapping[str, float | None] | Iterable[Metric] = ()

    def to_wire(self, expected_revision: int | None) -> dict[str, Any]:
        metrics = self.metrics
        if isinstance(metrics, Mapping):
            metrics = [Metric(name, value) for name, value in metrics.items()]
        return {
            "tags": {name: None if value is None else str(value) for name, value in self.tags.items()},
            "metadata": values_to_wire(self.metadata),
            "parameters": values_to_wire(self.parameters),
            "metrics": [metric.to_wire() for metric in metrics],
            "expected_revision": expected_revision,
        }


def value_from_wire(wire: Any) -> Any:
    """A value, or None."""
    return datetime.fromisoformat(wire["time"]) if isinstance(wire, Mapping) else wire


def values_to_wire(values: Mapping[str, Value | None]) -> dict[str, Any]:
    return {name: value_to_wire(name, value) for name, value in values.items()}


def value_to_wire(name: str, value: Any) -> Any:
    """A value, or None. numpy's numbers and booleans are taken for what they are."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ModelyardError(f"The time {name!r} has no time zone: say which, as in datetime.now(UTC).")
        return {"time": value.astimezone(UTC).isoformat()}
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ModelyardError(f"{name!r} is {number}, which JSON cannot carry: leave it out.")
    return number
