"""Grants: a role, for the models whose names match a pattern, to somebody or to a group of this workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from registry import audit, principals
from registry.access import ROLES, Caller, check_pattern
from registry.access_tables import GrantRow, GroupRow, PrincipalRow
from registry.database import ReadSession, WriteSession, insert_or_ignore
from registry.errors import GrantNotFound, InvalidName


@dataclass(frozen=True, slots=True)
class Grant:
    """To a `principal`, or to a `group`; the other is None."""

    id: int
    principal: str | None
    group: str | None
    role: str
    pattern: str
    created_at: datetime
    created_by: str


def give(
    session: WriteSession,
    caller: Caller,
    *,
    principal: str | None,
    group: str | None,
    role: str,
    pattern: str,
) -> Grant:
    """Give it; what was given before is the same grant. Raises InvalidName, PrincipalNotFound or GroupNotFound."""
    check_pattern(pattern)
    if role not in ROLES:
        raise InvalidName(f"A role is one of {', '.join(ROLES)}.")
    if (principal is None) == (group is None):
        raise InvalidName("A grant is to a principal or to a group: name one of them.")
    if principal is not None:
        whom = {"principal_id": principals.grantee(session, caller, principal).id}
    else:
        whom = {"group_id": principals.group_row(session, caller, group or "").id}
    key = {"workspace_id": caller.workspace_id, **whom, "role": role, "pattern": pattern}
    same = [getattr(GrantRow, column) == value for column, value in key.items()]
    if not (found := _grants(session, caller, *same)):
        insert_or_ignore(session, GrantRow, key | {"created_by": caller.name})
        found = _grants(session, caller, *same)
        audit.record(session, caller, "grant.given", f"grants/{found[0].id}", _said(found[0]))
    return found[0]


def listed(session: ReadSession, caller: Caller) -> Sequence[Grant]:
    """The grants of this workspace, oldest first."""
    return _grants(session, caller)


def take(session: WriteSession, caller: Caller, grant: int) -> Grant:
    """Take it back. Raises GrantNotFound."""
    found = _grants(session, caller, GrantRow.id == grant)
    if not found:
        raise GrantNotFound(grant)
    session.execute(sa.delete(GrantRow).where(GrantRow.id == grant))
    audit.record(session, caller, "grant.taken", f"grants/{grant}", _said(found[0]))
    return found[0]


def _said(grant: Grant) -> dict[str, str | None]:
    return {
        "principal": grant.principal,
        "group": grant.group,
        "role": grant.role,
        "pattern": grant.pattern,
    }


def _grants(
    session: ReadSession | WriteSession, caller: Caller, *conditions: sa.ColumnElement[bool]
) -> list[Grant]:
    query = (
        sa.select(GrantRow, PrincipalRow.name, GroupRow.name)
        .outerjoin(PrincipalRow, PrincipalRow.id == GrantRow.principal_id)
        .outerjoin(GroupRow, GroupRow.id == GrantRow.group_id)
        .where(GrantRow.workspace_id == caller.workspace_id, *conditions)
        .order_by(GrantRow.id)
    )
    return [
        Grant(row.id, principal, group, row.role, row.pattern, row.created_at, row.created_by)
        for row, principal, group in session.execute(query)
    ]
