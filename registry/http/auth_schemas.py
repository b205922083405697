"""The shapes of requests and answers about logging in. Passwords and tokens have no rules here: a wrong one is wrong."""

from typing import Annotated

from pydantic import Field, StringConstraints

from registry.http.schemas import Answer, Label, Request, Time
from registry.trusted import MAX_CLAIMS, MAX_VALUE

Claim = Annotated[str, StringConstraints(min_length=1, max_length=MAX_VALUE)]


class PasswordLogin(Request):
    name: str
    password: str


class PasswordChange(Request):
    name: str
    password: str
    new_password: str


class TokenExchange(Request):
    """An identity token of a CI job. `principal` chooses when it may be several."""

    token: str
    principal: Label | None = None


class CodeExchange(Request):
    """What a command line got from the browser, and what only it knows."""

    code: str
    code_verifier: str
    redirect_uri: str


class SessionToken(Answer):
    """An API token of `principal`, good for `expires_in` seconds."""

    token: str
    principal: str
    expires_in: int


class IssuerOffer(Answer):
    """People log in with it in a browser, at `start`; its tokens for `audience` are exchanged. null: they are not."""

    name: str
    issuer: str
    start: str | None
    audience: str | None


class Methods(Answer):
    password: bool
    issuers: list[IssuerOffer]


class PublisherCreate(Request):
    """Whoever has a token of `issuer` with all of `claims` becomes `principal`; `*` stands for any characters."""

    issuer: Claim
    claims: Annotated[
        dict[Label, Claim],
        Field(max_length=MAX_CLAIMS, examples=[{"repository": "acme/fraud", "ref": "refs/heads/release/*"}]),
    ]
    principal: Label


class Publisher(Answer):
    id: int
    issuer: str
    claims: dict[str, str]
    principal: str
    created_at: Time
    created_by: str


class Publishers(Answer):
    items: list[Publisher]
