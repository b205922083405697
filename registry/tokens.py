"""API tokens: how they look, how they are made, and how they are recognised.

    myd_ <id: 16> _ <secret: 40> <checksum: 7>        base32, lower case: 80, 200 and 35 bits

The prefix lets scanners find a leaked token, the checksum lets a mistyped one be refused without asking the database. The
database keeps the id and an HMAC of the secret under a key that is not in it: whoever reads the table has no token.
"""

import base64
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from registry import audit
from registry.access import ROLES, Caller, Permission, check_pattern, require
from registry.access_tables import PrincipalRow, TokenRow
from registry.database import ReadSession, WriteSession, utc_now
from registry.errors import Forbidden, InvalidName, PrincipalNotFound, TokenNotFound
from registry.tables import WorkspaceRow

PREFIX = "myd_"
DAY_S = 24 * 3600.0
LIFETIME_S = 90 * DAY_S
"""Of a token for which nothing else was asked."""
LONGEST_S = 3650 * DAY_S

_ID, _SECRET, _CHECKSUM = 16, 40, 7


@dataclass(frozen=True, slots=True)
class Token:
    """What anybody may know of a token."""

    id: str
    principal: str
    kind: str
    name: str
    last4: str
    workspace: str | None
    role: str | None
    pattern: str | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new token is to allow: at most this role, for models that match, in this workspace; None: no limit of its own."""

    name: str
    kind: str = "token"
    workspace_id: int | None = None
    role: str | None = None
    pattern: str | None = None
    lifetime_s: float | None = LIFETIME_S


def parse(token: str) -> tuple[str, str] | None:
    """Id and secret of something that looks like a token; None if it cannot be one."""
    whole = len(PREFIX) + _ID + 1 + _SECRET + _CHECKSUM
    if len(token) != whole or not token.isascii() or not token.startswith(PREFIX):
        return None
    body, checksum = token[:-_CHECKSUM], token[-_CHECKSUM:]
    if _checksum(body) != checksum or body[len(PREFIX) + _ID] != "_":
        return None
    return body[len(PREFIX) : len(PREFIX) + _ID], body[len(PREFIX) + _ID + 1 :]


def digest(key: bytes, token_id: str, secret: str) -> str:
    """What the database keeps."""
    return hmac.new(key, f"modelyard token {token_id} {secret}".encode(), hashlib.sha256).hexdigest()


def issue(
    session: WriteSession, key: bytes, principal: PrincipalRow, wanted: Wanted, *, created_by: str
) -> tuple[str, Token]:
    """Make a token of a principal; the token itself is told only now. Raises InvalidName."""
    if wanted.pattern is not None:
        check_pattern(wanted.pattern)
    if wanted.role is not None and wanted.role not in ROLES:
        raise InvalidName(f"A role is one of {', '.join(ROLES)}.")
    token_id, secret = _random(_ID), _random(_SECRET)
    now = session.scalars(sa.select(utc_now())).one()
    row = TokenRow(
        id=token_id,
        principal_id=principal.id,
        workspace_id=wanted.workspace_id,
        kind=wanted.kind,
        name=wanted.name,
        digest=digest(key, token_id, secret),
        last4=secret[-4:],
        role=wanted.role or ("admin" if wanted.pattern else None),
        pattern=wanted.pattern or ("*" if wanted.role else None),
        created_at=now,
        created_by=created_by,
        expires_at=now + timedelta(seconds=wanted.lifetime_s) if wanted.lifetime_s is not None else None,
    )
    session.add(row)
    session.flush()
    body = f"{PREFIX}{token_id}_{secret}"
    workspace = session.get(WorkspaceRow, wanted.workspace_id) if wanted.workspace_id is not None else None
    return body + _checksum(body), _token_of(row, principal.name, workspace.name if workspace else None)


def create(
    session: WriteSession, key: bytes, caller: Caller, wanted: Wanted, principal: str | None
) -> tuple[str, Token]:
    """Make a token for the caller, or, as an admin, for somebody else. Raises Forbidden, PrincipalNotFound or InvalidName."""
    # Else a token for reading could make one for everything.
    if caller.scope is not None:
        raise Forbidden("A token that is limited to a role or pattern cannot make tokens.")
    owner = session.scalar(sa.select(PrincipalRow).where(PrincipalRow.name == (principal or caller.name)))
    if principal is not None and principal != caller.name:
        require_charge(caller, owner)
    if owner is None:
        raise PrincipalNotFound(
            "This caller has no account that tokens could belong to. Name a person or robot with `principal`."
        )
    token, told = issue(session, key, owner, wanted, created_by=caller.name)
    said = {"principal": told.principal, "name": told.name, "role": told.role, "pattern": told.pattern}
    audit.record(session, caller, "token.created", f"tokens/{told.id}", said)
    return token, told


def listed(session: ReadSession, caller: Caller, *, everybody: bool) -> Sequence[Token]:
    """The caller's tokens that are still good, or (for an admin) those of all who are in its charge. Newest first."""
    query = (
        sa.select(TokenRow, PrincipalRow.name, WorkspaceRow.name)
        .join(PrincipalRow, PrincipalRow.id == TokenRow.principal_id)
        .outerjoin(WorkspaceRow, WorkspaceRow.id == TokenRow.workspace_id)
        .where(
            TokenRow.revoked_at.is_(None),
            sa.or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > utc_now()),
        )
        .order_by(TokenRow.created_at.desc(), TokenRow.id)
    )
    if not everybody:
        query = query.where(PrincipalRow.name == caller.name)
    elif not caller.permits(Permission.ADMINISTER):
        require(caller, Permission.ADMIN)
        query = query.where(PrincipalRow.workspace_id == caller.workspace_id)
    return [_token_of(row, principal, workspace) for row, principal, workspace in session.execute(query)]


