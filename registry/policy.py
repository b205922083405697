"""Policies: what promotions need, per pattern of model names. What a policy can say is in rules.py.

All policies whose pattern fits a model count for it, together: one can demand more than another, and never less. So a
policy for `*` holds everywhere, and whoever owns `fraud-*` can only add to it. Without any, every promotion is let through.

A policy is never changed: setting it adds a revision. decide.py applies them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from registry import audit
from registry.access import Caller, Permission, check_pattern, name_matches, require
from registry.browse import model_row
from registry.database import ReadSession, WriteSession
from registry.errors import PolicyChanged, PolicyNotFound
from registry.policy_tables import PolicyRow
from registry.rules import Rules, check_rules
from registry.tables import ModelRow, WorkspaceRow

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Policy:
    """The newest revision of a policy."""

    pattern: str
    revision: int
    rules: Rules
    set_at: datetime
    set_by: str


def put(
    session: WriteSession, caller: Caller, pattern: str, rules: Rules, *, expected_revision: int | None = None
) -> Policy:
    """Set the policy of a pattern, all of whose models the caller must own.

    Raises InvalidPolicy and its kin, Forbidden, or PolicyChanged when it is not at `expected_revision` (0: was never set).
    """
    check_pattern(pattern)
    check_rules(rules)
    newest = _locked(session, caller, pattern, expected_revision)
    if newest is None or newest.rules != rules.as_json():
        newest = _revise(session, caller, pattern, newest, rules)
    return _policy_of(newest)


def lift(
    session: WriteSession, caller: Caller, pattern: str, *, expected_revision: int | None = None
) -> None:
    """Let a pattern have no policy any more. Raises as `put` does, or PolicyNotFound."""
    newest = _locked(session, caller, pattern, expected_revision)
    if newest is None or newest.rules is None:
        raise PolicyNotFound(pattern)
    _revise(session, caller, pattern, newest, None)


def policies(session: Session, caller: Caller) -> Sequence[Policy]:
    """Those of patterns whose models the caller may all read, by pattern."""
    rows = session.scalars(_NEWEST, {"workspace": caller.workspace_id})
    return [_policy_of(row) for row in rows if caller.permits(Permission.READ, row.pattern)]


def policy(session: Session, caller: Caller, pattern: str) -> Policy:
    """One of them. Raises PolicyNotFound."""
    found = [each for each in policies(session, caller) if each.pattern == pattern]
    if not found:
        raise PolicyNotFound(pattern)
    return found[0]


def of_model(session: Session, caller: Caller, model: str) -> Sequence[Policy]:
    """All that count for a model. Raises ModelNotFound."""
    return applying(session, model_row(session, caller, model))


def applying(session: Session, model: ModelRow) -> Sequence[Policy]:
    """All that count for a model, by pattern."""
    rows = session.scalars(_APPLYING, {"workspace": model.workspace_id, "model": model.name})
    return [_policy_of(row) for row in rows]


_NEWER = sa.orm.aliased(PolicyRow)
_OUTDONE = sa.exists().where(
    _NEWER.workspace_id == PolicyRow.workspace_id,
    _NEWER.pattern == PolicyRow.pattern,
    _NEWER.revision > PolicyRow.revision,
)
_NEWEST = (
    sa.select(PolicyRow)
    .where(PolicyRow.workspace_id == sa.bindparam("workspace"), PolicyRow.rules.is_not(None), ~_OUTDONE)
    .order_by(PolicyRow.pattern)
)
_APPLYING = _NEWEST.where(name_matches(sa.bindparam("model", type_=sa.String), PolicyRow.pattern))


def _locked(session: WriteSession, caller: Caller, pattern: str, expected: int | None) -> PolicyRow | None:
    # Whoever owns all models that one pattern fits owns those that a narrower one does: "fraud-eu*" fits "fraud-*".
    require(caller, Permission.OWN, pattern)
    session.execute(
        sa.select(WorkspaceRow.id).where(WorkspaceRow.id == caller.workspace_id).with_for_update()
    )
    of_pattern = PolicyRow.workspace_id == caller.workspace_id, PolicyRow.pattern == pattern
    newest = session.scalars(
        sa.select(PolicyRow).where(*of_pattern).order_by(PolicyRow.revision.desc()).limit(1)
    ).first()
    revision = newest.revision if newest is not None else 0
    if expected not in (None, revision):
        raise PolicyChanged(revision)
    return newest


def _revise(
    session: WriteSession, caller: Caller, pattern: str, before: PolicyRow | None, rules: Rules | None
) -> PolicyRow:
    row = PolicyRow(
        workspace_id=caller.workspace_id,
        pattern=pattern,
        revision=before.revision + 1 if before is not None else 1,
        rules=rules.as_json() if rules is not None else None,
        set_by=caller.name,
    )
    session.add(row)
    session.flush()
    action = "policy.set" if rules is not None else "policy.lifted"
    audit.record(
        session, caller, action, f"policies/{pattern}", {"revision": row.revision, "rules": row.rules}
    )
    return row


def _policy_of(row: PolicyRow) -> Policy:
    return Policy(row.pattern, row.revision, Rules.from_json(row.rules or {}), row.set_at, row.set_by)
