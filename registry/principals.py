"""People, robots, and the groups that they are in.

    administrator             looks after everybody
    admin of a workspace      makes robots and groups there; people of the whole registry become members

Nobody is ever removed: their names stand in history. Who is disabled has no way in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from registry import audit
from registry.access import SYSTEM, Caller, Permission
from registry.access_tables import GroupRow, MembershipRow, PrincipalRow
from registry.database import ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.domain import check_principal_name
from registry.errors import Forbidden, GroupNotFound, InvalidName, NameTaken, PrincipalNotFound
from registry.identify import ADMIN
from registry.tables import WorkspaceRow
from registry.tokens import require_charge

Kind = Literal["person", "robot"]
RESERVED = {SYSTEM, ADMIN}


@dataclass(frozen=True, slots=True)
class Principal:
    """`workspace`: whose admins look after it; None: administrators of the registry do."""

    name: str
    kind: str
    administrator: bool
    workspace: str | None
    disabled: bool
    groups: Sequence[str]
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    members: Sequence[str]
    created_at: datetime
    created_by: str


def create(
    session: WriteSession,
    caller: Caller,
    name: str,
    kind: Kind,
    *,
    administrator: bool,
    identity: tuple[str, str] | None = None,
) -> Principal:
    """Make a person (administrators only) or a robot. Raises InvalidName, NameTaken or Forbidden.

    `identity`: a person's issuer and subject, for logging in with an identity provider.
    """
    check_principal_name(name)
    everywhere = caller.permits(Permission.ADMINISTER)
    if (kind == "person" or administrator) and not everywhere:
        raise Forbidden("Only an administrator of the registry makes people and other administrators.")
    if identity is not None and kind != "person":
        raise InvalidName("Robots do not log in with an identity provider: see trusted publishers.")
    if name.lower() in RESERVED:
        raise NameTaken(f"{name!r} is a name that the registry itself uses.")
    row = PrincipalRow(
        name=name,
        kind=kind,
        administrator=administrator,
        workspace_id=None if kind == "person" or administrator else caller.workspace_id,
        issuer=identity[0] if identity else None,
        subject=identity[1] if identity else None,
        created_by=caller.name,
    )
    try:
        session.add(row)
        session.flush()
    except sa.exc.IntegrityError as error:
        raise NameTaken(f"The name {name!r}, or this identity, is taken.") from error
    said: dict[str, Any] = {"kind": kind, "administrator": administrator}
    if identity is not None:
        said |= {"issuer": identity[0], "subject": identity[1]}
    audit.record(session, caller, "principal.created", f"principals/{name}", said)
    return get(session, caller, name)


def listed(session: ReadSession, caller: Caller) -> Sequence[Principal]:
    """Whom the caller looks after, by name; and who else is in a group of the workspace."""
    query = _query()
    if not caller.permits(Permission.ADMINISTER):
        members = (
            sa.select(MembershipRow.principal_id)
            .join(GroupRow, GroupRow.id == MembershipRow.group_id)
            .where(GroupRow.workspace_id == caller.workspace_id)
        )
        query = query.where(
            sa.or_(PrincipalRow.workspace_id == caller.workspace_id, PrincipalRow.id.in_(members))
        )
    return _principals(session, caller, query)


def get(session: ReadSession | WriteSession, caller: Caller, name: str) -> Principal:
    """One that the caller looks after. Raises PrincipalNotFound."""
    require_charge(caller, row(session, name))
    return _principals(session, caller, _query().where(PrincipalRow.name == name))[0]


def set_disabled(session: WriteSession, caller: Caller, name: str, *, disabled: bool) -> Principal:
    """Shut somebody out, or let them in again; their tokens with them. Raises PrincipalNotFound or Forbidden."""
    found = row(session, name)
    require_charge(caller, found)
    if found.name == caller.name:
        raise Forbidden("Nobody can shut themselves out: ask another admin.")
    if disabled != (found.disabled_at is not None):
        found.disabled_at = session.scalars(sa.select(utc_now())).one() if disabled else None
        session.flush()
        action = "principal.disabled" if disabled else "principal.enabled"
        audit.record(session, caller, action, f"principals/{name}")
    return get(session, caller, name)


def create_group(session: WriteSession, caller: Caller, name: str) -> Group:
    """Raises InvalidName or NameTaken."""
    check_principal_name(name)
    group = GroupRow(workspace_id=caller.workspace_id, name=name, created_by=caller.name)
    try:
        session.add(group)
        session.flush()
    except sa.exc.IntegrityError as error:
        raise NameTaken(f"There is a group {name!r} already.") from error
    audit.record(session, caller, "group.created", f"groups/{name}")
    return Group(name, [], group.created_at, group.created_by)


def groups(session: ReadSession, caller: Caller) -> Sequence[Group]:
    """The groups of the workspace with their members, by name."""
    query = sa.select(GroupRow).where(GroupRow.workspace_id == caller.workspace_id).order_by(GroupRow.name)
    return [_group_of(session, found) for found in session.scalars(query)]


def delete_group(session: WriteSession, caller: Caller, name: str) -> None:
    """Remove a group with its grants. Raises GroupNotFound."""
    session.delete(group_row(session, caller, name))
    session.flush()
    audit.record(session, caller, "group.deleted", f"groups/{name}")


def add_member(session: WriteSession, caller: Caller, group: str, principal: str) -> Group:
    """Raises GroupNotFound or PrincipalNotFound. Who is in it already stays in it."""
    found = group_row(session, caller, group)
    member = grantee(session, caller, principal)
    membership = session.get(MembershipRow, (found.id, member.id))
    if membership is None or membership.issuer is not None:
        insert_or_ignore(session, MembershipRow, {"group_id": found.id, "principal_id": member.id})
        session.get_one(MembershipRow, (found.id, member.id)).issuer = None
        audit.record(session, caller, "group.joined", f"groups/{group}", {"principal": principal})
    return _group_of(session, found)


def remove_member(session: WriteSession, caller: Caller, group: str, principal: str) -> Group:
    """Raises GroupNotFound or PrincipalNotFound. Who is not in it stays out of it."""
    found = group_row(session, caller, group)
    member = grantee(session, caller, principal)
    if (membership := session.get(MembershipRow, (found.id, member.id))) is not None:
        session.delete(membership)
        session.flush()
        audit.record(session, caller, "group.left", f"groups/{group}", {"principal": principal})
    return _group_of(session, found)


def row(session: ReadSession | WriteSession, name: str) -> PrincipalRow:
    """Raises PrincipalNotFound."""
    found = session.scalar(sa.select(PrincipalRow).where(PrincipalRow.name == name))
    if found is None:
        raise PrincipalNotFound(f"There is no person or robot {name!r}.")
    return found


def grantee(session: ReadSession | WriteSession, caller: Caller, name: str) -> PrincipalRow:
    """Somebody who can have rights in this workspace: everybody but robots of other workspaces. Raises PrincipalNotFound."""
    found = row(session, name)
    if found.workspace_id not in (None, caller.workspace_id):
        raise PrincipalNotFound(f"There is no person or robot {name!r}.")
    return found


def group_row(session: ReadSession | WriteSession, caller: Caller, name: str) -> GroupRow:
    """Raises GroupNotFound."""
    query = sa.select(GroupRow).where(GroupRow.workspace_id == caller.workspace_id, GroupRow.name == name)
    found = session.scalar(query)
    if found is None:
        raise GroupNotFound(name)
    return found


def _query() -> sa.Select[PrincipalRow, str | None]:
    return (
        sa.select(PrincipalRow, WorkspaceRow.name)
        .outerjoin(WorkspaceRow, WorkspaceRow.id == PrincipalRow.workspace_id)
        .order_by(PrincipalRow.name)
    )


def _principals(
    session: ReadSession | WriteSession, caller: Caller, query: sa.Select[PrincipalRow, str | None]
) -> list[Principal]:
    found = session.execute(query).all()
    memberships = (
        sa.select(MembershipRow.principal_id, GroupRow.name)
        .join(GroupRow, GroupRow.id == MembershipRow.group_id)
        .where(GroupRow.workspace_id == caller.workspace_id)
        .where(MembershipRow.principal_id.in_([principal.id for principal, _ in found]))
        .order_by(GroupRow.name)
    )
    of: dict[int, list[str]] = {}
    for principal_id, group in session.execute(memberships):
        of.setdefault(principal_id, []).append(group)
    return [
        Principal(
            name=principal.name,
            kind=principal.kind,
            administrator=principal.administrator,
            workspace=workspace,
            disabled=principal.disabled_at is not None,
            groups=of.get(principal.id, []),
            created_at=principal.created_at,
            created_by=principal.created_by,
        )
        for principal, workspace in found
    ]


def _group_of(session: ReadSession | WriteSession, group: GroupRow) -> Group:
    members = (
        sa.select(PrincipalRow.name)
        .join(MembershipRow, MembershipRow.principal_id == PrincipalRow.id)
        .where(MembershipRow.group_id == group.id)
        .order_by(PrincipalRow.name)
    )
    return Group(group.name, session.scalars(members).all(), group.created_at, group.created_by)
