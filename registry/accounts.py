"""What logging in needs of principals: who has this password or identity, and a token for whoever has proven it.

Nothing here is audited: the verbs are (login.py, browser_login.py, exchange.py).
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import sqlalchemy as sa

from registry import principals, tokens
from registry.access_tables import GroupRow, MembershipRow, PrincipalRow, TokenRow
from registry.bootstrap import LOCAL
from registry.database import ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.domain import check_principal_name
from registry.errors import NameTaken, PrincipalNotFound, Unauthorized
from registry.identify import DEFAULT
from registry.tables import WorkspaceRow

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, its id, whose it is, and for how many seconds it is good."""

    token: str = field(repr=False)
    token_id: str
    principal: str
    lifetime_s: int


def issue(session: WriteSession, key: bytes, principal: PrincipalRow, wanted: tokens.Wanted) -> Issued:
    """Raises Unauthorized when the principal was shut out."""
    if principal.disabled_at is not None:
        raise Unauthorized("This account is disabled. An administrator can enable it.")
    token, told = tokens.issue(session, key, principal, wanted, created_by=principal.name)
    return Issued(token, told.id, principal.name, int(wanted.lifetime_s or 0))


def end_sessions(session: WriteSession, person: PrincipalRow, *, by: str) -> None:
    """Revoke what came of logging in, but no tokens that were made for something."""
    theirs = sa.update(TokenRow).where(TokenRow.principal_id == person.id, TokenRow.kind == "session")
    session.execute(theirs.where(TokenRow.revoked_at.is_(None)).values(revoked_at=utc_now(), revoked_by=by))


def person_of(session: Session, name: str) -> PrincipalRow:
    """Raises PrincipalNotFound; robots have tokens, and neither passwords nor browsers."""
    found = principals.row(session, name)
    if found.kind != "person":
        raise PrincipalNotFound(f"{name!r} is a robot, not a person.")
    return found


def password_hash(session: Session, name: str) -> str | None:
    """What is kept of this person's password; None for nobody, and for whoever has none."""
    query = sa.select(PrincipalRow.password_hash).where(
        PrincipalRow.name == name, PrincipalRow.kind == "person"
    )
    kept: str | None = session.scalar(query)
    return kept


def by_identity(session: Session, issuer: str, subject: str) -> PrincipalRow | None:
    """Whom this issuer calls `subject`."""
    query = sa.select(PrincipalRow).where(
        PrincipalRow.issuer == issuer, PrincipalRow.subject == subject, PrincipalRow.kind == "person"
    )
    return session.scalar(query)


def create_person(session: WriteSession, name: str, issuer: str, subject: str) -> PrincipalRow:
    """Somebody new, without any rights. Raises NameTaken or InvalidName; then nothing has changed."""
    check_principal_name(name)
    if name.lower() in {*principals.RESERVED, LOCAL}:
        raise NameTaken(f"{name!r} is a name that the registry itself uses.")
    row = PrincipalRow(name=name, kind="person", issuer=issuer, subject=subject, created_by=name)
    try:
        with session.begin_nested():
            session.add(row)
    except sa.exc.IntegrityError as error:
        raise NameTaken(f"The name {name!r} is taken.") from error
    return row


def set_groups(
    session: WriteSession, person: PrincipalRow, issuer: str, wanted: AbstractSet[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Of the memberships that `issuer` stands for, have exactly these: groups in the default workspace, or `workspace/group`.

    Returns which were joined and left. Groups that there are not are left out, what admins have added stays.
    """
    query = sa.select(GroupRow.id, WorkspaceRow.name, GroupRow.name).join(
        WorkspaceRow, WorkspaceRow.id == GroupRow.workspace_id
    )
    known = {id_: f"{workspace}/{group}" for id_, workspace, group in session.execute(query)}
    full = {name if "/" in name else f"{DEFAULT}/{name}" for name in wanted}
    theirs = sa.select(MembershipRow).where(MembershipRow.principal_id == person.id)
    member = {row.group_id: row for row in session.scalars(theirs)}
    joined = [id_ for id_, name in known.items() if name in full and id_ not in member]
    left = [id_ for id_, row in member.items() if row.issuer == issuer and known[id_] not in full]
    for id_ in left:
        session.delete(member[id_])
    new = [{"group_id": id_, "principal_id": person.id, "issuer": issuer} for id_ in joined]
    insert_or_ignore(session, MembershipRow, *new)
    return sorted(known[id_] for id_ in joined), sorted(known[id_] for id_ in left)
