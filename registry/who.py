"""Whom a policy means: role:owner, group:risk, principal:kim."""

from collections.abc import Sequence

import sqlalchemy as sa

from registry.access import ROLES, Caller, matches
from registry.access_tables import GroupRow, MembershipRow, PrincipalRow
from registry.database import ReadSession, WriteSession

Session = ReadSession | WriteSession


def is_one_of(session: Session, caller: Caller, who: Sequence[str], model: str) -> bool:
    """Whether the caller is meant; nobody listed: everybody is."""
    return not who or any(_is(session, caller, each, model) for each in who)


def _is(session: Session, caller: Caller, who: str, model: str) -> bool:
    kind, _, name = who.partition(":")
    if kind == "role":
        return _has_role(caller, name, model)
    return caller.name == name if kind == "principal" else name in _groups(session, caller)


def _has_role(caller: Caller, role: str, model: str) -> bool:
    """Whether what the role may, the caller may: by one grant, and by the token."""
    rights = [right for right in caller.rights if matches(model, right.pattern)]
    held = caller.administrator or any(ROLES[right.role] >= ROLES[role] for right in rights)
    return held and (caller.scope is None or ROLES[caller.scope.role] >= ROLES[role])


def _groups(session: Session, caller: Caller) -> Sequence[str]:
    query = (
        sa.select(GroupRow.name)
        .join(MembershipRow, MembershipRow.group_id == GroupRow.id)
        .join(PrincipalRow, PrincipalRow.id == MembershipRow.principal_id)
        .where(PrincipalRow.name == caller.name, GroupRow.workspace_id == caller.workspace_id)
    )
    return session.scalars(query).all()
