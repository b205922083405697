"""What policy says, and promotions that others have to approve: values, as the registry tells them.

Verdict ── Finding*          PromotionRequest ── RequestEntry*
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from modelyard._types import Wire


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `said` for people, `inputs` is all that it looked at."""

    check: dict[str, Any]
    passed: bool
    said: str
    inputs: dict[str, Any]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(dict(wire["check"]), wire["passed"], wire["said"], dict(wire["inputs"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would become of a promotion: `outcome` is "moves", "asks" (for `approvals`), or "refused".

    It is refused by a check that failed, by a policy that knows no such move (`refused_by`), because it is for others
    (`only_for`), or because the model is `frozen`, for that reason.
    """

    number: int
    source: str
    to: str
    generation: int
    outcome: str
    approvals: int
    refused_by: str | None
    only_for: tuple[str, ...]
    frozen: str | None
    findings: tuple[Finding, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            number=wire["number"],
            source=wire["from"],
            to=wire["to"],
            generation=wire["generation"],
            outcome=wire["outcome"],
            approvals=wire["approvals"],
            refused_by=wire["refused_by"],
            only_for=tuple(wire["only_for"]),
            frozen=wire["frozen"],
            findings=tuple(Finding.from_wire(each) for each in wire["findings"]),
        )


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """Something said about a request (`kind`: asked, commented, approved, …), when the facts were at `fact_revision`."""

    kind: str
    author: str
    text: str
    fact_revision: int
    at: datetime

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        at = datetime.fromisoformat(wire["at"])
        return cls(wire["kind"], wire["author"], wire["text"], wire["fact_revision"], at)


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """A promotion that somebody has asked for. `approved_by`: whose approvals count for the version as it is now.

    `state`: open, done, rejected, withdrawn, expired, outdated (the pointer has moved) or failed.
    """

    model: str
    id: int
    number: int
    to: str
    generation: int
    reason: str
    at: datetime | None
    expires_at: datetime
    requested_at: datetime
    requested_by: str
    state: str
    approved_by: tuple[str, ...]
    entries: tuple[RequestEntry, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            model=wire["model"],
            id=wire["id"],
            number=wire["number"],
            to=wire["to"],
            generation=wire["generation"],
            reason=wire["reason"],
            at=None if wire["at"] is None else datetime.fromisoformat(wire["at"]),
            expires_at=datetime.fromisoformat(wire["expires_at"]),
            requested_at=datetime.fromisoformat(wire["requested_at"]),
            requested_by=wire["requested_by"],
            state=wire["state"],
            approved_by=tuple(wire["approved_by"]),
            entries=tuple(RequestEntry.from_wire(each) for each in wire["entries"]),
        )
