"""Looking at decisions: on what grounds promotions were let through, or became requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry.access import Caller
from registry.browse import model_row
from registry.checks import Finding
from registry.database import ReadSession, WriteSession
from registry.pages import Page, cut, read_cursor
from registry.policy_tables import DecisionRow, FindingRow


@dataclass(frozen=True, slots=True)
class Decision:
    """See DecisionRow."""

    id: int
    outcome: str
    number: int
    source: str
    to: str
    pointer: str | None
    generation: int
    digest: str
    fact_revision: int
    policies: Sequence[tuple[str, int]]
    approvals: int
    approved_by: Sequence[str]
    request: int | None
    actor: str
    at: datetime
    findings: Sequence[Finding]


def decisions(
    session: ReadSession | WriteSession,
    caller: Caller,
    model: str,
    *,
    pointer: str | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Decision]:
    """The decisions about a model, or about one pointer of it, newest first. Raises ModelNotFound."""
    owner = model_row(session, caller, model)
    query = sa.select(DecisionRow).where(DecisionRow.model_id == owner.id).order_by(DecisionRow.id.desc())
    if pointer is not None:
        query = query.where(DecisionRow.pointer == pointer)
    if after is not None:
        query = query.where(DecisionRow.id < read_cursor(after, int))
    rows, following = cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: row.id)
    of_rows = FindingRow.decision_id.in_([row.id for row in rows])
    findings: dict[int, list[Finding]] = {}
    for row in session.scalars(sa.select(FindingRow).where(of_rows).order_by(FindingRow.position)):
        findings.setdefault(row.decision_id, []).append(Finding(row.check, row.passed, row.said, row.inputs))
    return Page([_decision_of(row, findings) for row in rows], following)


def _decision_of(row: DecisionRow, findings: Mapping[int, list[Finding]]) -> Decision:
    same: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("id", "outcome", "number", "source", "to", "pointer", "generation", "fact_revision")
    }
    return Decision(
        **same,
        digest=row.manifest_digest,
        policies=[(pattern, revision) for pattern, revision in row.policies],
        approvals=row.approvals,
        approved_by=row.approved_by,
        request=row.request_id,
        actor=row.actor,
        at=row.at,
        findings=findings.get(row.id, []),
    )
