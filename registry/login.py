"""Logging in with a name and a password.

    counted ──> hash looked up ──> password checked, at the same cost for an unknown name ──> forgiven, session token

No transaction is open while a password is hashed: that takes long enough for others to wait.
"""

import logging
from dataclasses import dataclass, replace

from registry import accounts, attempts, audit
from registry.access import Caller
from registry.access_tables import PrincipalRow
from registry.accounts import Issued
from registry.attempts import Counted
from registry.database import Database, WriteSession
from registry.errors import WrongCredentials
from registry.passwords import hash_password, needs_rehash, verify_password
from registry.tokens import Wanted

SESSION_S = 12 * 3600
_LONGEST_NAME = 128

log = logging.getLogger("modelyard.registry")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody says who they are, and from where."""

    name: str
    password: str
    address: str


@dataclass(frozen=True, slots=True)
class _Proven:
    kept: str
    counted: Counted


def log_in(database: Database, key: bytes, stranger: Caller, given: Credentials) -> Issued:
    """Raises WrongCredentials, TooManyAttempts, or Unauthorized when the right person was shut out."""
    proven = _prove(database, stranger, given)
    renewed = hash_password(given.password, given.name) if needs_rehash(proven.kept) else None
    with database.write() as session:
        person = _settle(session, proven, given)
        person.password_hash = renewed or person.password_hash
        wanted = Wanted(name="login with a password", kind="session", lifetime_s=SESSION_S)
        issued = accounts.issue(session, key, person, wanted)
        said = {"how": "password"}
        audit.record(
            session, _as(stranger, person), "session.created", f"tokens/{issued.token_id}", said, workspace=""
        )
    return issued


def change_password(database: Database, stranger: Caller, given: Credentials, new: str) -> None:
    """Whoever knows the password sets another one, which ends all sessions. Raises as log_in does, and InvalidPassword."""
    proven = _prove(database, stranger, given)
    kept = hash_password(new, given.name)
    with database.write() as session:
        person = _settle(session, proven, given)
        _replace(session, _as(stranger, person), person, kept)


def set_password(database: Database, operator: Caller, name: str, new: str) -> None:
    """Give a person a password, which ends all sessions. Raises InvalidPassword or PrincipalNotFound."""
    kept = hash_password(new, name)
    with database.write() as session:
        _replace(session, operator, accounts.person_of(session, name), kept)


def _prove(database: Database, stranger: Caller, given: Credentials) -> _Proven:
    with database.write() as session:
        counted = attempts.count_attempt(session, given.name, given.address)
    kept = None
    if 1 <= len(given.name) <= _LONGEST_NAME and given.name.isprintable():
        with database.read() as session:
            kept = accounts.password_hash(session, given.name)
    if not verify_password(kept, given.password) or kept is None:
        # The name is not logged: it may be a password that went into the wrong field.
        log.warning("request %s: wrong password, from %s", stranger.request_id, given.address)
        raise WrongCredentials
    return _Proven(kept, counted)


def _settle(session: WriteSession, proven: _Proven, given: Credentials) -> PrincipalRow:
    """The person, if the password that was checked is still theirs; then the attempt was none."""
    person = accounts.person_of(session, given.name)
    if person.password_hash != proven.kept:
        raise WrongCredentials
    attempts.forgive(session, proven.counted, given.name, given.address)
    return person


def _replace(session: WriteSession, actor: Caller, person: PrincipalRow, kept: str) -> None:
    person.password_hash = kept
    accounts.end_sessions(session, person, by=actor.name)
    audit.record(session, actor, "password.changed", f"principals/{person.name}", workspace="")


def _as(stranger: Caller, person: PrincipalRow) -> Caller:
    return replace(stranger, name=person.name)
