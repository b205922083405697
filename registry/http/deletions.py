"""Deleting versions, restoring them, and forbidding it (legal hold)."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import StringConstraints

from registry import browse, delete
from registry.http import schemas
from registry.http.deps import Config, Db, Owner
from registry.http.strict import StrictRoute
from registry.http.versions import VersionNumber

router = APIRouter(
    prefix="/api/v1/models/{model}/versions/{number}", tags=["versions"], route_class=StrictRoute
)


class HoldCreate(schemas.Request):
    """Why this version must not be deleted."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class Deletion(schemas.Answer):
    """A deleted version. Until `restorable_until` it can be restored; `purged_at` says since when its bytes are given up."""

    model: str
    number: int
    deleted_at: schemas.Time
    deleted_by: str
    restorable_until: schemas.Time
    purged_at: schemas.Time | None


@router.delete("", response_model=Deletion)
def delete_version(
    model: str, number: VersionNumber, database: Db, settings: Config, caller: Owner
) -> delete.Deletion:
    """Delete a version that no pointer and no legal hold keeps. It can be restored for a while."""
    with database.write() as session:
        return delete.delete(session, caller, model, number, window_s=settings.restore_window_s)


@router.post("/restore", response_model=schemas.Version)
def restore_version(
    model: str, number: VersionNumber, database: Db, settings: Config, caller: Owner
) -> browse.Version:
    """Undo a deletion, as long as the restore window is open. A version that was not deleted stays as it is."""
    with database.write() as session:
        return delete.restore(session, caller, model, number, window_s=settings.restore_window_s)


@router.put("/hold", response_model=schemas.Version)
def hold_version(
    model: str, number: VersionNumber, body: HoldCreate, database: Db, caller: Owner
) -> browse.Version:
    """Put a legal hold on a version: nobody can delete it until the hold is released."""
    with database.write() as session:
        return delete.hold(session, caller, model, number, reason=body.reason)


@router.delete("/hold", response_model=schemas.Version)
def release_version(model: str, number: VersionNumber, database: Db, caller: Owner) -> browse.Version:
    """Release the legal hold. Without one, nothing happens."""
    with database.write() as session:
        return delete.release(session, caller, model, number)
