"""From a request to a Caller: whose token it is, and what that may do in the workspace that is asked.

    Authorization header ──parse, checksum──> id, secret ──HMAC──> token, principal, grants ──> Caller

What was found is remembered for REMEMBERED_S seconds, so that a revocation is heard of everywhere by then, in the middle
of an upload, too.
"""

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import sqlalchemy as sa

from registry import tokens
from registry.access import Caller, Right
from registry.access_tables import GrantRow, MembershipRow, PrincipalRow, TokenRow
from registry.database import Database, ReadSession, WriteSession, utc_now
from registry.errors import TooManyRequests, Unauthorized, WorkspaceNotFound
from registry.tables import WorkspaceRow

Session = ReadSession | WriteSession

REMEMBERED_S = 2.0
DEFAULT = "default"
ADMIN = "admin"
"""The name of whoever has the token that the registry was started with."""

_MANY = 10_000
_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class _Found:
    caller: Caller
    requests_per_minute: int | None
    until: float


class Identities:
    """Recognises callers. `key` is the registry's secret key, `token` one that opens everything."""

    def __init__(
        self,
        database: Database,
        key: bytes,
        token: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._key = key
        self._token = token
        self._clock = clock
        self._found: OrderedDict[tuple[str, str, str], _Found] = OrderedDict()
        self._spent: dict[tuple[str, int], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def caller(self, authorization: str | None, workspace: str, request_id: str) -> Caller:
        """Who makes a request. Raises Unauthorized, WorkspaceNotFound or TooManyRequests."""
        key = self._key_of(authorization, workspace)
        return self._count(self._remembered(key) or self._learn(key), request_id)

    def caller_at_once(self, authorization: str | None, workspace: str, request_id: str) -> Caller | None:
        """Who makes a request; None: that takes asking the database. Raises Unauthorized or TooManyRequests."""
        found = self._remembered(self._key_of(authorization, workspace))
        return self._count(found, request_id) if found is not None else None

    def remembered(self, authorization: str | None, workspace: str) -> Caller | None:
        """Who it is, as far as that is known without asking the database. Raises Unauthorized."""
        found = self._remembered(self._key_of(authorization, workspace))
        return found.caller if found is not None else None

    def known(self, authorization: str | None, workspace: str) -> Caller:
        """Who it is by now: no request is counted. Raises Unauthorized or WorkspaceNotFound."""
        return self._learn(self._key_of(authorization, workspace)).caller

    def _key_of(self, authorization: str | None, workspace: str) -> tuple[str, str, str]:
        token_id, secret = self._given(authorization)
        return token_id, tokens.digest(self._key, token_id, secret), workspace

    def _remembered(self, key: tuple[str, str, str]) -> _Found | None:
        with self._lock:
            found = self._found.get(key)
        return found if found is not None and found.until > self._clock() else None

    def _learn(self, key: tuple[str, str, str]) -> _Found:
        found = self._look_up(*key)
        with self._lock:
            self._found[key] = found
            self._found.move_to_end(key)
            if len(self._found) > _MANY:
                self._found.popitem(last=False)
        return found

    def _given(self, authorization: str | None) -> tuple[str, str]:
        scheme, _, given = (authorization or "")[:_LONGEST_HEADER].partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized()
        given = given.strip()
        if self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            return "", given
        parsed = tokens.parse(given)
        if parsed is None:
            raise _unauthorized()
        return parsed

    def _look_up(self, token_id: str, digest: str, workspace: str) -> _Found:
        until = self._clock() + REMEMBERED_S
        with self._database.read() as session:
            if token_id:
                row, owner, left = self._token_row(session, token_id, digest)
            place = session.scalar(sa.select(WorkspaceRow).where(WorkspaceRow.name == workspace))
            if place is None:
                raise WorkspaceNotFound(workspace)
            if not token_id:
                return _Found(Caller(ADMIN, workspace, place.id, administrator=True), None, until)
            caller = Caller(
                name=owner.name,
                workspace=workspace,
                workspace_id=place.id,
                token_id=row.id,
                scope=Right(row.role, row.pattern) if row.role and row.pattern else None,
            )
            # A token of another workspace is known here, but has no rights.
            if row.workspace_id in (None, place.id):
                rights = _rights(session, owner.id, place.id)
                caller = replace(caller, rights=rights, administrator=owner.administrator)
            if left is not None:
                until = min(until, self._clock() + left.total_seconds())
            return _Found(caller, place.max_requests_per_minute, until)

    def _token_row(
        self, session: ReadSession, token_id: str, digest: str
    ) -> tuple[TokenRow, PrincipalRow, timedelta | None]:
        query = (
            sa.select(TokenRow, PrincipalRow, utc_now())
            .join(PrincipalRow, PrincipalRow.id == TokenRow.principal_id)
            .where(TokenRow.id == token_id)
        )
        found = session.execute(query).first()
        if found is None:
            raise _unauthorized()
        row, owner, now = found
        if not hmac.compare_digest(row.digest, digest):
            raise _unauthorized()
        if row.revoked_at is not None or owner.disabled_at is not None:
            raise _unauthorized("This token was revoked.")
        if row.expires_at is not None and row.expires_at <= now:
            raise _unauthorized("This token has expired.")
        return row, owner, row.expires_at - now if row.expires_at is not None else None

    def _count(self, found: _Found, request_id: str) -> Caller:
        self._spend(found)
        return replace(found.caller, request_id=request_id)

    def _spend(self, found: _Found) -> None:
        """Count requests by the minute. Each registry process counts its own."""
        limit = found.requests_per_minute
        if limit is None:
            return
        now, who = self._clock(), (found.caller.name, found.caller.workspace_id)
        with self._lock:
            began, count = self._spent.get(who, (now, 0))
            if now - began >= 60:
                began, count = now, 0
            if len(self._spent) > _MANY:
                self._spent.clear()
            self._spent[who] = began, count + 1
        if count >= limit:
            raise TooManyRequests(
                f"More than {limit} requests a minute: that is the limit of this workspace.",
                retry_after_s=int(60 - (now - began)) + 1,
            )


def person(session: Session, name: str, workspace: str, workspace_id: int) -> Caller | None:
    """Somebody by name, with all the rights that they have by now; None: they are not let in any more."""
    if name == ADMIN:
        return Caller(ADMIN, workspace, workspace_id, administrator=True)
    row = session.scalar(sa.select(PrincipalRow).where(PrincipalRow.name == name))
    if row is None or row.disabled_at is not None:
        return None
    rights = _rights(session, row.id, workspace_id)
    return Caller(name, workspace, workspace_id, rights, administrator=row.administrator)


def _rights(session: Session, principal_id: int, workspace_id: int) -> tuple[Right, ...]:
    groups = sa.select(MembershipRow.group_id).where(MembershipRow.principal_id == principal_id)
    query = sa.select(GrantRow.role, GrantRow.pattern).where(
        GrantRow.workspace_id == workspace_id,
        sa.or_(GrantRow.principal_id == principal_id, GrantRow.group_id.in_(groups)),
    )
    return tuple(sorted({Right(role, pattern) for role, pattern in session.execute(query)}, key=str))


def _unauthorized(why: str = "This registry needs a token.") -> Unauthorized:
    return Unauthorized(f"{why} Send one as `Authorization: Bearer …`, or `modelyard login`.")
