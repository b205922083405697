"""Pointers: promote, roll back, look, and ask who held what."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from registry import browse, promote
from registry.domain import MAX_NUMBER, Pointer, Promotion
from registry.errors import InvalidInput
from registry.http import schemas
from registry.http.deps import Db, Promoter, Reader
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1/models/{model}", tags=["pointers"], route_class=StrictRoute)

At = Annotated[schemas.Moment | None, Query(description="as it was at this time")]
IfMatch = Annotated[
    str | None,
    Header(pattern=r'^"[0-9]{1,9}"$', description="the ETag of the pointer: as `expected_generation`"),
]


@router.post("/promotions", response_model=schemas.Promotion, responses={202: {"model": schemas.Promotion}})
def promote_version(
    model: str,
    body: schemas.PromotionCreate,
    database: Db,
    caller: Promoter,
    response: Response,
    if_match: IfMatch = None,
) -> Promotion:
    """Give a version a stage or an alias. 202: it will be done when others have approved, or its time has come."""
    with database.write() as session:
        done = promote.promote(
            session,
            caller,
            model,
            body.number,
            body.to,
            expected_generation=_expected(body.expected_generation, if_match),
            reason=body.reason,
            at=body.at,
        )
    response.status_code = 200 if done.request is None else 202
    return done


@router.post("/rollbacks", response_model=schemas.Promotion)
def roll_back(
    model: str, body: schemas.RollbackCreate, database: Db, caller: Promoter, if_match: IfMatch = None
) -> Promotion:
    """Return a pointer to the version that it held before."""
    with database.write() as session:
        return promote.roll_back(
            session,
            caller,
            model,
            body.pointer,
            expected_generation=_expected(body.expected_generation, if_match),
            reason=body.reason,
        )


@router.get("/pointers", response_model=schemas.Pointers)
def list_pointers(model: str, database: Db, caller: Reader) -> schemas.Pointers:
    """All stages and aliases of a model that were ever used."""
    with database.read() as session:
        items = [
            schemas.Pointer.model_validate(pointer) for pointer in browse.pointers(session, caller, model)
        ]
    return schemas.Pointers(items=items)


@router.get("/pointers/{pointer}", response_model=schemas.Pointer)
def get_pointer(
    model: str, pointer: str, database: Db, caller: Reader, response: Response, at: At = None
) -> Pointer:
    """One stage or alias, as it is or was. `number` is null while no version holds it; its generation is the ETag."""
    with database.read() as session:
        found = browse.pointer(session, caller, model, pointer, at=at)
    response.headers["ETag"] = f'"{found.generation}"'
    return found


@router.delete("/pointers/{pointer}", response_model=schemas.Promotion)
def remove_pointer(
    model: str,
    pointer: str,
    database: Db,
    caller: Promoter,
    expected_generation: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    reason: Annotated[str, Query(max_length=1000, pattern=r"^[^\x00]*$")] = "",
    if_match: IfMatch = None,
) -> Promotion:
    """Let a pointer hold nothing. Its history stays, its generation grows."""
    with database.write() as session:
        expected = _expected(expected_generation, if_match)
        return promote.remove(session, caller, model, pointer, expected_generation=expected, reason=reason)


@router.get("/history", response_model=schemas.MovePage)
def history(
    model: str,
    database: Db,
    caller: Reader,
    pointer: Annotated[str | None, Query(max_length=64, description="of this stage or alias only")] = None,
    at: At = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[browse.Move]:
    """Who moved what, when and why; newest first. With `at`: for each pointer the move that counted at that time."""
    with database.read() as session:
        return browse.history(session, caller, model, pointer_name=pointer, at=at, limit=limit, after=after)


def _expected(given: int | None, if_match: str | None) -> int | None:
    """The generation that a body, a query or an If-Match header names."""
    named = None if if_match is None else int(if_match.strip('"'))
    if None not in (given, named) and given != named:
        raise InvalidInput("If-Match and expected_generation name different generations.")
    return named if given is None else given
