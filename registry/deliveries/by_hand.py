"""What people do with deliveries: look at them, send a ping, send one again."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from registry.access import Caller
from registry.browse import Session
from registry.database import WriteSession, utc_now
from registry.deliveries import payload
from registry.errors import DeliveryNotFound, WebhookInactive
from registry.pages import Page, cut, read_cursor
from registry.tables import EventRow
from registry.webhook_tables import AttemptRow, DeliveryRow, WebhookRow
from registry.webhooks import locked, tell, webhook


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: either `status` or `failure` says what came of it."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook. A ping has neither `revision` nor `model`. `attempts`: how many there were."""

    id: str
    event: str
    revision: int | None
    model: str | None
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime | None
    ended_at: datetime | None


def deliveries(
    session: Session,
    caller: Caller,
    webhook_id: str,
    *,
    state: str | None = None,
    event: str | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Delivery]:
    """Deliveries of a webhook, newest first. Raises WebhookNotFound."""
    query = _of(webhook(session, caller, webhook_id).id).order_by(DeliveryRow.number.desc())
    if state is not None:
        query = query.where(DeliveryRow.state == state)
    if event is not None:
        query = query.where(DeliveryRow.event == event)
    if after is not None:
        query = query.where(DeliveryRow.number < read_cursor(after, int))
    rows = session.execute(query.limit(limit + 1)).all()
    rows, following = cut(rows, limit, lambda row: row[0].number)
    return Page([_delivery_of(*row) for row in rows], following)


def delivery(
    session: Session, caller: Caller, webhook_id: str, delivery_id: str
) -> tuple[Delivery, Sequence[Attempt]]:
    """One delivery and its attempts, oldest first. Raises WebhookNotFound or DeliveryNotFound."""
    row, model = _found(session, webhook(session, caller, webhook_id).id, delivery_id)
    made = sa.select(AttemptRow).where(AttemptRow.delivery_number == row.number).order_by(AttemptRow.number)
    attempts = [Attempt(a.number, a.at, a.duration_ms, a.status, a.failure) for a in session.scalars(made)]
    return _delivery_of(row, model), attempts


def ping(session: WriteSession, caller: Caller, webhook_id: str) -> Delivery:
    """Send a ping, with one attempt only; while one waits to be sent, that is the one. Raises WebhookNotFound, WebhookInactive."""
    owner = _active(session, caller, webhook_id)
    waiting = DeliveryRow.webhook_id == owner.id, DeliveryRow.event == payload.PING
    row = session.scalars(sa.select(DeliveryRow).where(*waiting, DeliveryRow.state == "pending")).first()
    if row is None:
        now = session.scalars(sa.select(utc_now())).one()
        row = DeliveryRow(
            id=str(uuid.uuid4()),
            webhook_id=owner.id,
            event=payload.PING,
            state="pending",
            created_at=now,
            next_at=now,
            give_up_at=now,
        )
        session.add(row)
        session.flush()
        tell(session, caller, owner, "webhook.tested", {"delivery": row.id})
    return _delivery_of(row, None)


def redeliver(
    session: WriteSession, caller: Caller, webhook_id: str, delivery_id: str, *, give_up_s: float
) -> Delivery:
    """Send a delivery again, or at once, under its id. Raises WebhookNotFound, DeliveryNotFound or WebhookInactive."""
    owner = _active(session, caller, webhook_id)
    row, model = _found(session, owner.id, delivery_id)
    now = session.scalars(sa.select(utc_now())).one()
    row.state, row.ended_at, row.tries = "pending", None, 0
    row.next_at, row.give_up_at = now, now + timedelta(seconds=give_up_s)
    session.flush()
    tell(session, caller, owner, "webhook.redelivered", {"delivery": row.id})
    return _delivery_of(row, model)


def _active(session: WriteSession, caller: Caller, webhook_id: str) -> WebhookRow:
    owner = locked(session, caller, webhook_id)
    if not owner.active:
        raise WebhookInactive("This webhook is inactive: nothing is sent to it. Activate it first.")
    return owner


def _of(webhook_id: str) -> sa.Select[DeliveryRow, str]:
    return (
        sa.select(DeliveryRow, EventRow.model)
        .outerjoin(EventRow, EventRow.revision == DeliveryRow.revision)
        .where(DeliveryRow.webhook_id == webhook_id)
    )


def _found(session: Session, webhook_id: str, delivery_id: str) -> tuple[DeliveryRow, str | None]:
    # Compared here, as not every text can be shown to every database.
    known = delivery_id if delivery_id.isascii() and delivery_id.isprintable() else ""
    found = session.execute(_of(webhook_id).where(DeliveryRow.id == known)).first()
    if found is None:
        raise DeliveryNotFound("This webhook has no such delivery.")
    return found


def _delivery_of(row: DeliveryRow, model: str | None) -> Delivery:
    return Delivery(
        id=row.id,
        event=row.event,
        revision=row.revision,
        model=model,
        state=row.state,
        attempts=row.attempts,
        created_at=row.created_at,
        next_at=row.next_at,
        ended_at=row.ended_at,
    )
