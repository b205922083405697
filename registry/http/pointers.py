"""Pointers: promote, roll back, look, and ask who held what."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import browse, promote
from registry.domain import MAX_NUMBER, Pointer, Promotion
from registry.http import schemas
from registry.http.deps import Db, Promoter, Reader
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1/models/{model}", tags=["pointers"], route_class=StrictRoute)


@router.post("/promotions", response_model=schemas.Promotion)
def promote_version(model: str, body: schemas.PromotionCreate, database: Db, caller: Promoter) -> Promotion:
    """Give a version a stage or an alias."""
    with database.write() as session:
        return promote.promote(
            session,
            caller,
            model,
            body.number,
            body.to,
            expected_generation=body.expected_generation,
            reason=body.reason,
        )


@router.post("/rollbacks", response_model=schemas.Promotion)
def roll_back(model: str, body: schemas.RollbackCreate, database: Db, caller: Promoter) -> Promotion:
    """Return a pointer to the version that it held before."""
    with database.write() as session:
        return promote.roll_back(
            session,
            caller,
            model,
            body.pointer,
            expected_generation=body.expected_generation,
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
def get_pointer(model: str, pointer: str, database: Db, caller: Reader) -> Pointer:
    """One stage or alias. `number` is null while no version holds it."""
    with database.read() as session:
        return browse.pointer(session, caller, model, pointer)


@router.delete("/pointers/{pointer}", response_model=schemas.Promotion)
def remove_pointer(
    model: str,
    pointer: str,
    database: Db,
    caller: Promoter,
    expected_generation: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    reason: Annotated[str, Query(max_length=1000, pattern=r"^[^\x00]*$")] = "",
) -> Promotion:
    """Let a pointer hold nothing. Its history stays, its generation grows."""
    with database.write() as session:
        return promote.remove(
            session, caller, model, pointer, expected_generation=expected_generation, reason=reason
        )


@router.get("/history", response_model=schemas.MovePage)
def history(
    model: str,
    database: Db,
    caller: Reader,
    pointer: Annotated[str | None, Query(max_length=64, description="of this stage or alias only")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[browse.Move]:
    """Who moved what, when and why; newest first."""
    with database.read() as session:
        return browse.history(session, caller, model, pointer_name=pointer, limit=limit, after=after)
