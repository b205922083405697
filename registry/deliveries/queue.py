"""The deliveries that are due: claim one, and settle what came of it.

    claim     one transaction: the webhook's lock, a lease on one delivery. At most one per webhook is under way, in all processes
    settle    one transaction: the attempt, and delivered | dead | when to try again

A claim that its holder did not settle lapses, and is then anybody's. Whoever settles must still hold it. Webhooks take turns: who
was served longest ago comes first. `slow=False` leaves out those that are not known to be quick.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from registry.access import SYSTEM, Caller
from registry.database import Database, WriteSession, utc_now
from registry.deliveries import payload
from registry.deliveries.outcome import Outcome
from registry.tables import EventRow, WorkspaceRow
from registry.webhook_tables import AttemptRow, DeliveryRow, WebhookRow
from registry.webhooks import tell

CLAIM_S = 30
"""Seconds after which a claim is anybody's: several times as long as an attempt can take."""

SLOW_MS = 1000
"""An attempt that takes longer makes its webhook wait behind the others."""

log = logging.getLogger("modelyard.registry")


@dataclass(frozen=True, slots=True)
class Rules:
    """After a failure the next attempt comes within `first_s`, twice as long each time up to `cap_s`, picked at random from it
    all. After `tries` of them, or `give_up_s` seconds, the delivery is dead; after `deactivate_s` without any success, the webhook.
    """

    first_s: float
    cap_s: float
    tries: int
    give_up_s: float
    deactivate_s: float

    def pause_s(self, tries: int) -> float:
        """How long to wait after so many failures."""
        return random.uniform(0, min(self.cap_s, self.first_s * 2.0 ** min(tries - 1, 60)))  # noqa: S311 - no secret, only spread


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is this sender's until `until`. `secrets` are sealed; the first is the newest."""

    number: int
    id: str
    webhook_id: str
    url: str = field(repr=False)
    secrets: Sequence[bytes] = field(repr=False)
    body: bytes = field(repr=False)
    at: datetime
    until: datetime
    slow: bool


def is_due(database: Database) -> bool:
    """Whether there is anything to send."""
    with database.read() as session:
        return bool(session.scalar(_IS_DUE))


def claim(database: Database, *, slow: bool) -> Claim | None:
    """Take the delivery that is next, if any is due."""
    waiting = _waiting(slow=slow).limit(1)
    with database.read() as session:
        if session.scalars(waiting).first() is None:
            return None
    with database.write() as session:
        webhook = session.scalars(waiting.with_for_update(skip_locked=True)).first()
        if webhook is None:
            return None
        # Under the lock, and with eyes that see what the previous holder of the lock has done.
        delivery = session.scalars(_next_of(webhook.id)).first()
        if delivery is None:
            return None
        now = _now(session)
        webhook.served_at = now
        delivery.claimed_until = now + timedelta(seconds=CLAIM_S)
        session.flush()
        return Claim(
            number=delivery.number,
            id=delivery.id,
            webhook_id=webhook.id,
            url=webhook.url,
            secrets=_secrets(webhook, now),
            body=_body(session, delivery),
            at=now,
            until=delivery.claimed_until,
            slow=webhook.slow,
        )


def settle(database: Database, claim: Claim, outcome: Outcome, rules: Rules) -> str | None:
    """Record an attempt; returns the delivery's state, or None when the claim has lapsed or the webhook is gone."""
    with database.write() as session:
        webhook = session.get(WebhookRow, claim.webhook_id, with_for_update=True)
        held = sa.select(DeliveryRow).where(
            DeliveryRow.number == claim.number, DeliveryRow.claimed_until == claim.until
        )
        delivery = session.scalars(held).first()
        if webhook is None or delivery is None:
            return None
        delivery.attempts += 1
        session.add(
            AttemptRow(
                delivery_number=delivery.number,
                number=delivery.attempts,
                at=claim.at,
                duration_ms=outcome.duration_ms,
                status=outcome.status,
                failure=outcome.failure,
            )
        )
        delivery.claimed_until = None
        webhook.slow = not outcome.delivered or outcome.duration_ms > SLOW_MS
        if outcome.delivered:
            webhook.failing_since = None
            _end(delivery, "delivered", _now(session))
        else:
            _failed(session, webhook, delivery, outcome, rules)
        return delivery.state


def _failed(
    session: WriteSession, webhook: WebhookRow, delivery: DeliveryRow, outcome: Outcome, rules: Rules
) -> None:
    now = _now(session)
    webhook.failing_since = webhook.failing_since or now
    delivery.tries += 1
    if not (outcome.gone or delivery.tries >= rules.tries or now >= delivery.give_up_at):
        delivery.next_at = now + timedelta(seconds=rules.pause_s(delivery.tries))
        return
    _end(delivery, "dead", now)
    if outcome.gone:
        _deactivate(session, webhook, "gone")
    elif now - webhook.failing_since >= timedelta(seconds=rules.deactivate_s):
        _deactivate(session, webhook, "failing")


def _deactivate(session: WriteSession, webhook: WebhookRow, reason: str) -> None:
    webhook.active, webhook.inactive_reason = False, reason
    workspace = session.get_one(WorkspaceRow, webhook.workspace_id).name
    tell(
        session,
        Caller(SYSTEM, workspace, webhook.workspace_id),
        webhook,
        "webhook.deactivated",
        {"reason": reason},
    )
    log.warning("webhook %s was deactivated: %s", webhook.id, reason)


def _end(delivery: DeliveryRow, state: str, now: datetime) -> None:
    delivery.state, delivery.next_at, delivery.ended_at = state, None, now


def _waiting(*, slow: bool) -> sa.Select[WebhookRow]:
    """Webhooks with a delivery that is due, and none under way."""
    of_webhook = DeliveryRow.webhook_id == WebhookRow.id, DeliveryRow.state == "pending"
    query = (
        sa.select(WebhookRow)
        .where(WebhookRow.active)
        .where(sa.exists().where(*of_webhook, DeliveryRow.next_at <= utc_now()))
        .where(~sa.exists().where(*of_webhook, DeliveryRow.claimed_until > utc_now()))
        .order_by(WebhookRow.served_at.nulls_first(), WebhookRow.id)
    )
    return query if slow else query.where(~WebhookRow.slow)


_IS_DUE = sa.select(_waiting(slow=True).exists())


def _next_of(webhook_id: str) -> sa.Select[DeliveryRow]:
    pending = DeliveryRow.webhook_id == webhook_id, DeliveryRow.state == "pending"
    other = aliased(DeliveryRow)
    under_way = sa.exists().where(
        other.webhook_id == webhook_id, other.state == "pending", other.claimed_until > utc_now()
    )
    return (
        sa.select(DeliveryRow)
        .where(*pending, DeliveryRow.next_at <= utc_now(), ~under_way)
        .order_by(DeliveryRow.next_at, DeliveryRow.number)
        .limit(1)
    )


def _secrets(webhook: WebhookRow, now: datetime) -> Sequence[bytes]:
    if webhook.old_secret is None or webhook.old_secret_until is None or webhook.old_secret_until <= now:
        return (webhook.secret,)
    return (webhook.secret, webhook.old_secret)


def _body(session: WriteSession, delivery: DeliveryRow) -> bytes:
    if delivery.revision is None:
        return payload.of_ping(delivery.webhook_id, delivery.created_at)
    return payload.of_event(session.get_one(EventRow, delivery.revision))


def _now(session: WriteSession) -> datetime:
    return session.scalars(sa.select(utc_now())).one()
