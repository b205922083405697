"""Search: versions of all models, by whatever is known about them."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import search, search_plan
from registry.browse import Version
from registry.http import schemas
from registry.http.deps import Db, Reader
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1/search", tags=["search"], route_class=StrictRoute)


@router.get("", response_model=schemas.VersionPage)
def search_versions(
    database: Db,
    caller: Reader,
    q: Annotated[
        str,
        Query(
            description="what to look for; nothing: every version",
            examples=["tags.team = risk AND (metrics.auc[test] >= 0.97 OR stage = production)"],
        ),
    ] = "",
    order: Annotated[
        search_plan.Order,
        Query(description="newest model first, of each the newest version first; or newest version first"),
    ] = "model",
    limit: Limit = 100,
    after: After = None,
) -> Page[Version]:
    """Versions that a search holds for. docs/search.md has the grammar."""
    wanted = search.parse(q)
    with database.read() as session:
        return search_plan.search(session, caller, wanted, order=order, limit=limit, after=after)
