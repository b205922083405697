"""The tables of webhooks: who is told of events, which event goes where, and what came of it.

    workspaces ──< webhooks ──< deliveries ──< attempts
                                events ──^              a delivery is one event (or a ping) for one webhook

Triggers refuse to move a webhook's cursor back, to send an event elsewhere, and to rewrite an attempt.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.database import utc_now
from registry.tables import Base, BigInteger, EventRow, WorkspaceRow


class WebhookRow(Base):
    """Where events of a workspace are sent, and how far that has come.

    active ──(nothing got through for days | the receiver says "gone" | somebody says so)──> inactive ──somebody──> active
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        sa.CheckConstraint("inactive_reason IN ('failing', 'gone')", "inactive_reason"),
        sa.CheckConstraint("NOT active OR inactive_reason IS NULL", "active"),
        sa.CheckConstraint("(old_secret IS NULL) = (old_secret_until IS NULL)", "old_secret"),
    )

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id), index=True)
    url: Mapped[str] = mapped_column(sa.Text)
    description: Mapped[str] = mapped_column(sa.Text)
    events: Mapped[list[Any]]
    model: Mapped[str] = mapped_column(sa.String(128))
    active: Mapped[bool]
    inactive_reason: Mapped[str | None] = mapped_column(sa.String(8))
    # Sealed by the vault, bound to this row.
    secret: Mapped[bytes] = mapped_column(sa.LargeBinary)
    old_secret: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    # The revision up to which events have become deliveries, or were none of its own. Whoever moves it holds the row's lock.
    cursor: Mapped[int] = mapped_column(BigInteger)
    # The first failure since the last success.
    failing_since: Mapped[datetime | None]
    # Not known to be quick: there was no attempt yet, or the last one failed or took long.
    slow: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    served_at: Mapped[datetime | None]


class DeliveryRow(Base):
    """An event, or a ping, on its way to a webhook.

    pending ──a 2xx──> delivered
       │  ^                │
       │  └───redeliver────┤
       └──out of tries──> dead
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", "state"),
        sa.CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", "next_at"),
        sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", "ended_at"),
        sa.CheckConstraint("state = 'pending' OR claimed_until IS NULL", "claimed_until"),
        # However many dispatchers there are, an event is one delivery.
        sa.UniqueConstraint("webhook_id", "revision"),
        sa.Index(None, "webhook_id", "number"),
        sa.Index(
            "ix_deliveries_pending",
            "webhook_id",
            "next_at",
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        ),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    webhook_id: Mapped[str] = mapped_column(sa.ForeignKey(WebhookRow.id, ondelete="CASCADE"))
    # None: a ping.
    revision: Mapped[int | None] = mapped_column(sa.ForeignKey(EventRow.revision), index=True)
    event: Mapped[str] = mapped_column(sa.String(32))
    state: Mapped[str] = mapped_column(sa.String(9))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    # Attempts ever, and those since it was last (re)delivered, which the pause before the next grows with.
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    next_at: Mapped[datetime | None]
    give_up_at: Mapped[datetime]
    # A process is sending it, until then.
    claimed_until: Mapped[datetime | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


class AttemptRow(Base):
    """One request: what came of it. What the receiver wrote is kept nowhere."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.CheckConstraint("number >= 1", "number"),
        sa.CheckConstraint("(status IS NULL) <> (failure IS NULL)", "outcome"),
    )

    delivery_number: Mapped[int] = mapped_column(
        sa.ForeignKey(DeliveryRow.number, ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    duration_ms: Mapped[int]
    status: Mapped[int | None]
    failure: Mapped[str | None] = mapped_column(sa.String(32))
