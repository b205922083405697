"""From events to deliveries: each webhook has a cursor, the revision up to which it has been looked at.

One transaction inserts the deliveries beyond the cursors and moves these, under the webhooks' locks: none is lost and none made
twice, however many processes do this at once and wherever one of them dies. The change feed's own lock makes revisions appear in
order, so that nothing can appear behind a cursor.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from registry.database import Database, ReadSession, WriteSession, utc_now
from registry.failpoints import failpoint
from registry.tables import EventRow, FeedRow
from registry.webhook_tables import DeliveryRow, WebhookRow
from registry.webhooks import concerns

BATCH = 500
"""Events that one transaction looks at."""


def dispatch(database: Database, *, give_up_s: float) -> int:
    """Make deliveries of all new events; returns how many."""
    made = 0
    while _is_behind(database):
        with database.write() as session:
            looked_at, inserted = _dispatch(session, timedelta(seconds=give_up_s))
            session.flush()
            failpoint("dispatch.before_commit")
        made += inserted
        if looked_at < BATCH:  # that was all, or others are at it; what came meanwhile wakes us again
            break
    return made


_LATEST = sa.select(FeedRow.revision).scalar_subquery()
_BEHIND = sa.select(WebhookRow).where(WebhookRow.active, WebhookRow.cursor < _LATEST)
_IS_BEHIND = sa.select(_BEHIND.exists())


def _is_behind(database: Database) -> bool:
    with database.read() as session:
        return bool(session.scalar(_IS_BEHIND))


def _dispatch(session: WriteSession, give_up: timedelta) -> tuple[int, int]:
    """Move on by one batch; returns how many events were looked at and how many deliveries there are more."""
    locked = _BEHIND.order_by(WebhookRow.id).with_for_update(skip_locked=True)
    webhooks = session.scalars(locked).all()
    if not webhooks:
        return 0, 0
    events = _events_after(session, min(webhook.cursor for webhook in webhooks))
    now = session.scalars(sa.select(utc_now())).one()
    deliveries = [
        _delivery(webhook, event, now, now + give_up)
        for webhook in webhooks
        for event in events
        if event.revision > webhook.cursor and concerns(webhook, event)
    ]
    if deliveries:
        session.execute(sa.insert(DeliveryRow), deliveries)
    for webhook in webhooks:
        webhook.cursor = max(webhook.cursor, events[-1].revision if events else 0)
    return len(events), len(deliveries)


def _events_after(session: ReadSession | WriteSession, revision: int) -> Sequence[EventRow]:
    query = sa.select(EventRow).where(EventRow.revision > revision).order_by(EventRow.revision)
    return session.scalars(query.limit(BATCH)).all()


def _delivery(webhook: WebhookRow, event: EventRow, now: datetime, give_up_at: datetime) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "webhook_id": webhook.id,
        "revision": event.revision,
        "event": event.kind,
        "state": "pending",
        "created_at": now,
        "next_at": now,
        "give_up_at": give_up_at,
    }
