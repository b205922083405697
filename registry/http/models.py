"""Models: create, list, look."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import browse, publish
from registry.http import schemas
from registry.http.deps import Db, Publisher, Reader
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=StrictRoute)

Limit = Annotated[int, Query(ge=1, le=1000, description="rows per page")]
After = Annotated[str | None, Query(max_length=512, description="the `next` of the page before")]


@router.post("", status_code=201, response_model=schemas.Model)
def create_model(body: schemas.ModelCreate, database: Db, caller: Publisher) -> browse.Model:
    """Create a model without versions. Publishing a version creates its model by itself."""
    with database.write() as session:
        publish.create_model(session, caller, body.name, body.description)
        return browse.model(session, caller, body.name)


@router.get("", response_model=schemas.ModelPage)
def list_models(
    database: Db,
    caller: Reader,
    search: Annotated[str, Query(max_length=128, description="part of the name")] = "",
    limit: Limit = 100,
    after: After = None,
) -> Page[browse.Model]:
    """Models by name."""
    with database.read() as session:
        return browse.models(session, caller, search=search, limit=limit, after=after)


@router.get("/{model}", response_model=schemas.Model)
def get_model(model: str, database: Db, caller: Reader) -> browse.Model:
    """One model with its pointers."""
    with database.read() as session:
        return browse.model(session, caller, model)
