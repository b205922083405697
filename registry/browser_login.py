"""Logging in with an identity provider, in a browser, on behalf of a command line that listens on loopback.

    command line ──1──> registry ──2──> identity provider     1  challenge, state, where to come back to
                                              │               2  a challenge, state and nonce of the registry's own
    command line <──4── registry <──3─────────┘               3  code; the registry exchanges it for an ID token
         └──────5──────────^                                  4  a code of the registry's own; 5 exchanged with the verifier

As RFC 8252 has it for native apps; what the provider is asked is in oidc_client.py. Every secret is used once, within
minutes, and the database has only its digest; the browser that comes back must be the one that began (its cookie), or
somebody could have another's login end at their own command line.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from registry import accounts, attempts, audit, oidc_client
from registry.access import Caller
from registry.access_tables import PrincipalRow
from registry.accounts import Issued
from registry.database import Database, WriteSession, utc_now
from registry.errors import InvalidInput, LoginExpired, RegistryError
from registry.login import SESSION_S
from registry.login_tables import BrowserLoginRow, LoginCodeRow
from registry.oidc import Identity, Providers
from registry.oidc_keys import Provider
from registry.people import enter
from registry.settings import Issuer
from registry.tokens import Wanted

LOGIN_S = 600
CODE_S = 60

# One path, a port that needs no rights, and numbers: the name "localhost" may lead elsewhere (RFC 8252, 8.3).
_REDIRECT = re.compile(r"http://(127\.0\.0\.1|\[::1\]):(?P<port>[1-9][0-9]{3,4})/modelyard/login", re.ASCII)
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
_STATE = re.compile(r"[A-Za-z0-9._~-]{16,128}", re.ASCII)

log = logging.getLogger("modelyard.registry")

Row = TypeVar("Row", BrowserLoginRow, LoginCodeRow)


@dataclass(frozen=True, slots=True)
class Client:
    """The command line that began: where it listens, what it shall hear again, the challenge to its verifier."""

    redirect_uri: str
    state: str
    challenge: str
    address: str


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send the browser, and what it must bring back as a cookie. Both are good for LOGIN_S seconds."""

    url: str = field(repr=False)
    cookie_name: str
    cookie: str = field(repr=False)


def begin(database: Database, provider: Provider, callback: str, client: Client) -> Begun:
    """Step 1. Raises InvalidInput, TooManyAttempts or IssuerUnavailable."""
    _check(client)
    state, cookie, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
    page = oidc_client.page(provider, callback, state=state, nonce=nonce, verifier=verifier)
    with database.write() as session:
        attempts.count_beginning(session, client.address)
        row = BrowserLoginRow(
            state=_digest(state),
            browser=_digest(cookie),
            issuer=provider.issuer.name,
            nonce=nonce,
            verifier=verifier,
            redirect_uri=client.redirect_uri,
            client_state=client.state,
            challenge=client.challenge,
            expires_at=_now(session) + timedelta(seconds=LOGIN_S),
        )
        session.add(row)
    return Begun(page, cookie_name(state), cookie)


def finish(
    database: Database,
    providers: Providers,
    stranger: Caller,
    callback: str,
    answer: Mapping[str, str],
    cookies: Mapping[str, str],
) -> str:
    """Step 3: where to send the browser next. Raises LoginExpired; other failures are told to the command line."""
    state = answer.get("state", "")
    with database.write() as session:
        # Taken before anything else is done with it: the same answer cannot come twice.
        login = _take(session, BrowserLoginRow, BrowserLoginRow.state == _digest(state))
    cookie = cookies.get(cookie_name(state), "")
    if login is None or not hmac.compare_digest(login.browser, _digest(cookie)):
        raise LoginExpired
    try:
        provider = providers.named(login.issuer)
        identity = oidc_client.identity_of(
            provider, callback, answer, nonce=login.nonce, verifier=login.verifier
        )
        told = {"code": _code(database, stranger, provider.issuer, identity, login)}
    except RegistryError as error:
        log.warning("nobody logged in with %r: %s", login.issuer, error)
        told = {"error": error.code, "error_description": str(error)}
    return oidc_client.with_query(login.redirect_uri, {**told, "state": login.client_state})


def redeem(
    database: Database, key: bytes, stranger: Caller, *, code: str, verifier: str, redirect_uri: str
) -> Issued:
    """Step 5. Raises LoginExpired, or Unauthorized when the right person was shut out."""
    with database.write() as session:
        # Whoever has the code but not the verifier has found it somewhere: it is of no use to anybody any more.
        found = _take(session, LoginCodeRow, LoginCodeRow.code == _digest(code))
    if (
        found is None
        or not _VERIFIER.fullmatch(verifier)
        or not hmac.compare_digest(found.challenge, oidc_client.challenge_of(verifier))
        or found.redirect_uri != redirect_uri
    ):
        raise LoginExpired
    with database.write() as session:
        person = session.get_one(PrincipalRow, found.principal_id)
        wanted = Wanted(name=f"login with {found.issuer}", kind="session", lifetime_s=SESSION_S)
        issued = accounts.issue(session, key, person, wanted)
        said, actor = {"how": found.issuer}, replace(stranger, name=person.name)
        audit.record(session, actor, "session.created", f"tokens/{issued.token_id}", said, workspace="")
    return issued


def cookie_name(state: str) -> str:
    """Each login has a cookie of its own, so that two can be under way in one browser."""
    return f"modelyard_login_{_digest(state)[:16]}"


def _code(
    database: Database, stranger: Caller, issuer: Issuer, identity: Identity, login: BrowserLoginRow
) -> str:
    code = secrets.token_urlsafe(32)
    with database.write() as session:
        person = enter(session, stranger, issuer, identity)
        row = LoginCodeRow(
            code=_digest(code),
            principal_id=person.id,
            issuer=issuer.name,
            redirect_uri=login.redirect_uri,
            challenge=login.challenge,
            expires_at=_now(session) + timedelta(seconds=CODE_S),
        )
        session.add(row)
    return code


def _check(client: Client) -> None:
    found = _REDIRECT.fullmatch(client.redirect_uri)
    if not found or not 1024 <= int(found["port"]) <= 65535:
        raise InvalidInput("redirect_uri must be http://127.0.0.1:PORT/modelyard/login (or [::1]).")
    if not _STATE.fullmatch(client.state) or not _CHALLENGE.fullmatch(client.challenge):
        raise InvalidInput("state and code_challenge (S256) are not what a command line sends.")


def _take(session: WriteSession, table: type[Row], which: sa.ColumnElement[bool]) -> Row | None:
    """Remove the row and return it, if its time is not over."""
    row = session.scalar(sa.select(table).where(which).with_for_update())
    if row is None:
        return None
    session.delete(row)
    return row if row.expires_at > _now(session) else None


def _now(session: WriteSession) -> Any:
    return session.scalars(sa.select(utc_now())).one()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
