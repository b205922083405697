"""Trimming the feed: events that are too old go, but for the newest of them of each model.

    1. the feed's row says up to which revision events are too old: watchers from before are refused from now on
    2. what is up to there goes, in small transactions, unless it is the newest of its model, or a delivery needs it

The newest one tells whether a watcher that was away has missed anything of the models that it asks for, see events.py.
"""

import threading
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from registry import unneeded
from registry.database import Database, ReadSession
from registry.tables import EventRow, FeedRow
from registry.webhook_tables import DeliveryRow

BATCH = 500


def trim(database: Database, retention_s: float, *, stopping: threading.Event | None = None) -> int:
    """Remove events that are older than `retention_s` seconds; returns how many."""
    with database.read() as session:
        last = _last_old(session, retention_s)
    if last is not None:
        with database.write() as session:
            session.execute(sa.update(FeedRow).where(FeedRow.trimmed < last).values(trimmed=last))
    removed = after = 0
    while stopping is None or not stopping.is_set():
        with database.read() as session:
            found = session.scalars(_removable().where(EventRow.revision > after).limit(BATCH)).all()
        if not found:
            break
        with database.write() as session:
            session.execute(sa.delete(EventRow).where(EventRow.revision.in_(found)))
        removed += len(found)
        after = found[-1]
    return removed


def removable(database: Database, retention_s: float) -> int:
    """How many `trim` would remove now."""
    with database.read() as session:
        found = _removable(_last_old(session, retention_s)).subquery()
        return session.scalar(sa.select(sa.func.count()).select_from(found)) or 0


def _last_old(session: ReadSession, retention_s: float) -> int | None:
    """The last revision before the first event that is not too old; None when that is known already."""
    revision, trimmed = session.execute(sa.select(FeedRow.revision, FeedRow.trimmed)).one()
    young = EventRow.at >= unneeded.now(session) - timedelta(seconds=retention_s)
    first = sa.select(EventRow.revision).where(
        EventRow.revision > trimmed, EventRow.revision <= revision, young
    )
    found = session.scalar(first.order_by(EventRow.revision).limit(1))
    last = revision if found is None else found - 1
    return last if last > trimmed else None


def _removable(last: int | None = None) -> sa.Select[int]:
    trimmed = sa.select(FeedRow.trimmed).scalar_subquery() if last is None else sa.literal(last)
    newer = aliased(EventRow)
    superseded = sa.exists().where(
        newer.workspace_id == EventRow.workspace_id,
        newer.model == EventRow.model,
        newer.revision > EventRow.revision,
        newer.revision <= trimmed,
    )
    needed = sa.exists().where(DeliveryRow.revision == EventRow.revision)
    query = sa.select(EventRow.revision).where(EventRow.revision <= trimmed, superseded, ~needed)
    return query.order_by(EventRow.revision)
