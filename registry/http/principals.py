"""People, robots, groups, and what they are granted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import StringConstraints

from registry import grants, principals
from registry.domain import MAX_SIZE
from registry.http import schemas
from registry.http.deps import Admin, Db
from registry.http.strict import StrictRoute
from registry.http.tokens import Pattern, Role

router = APIRouter(prefix="/api/v1", tags=["access"], route_class=StrictRoute)


class Identity(schemas.Request):
    """A subject means nothing without its issuer."""

    issuer: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]+$")]
    subject: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class PrincipalCreate(schemas.Request):
    """Only administrators of the registry make people and administrators.

    `identity`: who a person is for an identity provider, for logging in with it.
    """

    name: schemas.Name
    kind: Literal["person", "robot"] = "robot"
    administrator: bool = False
    identity: Identity | None = None


class PrincipalChange(schemas.Request):
    disabled: bool


class Principal(schemas.Answer):
    """`workspace`: whose admins look after it. `groups`: those of this workspace that it is in."""

    name: str
    kind: str
    administrator: bool
    workspace: str | None
    disabled: bool
    groups: list[str]
    created_at: schemas.Time
    created_by: str


class Principals(schemas.Answer):
    items: list[Principal]


class GroupCreate(schemas.Request):
    name: schemas.Name


class Group(schemas.Answer):
    name: str
    members: list[str]
    created_at: schemas.Time
    created_by: str


class Groups(schemas.Answer):
    items: list[Group]


class GrantCreate(schemas.Request):
    """A role, for models whose names match a pattern, to a principal or to a group."""

    principal: schemas.Name | None = None
    group: schemas.Name | None = None
    role: Role
    pattern: Pattern = "*"


class Grant(schemas.Answer):
    id: int
    principal: str | None
    group: str | None
    role: str
    pattern: str
    created_at: schemas.Time
    created_by: str


class Grants(schemas.Answer):
    items: list[Grant]


@router.get("/principals")
def list_principals(database: Db, caller: Admin) -> Principals:
    """People and robots that the caller looks after, and members of this workspace's groups."""
    with database.read() as session:
        return Principals(
            items=[Principal.model_validate(each) for each in principals.listed(session, caller)]
        )


@router.post("/principals", status_code=201, response_model=Principal)
def create_principal(body: PrincipalCreate, database: Db, caller: Admin) -> principals.Principal:
    """Make a robot, or a person. They have no rights yet."""
    with database.write() as session:
        return principals.create(
            session,
            caller,
            body.name,
            body.kind,
            administrator=body.administrator,
            identity=(body.identity.issuer, body.identity.subject) if body.identity else None,
        )


@router.patch("/principals/{principal}", response_model=Principal)
def change_principal(
    principal: str, body: PrincipalChange, database: Db, caller: Admin
) -> principals.Principal:
    """Shut somebody out with all their tokens, or let them in again."""
    with database.write() as session:
        return principals.set_disabled(session, caller, principal, disabled=body.disabled)


@router.get("/groups")
def list_groups(database: Db, caller: Admin) -> Groups:
    """The groups of this workspace with their members."""
    with database.read() as session:
        return Groups(items=[Group.model_validate(each) for each in principals.groups(session, caller)])


@router.post("/groups", status_code=201, response_model=Group)
def create_group(body: GroupCreate, database: Db, caller: Admin) -> principals.Group:
    """Make a group without members."""
    with database.write() as session:
        return principals.create_group(session, caller, body.name)


@router.delete("/groups/{group}", status_code=204)
def delete_group(group: str, database: Db, caller: Admin) -> Response:
    """Remove a group, and with it what it was granted."""
    with database.write() as session:
        principals.delete_group(session, caller, group)
    return Response(status_code=204)


@router.put("/groups/{group}/members/{principal}", response_model=Group)
def add_member(group: str, principal: str, database: Db, caller: Admin) -> principals.Group:
    """Put somebody into a group."""
    with database.write() as session:
        return principals.add_member(session, caller, group, principal)


@router.delete("/groups/{group}/members/{principal}", response_model=Group)
def remove_member(group: str, principal: str, database: Db, caller: Admin) -> principals.Group:
    """Take somebody out of a group."""
    with database.write() as session:
        return principals.remove_member(session, caller, group, principal)


@router.get("/grants")
def list_grants(database: Db, caller: Admin) -> Grants:
    """What is granted in this workspace, and to whom."""
    with database.read() as session:
        return Grants(items=[Grant.model_validate(each) for each in grants.listed(session, caller)])


@router.post("/grants", status_code=201, response_model=Grant)
def give_grant(body: GrantCreate, database: Db, caller: Admin) -> grants.Grant:
    """Grant a role. What was granted before stays the same grant."""
    with database.write() as session:
        return grants.give(
            session,
            caller,
            principal=body.principal,
            group=body.group,
            role=body.role,
            pattern=body.pattern,
        )


@router.delete("/grants/{grant}", response_model=Grant)
def take_grant(grant: Annotated[int, Path(ge=1, le=MAX_SIZE)], database: Db, caller: Admin) -> grants.Grant:
    """Take a grant back. All registries have heard of it within seconds."""
    with database.write() as session:
        return grants.take(session, caller, grant)
