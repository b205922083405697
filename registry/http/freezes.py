"""Freezing a model, and thawing it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import StringConstraints

from registry import browse, freeze
from registry.http import schemas
from registry.http.deps import Db, Owner
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1/models/{model}/freeze", tags=["governance"], route_class=StrictRoute)


class FreezeCreate(schemas.Request):
    """Why no pointer of the model is to move."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


@router.put("", response_model=schemas.Model)
def freeze_model(model: str, body: FreezeCreate, database: Db, caller: Owner) -> browse.Model:
    """Let no pointer of a model move until it is thawed: no promotion, no rollback, no removal."""
    with database.write() as session:
        return freeze.freeze(session, caller, model, reason=body.reason)


@router.delete("", response_model=schemas.Model)
def thaw_model(model: str, database: Db, caller: Owner) -> browse.Model:
    """Let its pointers move again. If it is not frozen, nothing happens."""
    with database.write() as session:
        return freeze.thaw(session, caller, model)
