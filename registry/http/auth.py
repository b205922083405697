"""Logging in: how somebody without a token gets one. None of this asks for a token; all of it works in threads of its own.

Hashing a password holds a core, an identity provider may take seconds: neither must use up the threads that answer others.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from registry import browser_login, login
from registry.accounts import Issued
from registry.exchange import exchange
from registry.http import auth_schemas as schemas
from registry.http.address import Address
from registry.http.deps import Config, Db, Issuers, SecretKey, Stranger
from registry.http.strict import StrictRoute
from registry.login import Credentials
from registry.settings import Issuer, Settings

router = APIRouter(prefix="/api/v1/auth", tags=["log in"], route_class=StrictRoute)

CALLBACK = "/api/v1/auth/oidc/callback"
REDIRECT: dict[int | str, dict[str, Any]] = {303: {"description": "Where the browser goes next."}}

T = TypeVar("T")
Text = Annotated[str, Query(max_length=256)]

_hashing = anyio.CapacityLimiter(4)
_asking = anyio.CapacityLimiter(16)


@router.get("/methods", response_model=schemas.Methods)
def methods(settings: Config, _stranger: Stranger) -> schemas.Methods:
    """How one can log in here."""
    return schemas.Methods(
        password=True, issuers=[_offer(each, settings.public_url) for each in settings.oidc]
    )


@router.post("/password", response_model=schemas.SessionToken)
async def log_in(
    body: schemas.PasswordLogin, database: Db, key: SecretKey, stranger: Stranger, address: Address
) -> schemas.SessionToken:
    """Exchange a name and a password for a session token. Too many failures: 429, with `Retry-After`."""
    given = Credentials(body.name, body.password, address)
    return _answer(await _in_thread(partial(login.log_in, database, key, stranger, given), _hashing))


@router.put("/password", status_code=204)
async def change_password(
    body: schemas.PasswordChange, database: Db, stranger: Stranger, address: Address
) -> Response:
    """Replace a password by another one. All sessions end."""
    given = Credentials(body.name, body.password, address)
    await _in_thread(partial(login.change_password, database, stranger, given, body.new_password), _hashing)
    return Response(status_code=204)


@router.post("/exchange", response_model=schemas.SessionToken)
async def exchange_token(
    body: schemas.TokenExchange, database: Db, key: SecretKey, issuers: Issuers, stranger: Stranger
) -> schemas.SessionToken:
    """Exchange the identity token of a CI job for a token of the robot whose trusted publisher it is, once."""
    act = partial(exchange, database, key, issuers, stranger, body.token, body.principal)
    return _answer(await _in_thread(act, _asking))


@router.get("/oidc/{name}/start", status_code=303, responses=REDIRECT, response_class=RedirectResponse)
async def begin_browser_login(
    name: str,
    redirect_uri: Text,
    state: Text,
    code_challenge: Text,
    database: Db,
    issuers: Issuers,
    settings: Config,
    address: Address,
    _stranger: Stranger,
) -> RedirectResponse:
    """Begin a login in a browser, for a command line that listens at `redirect_uri` on loopback."""
    callback = callback_url(settings)
    client = browser_login.Client(redirect_uri, state, code_challenge, address)
    act = partial(browser_login.begin, database, issuers.named(name), callback, client)
    begun = await _in_thread(act, _asking)
    answer = _redirect(begun.url)
    answer.set_cookie(
        begun.cookie_name,
        begun.cookie,
        max_age=browser_login.LOGIN_S,
        path=urlsplit(callback).path,
        secure=callback.startswith("https:"),
        httponly=True,
        samesite="lax",
    )
    return answer


@router.get("/oidc/callback", status_code=303, responses=REDIRECT, response_class=RedirectResponse)
async def finish_browser_login(
    request: Request, database: Db, issuers: Issuers, settings: Config, stranger: Stranger
) -> RedirectResponse:
    """Where the identity provider sends the browser back to; it goes on to the command line."""
    callback, answer = callback_url(settings), dict(request.query_params)
    act = partial(browser_login.finish, database, issuers, stranger, callback, answer, dict(request.cookies))
    to_command_line = _redirect(await _in_thread(act, _asking))
    name = browser_login.cookie_name(answer["state"])
    to_command_line.delete_cookie(name, path=urlsplit(callback).path)
    return to_command_line


@router.post("/oidc/token", response_model=schemas.SessionToken)
async def finish_command_line_login(
    body: schemas.CodeExchange, database: Db, key: SecretKey, stranger: Stranger
) -> schemas.SessionToken:
    """Exchange what the browser brought to the command line for a session token, once."""
    act = partial(browser_login.redeem, database, key, stranger, code=body.code)
    act = partial(act, verifier=body.code_verifier, redirect_uri=body.redirect_uri)
    return _answer(await _in_thread(act, _asking))


def callback_url(settings: Settings) -> str:
    """What identity providers must allow as redirect URI."""
    return settings.public_url + CALLBACK


async def _in_thread(act: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    return await to_thread.run_sync(act, limiter=limiter)


def _offer(issuer: Issuer, public_url: str) -> schemas.IssuerOffer:
    # The whole address: the cookie of a login belongs to the host that the provider sends the browser back to.
    start = f"{public_url}/api/v1/auth/oidc/{issuer.name}/start" if issuer.client_id is not None else None
    return schemas.IssuerOffer(name=issuer.name, issuer=issuer.issuer, start=start, audience=issuer.audience)


def _redirect(url: str) -> RedirectResponse:
    return RedirectResponse(url, status_code=303, headers={"Referrer-Policy": "no-referrer"})


def _answer(issued: Issued) -> schemas.SessionToken:
    return schemas.SessionToken(token=issued.token, principal=issued.principal, expires_in=issued.lifetime_s)
