"""Workspaces: make, list, limit. Which one a request is about stands in front of its path: /w/<workspace>/api/v1/…"""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from registry import workspaces
from registry.domain import MAX_NUMBER, MAX_SIZE
from registry.http import schemas
from registry.http.deps import Administrator, Db, Reader
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1", tags=["workspaces"], route_class=StrictRoute)

Most = Annotated[int | None, Field(ge=0, le=MAX_SIZE, strict=True)]


class Limits(schemas.Request):
    """At most so many versions, bytes, and requests a minute of each caller (each registry process counts its own)."""

    model_config = schemas.Answer.model_config | {"extra": "forbid"}
    max_versions: Most = None
    max_bytes: Most = None
    max_requests_per_minute: Annotated[int | None, Field(ge=1, le=MAX_NUMBER, strict=True)] = None

    def values(self) -> workspaces.Limits:
        return workspaces.Limits(**self.model_dump())


class WorkspaceCreate(Limits):
    name: schemas.Name


class Workspace(schemas.Answer):
    """What it has: versions that were not purged, and bytes of their files, before deduplication."""

    name: str
    versions: int
    bytes: int
    limits: Limits
    created_at: schemas.Time
    created_by: str


class Workspaces(schemas.Answer):
    items: list[Workspace]


@router.get("/workspace", response_model=Workspace)
def get_workspace(database: Db, caller: Reader) -> workspaces.Workspace:
    """The workspace that is asked."""
    with database.read() as session:
        return workspaces.get(session, caller)


@router.get("/workspaces")
def list_workspaces(database: Db, _caller: Administrator) -> Workspaces:
    """All workspaces."""
    with database.read() as session:
        return Workspaces(items=[Workspace.model_validate(each) for each in workspaces.listed(session)])


@router.post("/workspaces", status_code=201, response_model=Workspace)
def create_workspace(body: WorkspaceCreate, database: Db, caller: Administrator) -> workspaces.Workspace:
    """Make a workspace. Nobody but administrators has rights in it yet."""
    limits = workspaces.Limits(**body.model_dump(exclude={"name"}))
    with database.write() as session:
        return workspaces.create(session, caller, body.name, limits)


@router.put("/workspaces/{workspace}/limits", response_model=Workspace)
def limit_workspace(
    workspace: str, body: Limits, database: Db, caller: Administrator
) -> workspaces.Workspace:
    """Set its limits; what is left out is not limited. What is there already stays."""
    with database.write() as session:
        return workspaces.limit(session, caller, workspace, body.values())
