"""Deleting: a tombstone first, the bytes much later.

    live ──delete──> deleted ──restore window over, sweep──> purged        its bytes are held no longer
      ^                 │
      └────restore──────┘                                                  numbers, facts and history stay for ever

A version that a pointer holds, or on which there is a legal hold, cannot be deleted; the database refuses it, too.
All changes of one model queue at the model's row, as in promote.py. Each is done once, however often it is asked for.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from registry import audit, browse, events
from registry.access import Caller
from registry.browse import model_row, version_row
from registry.database import WriteSession, utc_now
from registry.errors import VersionInUse, VersionNotFound, VersionPurged
from registry.tables import ModelRow, PointerRow, VersionRow


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deleted version; `purged_at` is None while its bytes are kept."""

    model: str
    number: int
    deleted_at: datetime
    deleted_by: str
    restorable_until: datetime
    purged_at: datetime | None


def delete(session: WriteSession, caller: Caller, model: str, number: int, *, window_s: float) -> Deletion:
    """Delete a version; for `window_s` seconds it can be restored. Raises ModelNotFound, VersionNotFound or VersionInUse."""
    owner, version = _locked(session, caller, model, number)
    if version.deleted_at is None:
        _require_free(session, owner, version)
        version.deleted_at = session.scalars(sa.select(utc_now())).one()
        version.deleted_by = caller.name
        session.flush()
        _tell(session, caller, owner, "version.deleted", number, {})
    assert version.deleted_at is not None  # noqa: S101 - mypy forgets it across the flush
    return Deletion(
        model=model,
        number=number,
        deleted_at=version.deleted_at,
        deleted_by=version.deleted_by or "",
        restorable_until=version.deleted_at + timedelta(seconds=window_s),
        purged_at=version.purged_at,
    )


def restore(
    session: WriteSession, caller: Caller, model: str, number: int, *, window_s: float
) -> browse.Version:
    """Undo a deletion that is at most `window_s` seconds old. Raises ModelNotFound, VersionNotFound or VersionPurged."""
    owner, version = _locked(session, caller, model, number)
    if version.deleted_at is not None:
        ends = version.deleted_at + timedelta(seconds=window_s)
        if version.purged_at is not None or ends <= session.scalars(sa.select(utc_now())).one():
            raise VersionPurged(
                f"Version {number} of {model!r} can no longer be restored. Publish its files again, as a new version."
            )
        version.deleted_at = version.deleted_by = None
        session.flush()
        _tell(session, caller, owner, "version.restored", number, {})
    return browse.version(session, caller, model, number)


def hold(session: WriteSession, caller: Caller, model: str, number: int, *, reason: str) -> browse.Version:
    """Forbid to delete a version, saying why. Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    return _set_hold(session, caller, model, number, reason, {"reason": reason})


def release(session: WriteSession, caller: Caller, model: str, number: int) -> browse.Version:
    """End a legal hold, if there is one. Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    return _set_hold(session, caller, model, number, None, {})


def _set_hold(
    session: WriteSession, caller: Caller, model: str, number: int, reason: str | None, told: dict[str, str]
) -> browse.Version:
    owner, _ = _locked(session, caller, model, number)
    version = version_row(session, owner, number)
    if version.legal_hold != reason:
        version.legal_hold = reason
        session.flush()
        kind = "version.held" if reason is not None else "version.released"
        _tell(session, caller, owner, kind, number, told)
    return browse.version(session, caller, model, number)


def _tell(
    session: WriteSession, caller: Caller, owner: ModelRow, kind: str, number: int, told: dict[str, str]
) -> None:
    events.record(session, owner, kind, {"number": number, **told, "actor": caller.name})
    audit.record(session, caller, kind, f"models/{owner.name}/versions/{number}", told)


def _locked(session: WriteSession, caller: Caller, model: str, number: int) -> tuple[ModelRow, VersionRow]:
    """The model's row, then the version's: the sweep, which purges, must not be half-way through with it."""
    owner = model_row(session, caller, model, lock=True)
    version = session.get(VersionRow, (owner.id, number), with_for_update=True)
    if version is None:
        raise VersionNotFound(model, number)
    return owner, version


def _require_free(session: WriteSession, owner: ModelRow, version: VersionRow) -> None:
    if version.legal_hold is not None:
        raise VersionInUse(
            f"There is a legal hold on version {version.number} of {owner.name!r}. Release it first.",
            pointers=[],
        )
    holders = sa.select(PointerRow.name).where(
        PointerRow.model_id == owner.id, PointerRow.number == version.number
    )
    if pointers := sorted(session.scalars(holders)):
        raise VersionInUse(
            f"Version {version.number} of {owner.name!r} is {', '.join(pointers)}. Promote another one first, or remove "
            "the alias.",
            pointers=pointers,
        )
