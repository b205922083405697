"""The scheduler: requests whose time has come are carried out, and those that are over are closed.

Every registry process looks; whoever locks the model's row first does it, in the transaction that closes the request. So it
happens once, however many look.
"""

import logging
import threading
from collections.abc import Sequence

import sqlalchemy as sa

from registry import approve, requests
from registry.access import SYSTEM, Caller
from registry.database import Database, WriteSession, utc_now
from registry.errors import (
    Conflict,
    Forbidden,
    GenerationConflict,
    Gone,
    NotFound,
    RegistryError,
    VersionUnverified,
)
from registry.policy_tables import RequestRow
from registry.tables import ModelRow, VersionRow, WorkspaceRow

BATCH = 100

log = logging.getLogger("modelyard.registry")


def carry_out_due(database: Database, *, stopping: threading.Event | None = None) -> int:
    """Look at every open request that is due; returns how many were closed."""
    closed, last = 0, (0, 0)
    while found := _due(database, last):
        for key in found:
            if stopping is not None and stopping.is_set():
                return closed
            closed += _settle(database, *key)
        last = found[-1]
    return closed


def _due(database: Database, after: tuple[int, int]) -> Sequence[tuple[int, int]]:
    key = sa.tuple_(RequestRow.model_id, RequestRow.id)
    query = sa.select(RequestRow.model_id, RequestRow.id).where(
        RequestRow.state == "open",
        sa.or_(RequestRow.due_at <= utc_now(), RequestRow.expires_at <= utc_now()),
        key > sa.tuple_(*after),
    )
    with database.read() as session:
        rows = session.execute(query.order_by(RequestRow.model_id, RequestRow.id).limit(BATCH))
        return [(model_id, request_id) for model_id, request_id in rows]


def _settle(database: Database, model_id: int, request_id: int) -> bool:
    try:
        with database.write() as session:
            return _act(session, model_id, request_id)
    except VersionUnverified:
        return False  # its bytes are still being read: the next look may find it ready
    except (Conflict, Forbidden, Gone, NotFound) as error:
        log.warning("a promotion that was due cannot be done: %s", error)
        with database.write() as session:
            return _give_up(session, model_id, request_id, error)


def _act(session: WriteSession, model_id: int, request_id: int) -> bool:
    found = _open(session, model_id, request_id)
    if found is None:
        return False
    caller, model, request, version = found
    if request.expires_at <= session.scalars(sa.select(utc_now())).one():
        _close(session, caller, model, request, version, "expired")
        return True
    if request.at is None or not approve.is_ready(session, caller, model, request, version):
        return False
    approve.carry_out(session, caller, model, request)
    return True


def _give_up(session: WriteSession, model_id: int, request_id: int, error: RegistryError) -> bool:
    found = _open(session, model_id, request_id)
    if found is None:
        return False
    state = "outdated" if isinstance(error, GenerationConflict) else "failed"
    _close(session, *found, state, f"{error.code}: {error}")
    return True


def _open(
    session: WriteSession, model_id: int, request_id: int
) -> tuple[Caller, ModelRow, RequestRow, VersionRow] | None:
    model = session.get_one(ModelRow, model_id, with_for_update=True)
    request = session.get_one(RequestRow, (model_id, request_id))
    if request.state != "open":
        return None
    version = session.get_one(VersionRow, (model_id, request.number))
    workspace = session.get_one(WorkspaceRow, model.workspace_id)
    return Caller(SYSTEM, workspace.name, workspace.id, administrator=True), model, request, version


def _close(
    session: WriteSession,
    caller: Caller,
    model: ModelRow,
    request: RequestRow,
    version: VersionRow,
    state: str,
    text: str = "",
) -> None:
    requests.close(session, caller, request, version, state, text)
    requests.announce(session, caller, model, request, f"request.{state}")
