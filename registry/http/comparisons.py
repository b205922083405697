"""Comparing two versions."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import compare
from registry.domain import MAX_NUMBER
from registry.errors import InvalidName
from registry.http import fact_schemas as schemas
from registry.http.deps import Db, Reader
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1", tags=["facts"], route_class=StrictRoute)

Side = Annotated[str, Query(min_length=3, max_length=140, examples=["fraud/1"])]


@router.get("/compare", response_model=schemas.Comparison)
def compare_versions(left: Side, right: Side, database: Db, caller: Reader) -> compare.Comparison:
    """Two versions, of one model or of two, side by side. Each is given as MODEL/NUMBER."""
    with database.read() as session:
        return compare.compare(session, caller, _side(left), _side(right))


def _side(text: str) -> compare.Side:
    model, _, number = text.partition("/")
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= MAX_NUMBER):
        raise InvalidName("A version to compare is given as MODEL/NUMBER, as in fraud/1.")
    return model, int(number)
