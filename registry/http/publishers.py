"""Trusted publishers: whose CI jobs may act as whom in a workspace."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from registry import trusted
from registry.http import auth_schemas as schemas
from registry.http.deps import Admin, Db, Issuers
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1/trusted-publishers", tags=["trusted publishers"], route_class=StrictRoute)

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("", response_model=schemas.Publishers)
def list_publishers(database: Db, caller: Admin) -> schemas.Publishers:
    """All trusted publishers of the workspace."""
    with database.read() as session:
        found = trusted.listed(session, caller)
    return schemas.Publishers(items=[schemas.Publisher.model_validate(each) for each in found])


@router.post("", status_code=201, response_model=schemas.Publisher)
def add_publisher(
    body: schemas.PublisherCreate, database: Db, issuers: Issuers, caller: Admin
) -> trusted.Publisher:
    """Trust jobs with these claims to be this robot."""
    with database.write() as session:
        return trusted.add(session, issuers, caller, trusted.Wanted(body.issuer, body.claims, body.principal))


@router.delete("/{publisher}", status_code=204)
def remove_publisher(publisher: Id, database: Db, caller: Admin) -> Response:
    """Trust them no longer."""
    with database.write() as session:
        trusted.remove(session, caller, publisher)
    return Response(status_code=204)
