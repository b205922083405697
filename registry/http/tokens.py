"""API tokens, and who one is."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from registry import tokens
from registry.access import Caller
from registry.http import schemas
from registry.http.deps import Db, Identified, SecretKey
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1", tags=["tokens"], route_class=StrictRoute)

Role = Literal["reader", "publisher", "promoter", "owner", "admin"]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=128), Field(examples=["fraud-*"])]


class Right(schemas.Answer):
    role: str
    pattern: str


class Me(schemas.Answer):
    """Who the token of this request belongs to, and what it may do in this workspace. `scope` limits all rights."""

    name: str
    workspace: str
    administrator: bool
    rights: list[Right]
    scope: Right | None
    token_id: str | None


class TokenCreate(schemas.Request):
    """At most `role`, for models that match `pattern`, in this workspace only; what is left out is not limited.

    `lifetime_s` null: it does not expire. `principal`: somebody else, whom the caller looks after.
    """

    name: schemas.Label
    principal: schemas.Name | None = None
    role: Role | None = None
    pattern: Pattern | None = None
    everywhere: bool = Field(False, description="good in all workspaces in which its owner has rights")
    lifetime_s: Annotated[int | None, Field(ge=60, le=tokens.LONGEST_S, strict=True)] = int(tokens.LIFETIME_S)


class Token(schemas.Answer):
    """A token, but for its secret."""

    id: str
    principal: str
    kind: str
    name: str
    last4: str
    workspace: str | None
    role: str | None
    pattern: str | None
    created_at: schemas.Time
    created_by: str
    expires_at: schemas.Time | None
    revoked_at: schemas.Time | None


class NewToken(Token):
    """With the token itself, which nobody can be told again."""

    token: str


class Tokens(schemas.Answer):
    items: list[Token]


@router.get("/me", response_model=Me)
def me(caller: Identified) -> Caller:
    """Who is calling, and with which rights."""
    return caller


@router.post("/tokens", status_code=201)
def create_token(body: TokenCreate, database: Db, key: SecretKey, caller: Identified) -> NewToken:
    """Make a token for oneself, or for somebody one looks after."""
    wanted = tokens.Wanted(
        name=body.name,
        workspace_id=None if body.everywhere else caller.workspace_id,
        role=body.role,
        pattern=body.pattern,
        lifetime_s=body.lifetime_s,
    )
    with database.write() as session:
        token, told = tokens.create(session, key, caller, wanted, body.principal)
    return NewToken.model_validate({**_fields(told), "token": token})


@router.get("/tokens")
def list_tokens(
    database: Db,
    caller: Identified,
    everybody: Annotated[bool, Query(description="also those of whoever the caller looks after")] = False,
) -> Tokens:
    """Tokens that are still good, newest first."""
    with database.read() as session:
        found = tokens.listed(session, caller, everybody=everybody)
        return Tokens(items=[Token.model_validate(each) for each in found])


@router.delete("/tokens/{token}", response_model=Token)
def revoke_token(token: str, database: Db, caller: Identified) -> tokens.Token:
    """End a token. All registries have heard of it within seconds."""
    with database.write() as session:
        return tokens.revoke(session, caller, token)


def _fields(token: tokens.Token) -> dict[str, object]:
    return {name: getattr(token, name) for name in token.__dataclass_fields__}
