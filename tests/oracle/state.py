"""What a registry knows, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STAGES = ("production", "staging")


@dataclass
class Version:
    number: int
    creator: str
    tags: dict[str, str] = field(default_factory=dict)
    auc: float | None = None
    revision: int = 0
    archived: bool = False
    deleted: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        return {} if self.auc is None else {"auc": self.auc}


@dataclass(frozen=True)
class Move:
    """One line of a pointer's history."""

    generation: int
    before: int | None
    after: int | None
    kind: str
    actor: str
    reason: str


@dataclass
class Pointer:
    """`since`: when it moved last, in seconds."""

    number: int | None = None
    since: int = 0
    moves: list[Move] = field(default_factory=list)

    @property
    def generation(self) -> int:
        return len(self.moves)


@dataclass(frozen=True)
class Entry:
    kind: str
    author: str
    text: str
    revision: int


@dataclass
class Request:
    """Times in seconds. `closed`: how it ended; None: it has not."""

    id: int
    number: int
    to: str
    pointer: str | None
    generation: int
    reason: str
    at: int | None
    expires_at: int
    asker: str
    entries: list[Entry] = field(default_factory=list)
    closed: str | None = None


@dataclass
class Model:
    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    pointers: dict[str, Pointer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    frozen: str | None = None

    def generation(self, pointer: str | None) -> int:
        return self.pointers[pointer].generation if pointer in self.pointers else 0

    def holds(self, pointer: str) -> int | None:
        return self.pointers[pointer].number if pointer in self.pointers else None

    def held_stage(self, number: int) -> str | None:
        return next((stage for stage in STAGES if self.holds(stage) == number), None)

    def stage(self, number: int) -> str:
        return self.held_stage(number) or ("archived" if self.versions[number].archived else "none")

    def aliases(self, number: int) -> list[str]:
        return sorted(name for name, p in self.pointers.items() if name not in STAGES and p.number == number)

    def approvers(self, request: Request) -> list[str]:
        """Whose approvals are of the version as it is now."""
        revision = self.versions[request.number].revision
        return [e.author for e in request.entries if e.kind == "approved" and e.revision == revision]

    def state(self, request: Request, now: int) -> str:
        if request.closed:
            return request.closed
        if request.expires_at <= now:
            return "expired"
        return "open" if self.generation(request.pointer) == request.generation else "outdated"


Test = Callable[[Model, Version, int], bool]


def _better(model: Model, version: Version, _now: int) -> bool:
    holder = model.holds("production")
    if holder is None:
        return True
    auc = model.versions[holder].auc
    return auc is not None and version.auc is not None and version.auc >= auc


def _aged(model: Model, version: Version, now: int) -> bool:
    return model.holds("staging") == version.number and now - model.pointers["staging"].since >= 5400


CHECKS: dict[str, tuple[dict[str, Any], Test]] = {
    "good": (
        {"kind": "metric", "expression": "auc >= 0.85"},
        lambda _m, version, _now: version.auc is not None and version.auc >= 0.85,
    ),
    "better": ({"kind": "metric", "expression": "auc >= production.auc"}, _better),
    "clean": (
        {"kind": "scan", "name": "scan"},
        lambda _m, version, _now: version.tags.get("scan") == "clean",
    ),
    "team": ({"kind": "tag", "name": "team"}, lambda _m, version, _now: "team" in version.tags),
    "risk": (
        {"kind": "tag", "name": "team", "value": "risk"},
        lambda _m, version, _now: version.tags.get("team") == "risk",
    ),
    "aged": ({"kind": "age", "seconds": 5400}, _aged),
    "whole": ({"kind": "digests"}, lambda _m, _version, _now: True),
}
"""Checks as policies name them, and whether they pass."""