def revoke(session: WriteSession, caller: Caller, token_id: str) -> Token:
    """End a token of one's own, or, as an admin, one of somebody else. Raises TokenNotFound. Again: nothing happens."""
    row = session.get(TokenRow, token_id, with_for_update=True)
    owner = session.get(PrincipalRow, row.principal_id) if row is not None else None
    if row is None or owner is None:
        raise TokenNotFound(token_id)
    if owner.name != caller.name:
        try:
            require_charge(caller, owner)
        except (Forbidden, PrincipalNotFound) as error:
            raise TokenNotFound(token_id) from error
    if row.revoked_at is None:
        row.revoked_at = session.scalars(sa.select(utc_now())).one()
        row.revoked_by = caller.name
        session.flush()
        audit.record(session, caller, "token.revoked", f"tokens/{row.id}", {"principal": owner.name})
    workspace = session.get(WorkspaceRow, row.workspace_id) if row.workspace_id is not None else None
    return _token_of(row, owner.name, workspace.name if workspace else None)


def require_charge(caller: Caller, principal: PrincipalRow | None) -> None:
    """Raise unless the caller looks after this principal: an administrator, or an admin of the workspace it belongs to."""
    if caller.permits(Permission.ADMINISTER):
        return
    require(caller, Permission.ADMIN)
    if principal is None or principal.workspace_id != caller.workspace_id or principal.administrator:
        raise PrincipalNotFound("There is no such person or robot in the charge of this workspace.")


def _token_of(row: TokenRow, principal: str, workspace: str | None) -> Token:
    return Token(
        id=row.id,
        principal=principal,
        kind=row.kind,
        name=row.name,
        last4=row.last4,
        workspace=workspace,
        role=row.role,
        pattern=row.pattern,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _random(characters: int) -> str:
    return base64.b32encode(secrets.token_bytes(characters * 5 // 8)).decode().lower()


def _checksum(body: str) -> str:
    return base64.b32encode(zlib.crc32(body.encode()).to_bytes(5, "big"))[1:].decode().lower()
