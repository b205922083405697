"""Webhooks, their deliveries, and the attempts at those.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from registry.database import UtcDateTime, utc_now

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PENDING = sa.text("state = 'pending'")

# (table, name, what is refused, when)
REFUSALS = [
    # An event that was passed over would be lost, one that is passed twice sent twice.
    ("webhooks", "cursor", "UPDATE OF cursor", "NEW.cursor < OLD.cursor"),
    ("webhooks", "workspace", "UPDATE OF id, workspace_id", None),
    ("deliveries", "update", "UPDATE OF number, id, webhook_id, revision, event", None),
    ("attempts", "update", "UPDATE", None),
]


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("events", Json, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("inactive_reason", sa.String(length=8), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_until", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("cursor", BigInteger, nullable=False),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("slow", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("served_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "inactive_reason IN ('failing', 'gone')", name=op.f("ck_webhooks_inactive_reason")
        ),
        sa.CheckConstraint("NOT active OR inactive_reason IS NULL", name=op.f("ck_webhooks_active")),
        sa.CheckConstraint(
            "(old_secret IS NULL) = (old_secret_until IS NULL)", name=op.f("ck_webhooks_old_secret")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_webhooks_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_workspace_id"), "webhooks", ["workspace_id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("number", BigInteger, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("revision", BigInteger, nullable=True),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=True),
        sa.Column("give_up_at", UtcDateTime(), nullable=False),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name=op.f("ck_deliveries_state")),
        sa.CheckConstraint(
            "(state = 'pending') = (next_at IS NOT NULL)", name=op.f("ck_deliveries_next_at")
        ),
        sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name=op.f("ck_deliveries_ended_at")),
        sa.CheckConstraint(
            "state = 'pending' OR claimed_until IS NULL", name=op.f("ck_deliveries_claimed_until")
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_deliveries_webhook_id_webhooks"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["revision"], ["events.revision"], name=op.f("fk_deliveries_revision_events")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("id", name=op.f("uq_deliveries_id")),
        sa.UniqueConstraint("webhook_id", "revision", name=op.f("uq_deliveries_webhook_id_revision")),
    )
    op.create_index(op.f("ix_deliveries_ended_at"), "deliveries", ["ended_at"], unique=False)
    op.create_index(
        op.f("ix_deliveries_webhook_id_number"), "deliveries", ["webhook_id", "number"], unique=False
    )
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["webhook_id", "next_at"],
        unique=False,
        sqlite_where=PENDING,
        postgresql_where=PENDING,
    )
    op.create_table(
        "attempts",
        sa.Column("delivery_number", BigInteger, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("failure", sa.String(length=32), nullable=True),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.CheckConstraint("(status IS NULL) <> (failure IS NULL)", name=op.f("ck_attempts_outcome")),
        sa.ForeignKeyConstraint(
            ["delivery_number"],
            ["deliveries.number"],
            name=op.f("fk_attempts_delivery_number_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_number", "number", name=op.f("pk_attempts")),
    )
    create_triggers()


def create_triggers() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, name, action, condition in REFUSALS:
        trigger = f"tr_{table}_refuse_{name}"
        when = f" WHEN ({condition})" if condition else ""
        body = (
            f"BEGIN SELECT RAISE(ABORT, '{table} refuses {action.split()[0]} here'); END"
            if on_sqlite
            else "EXECUTE FUNCTION modelyard_refuse()"
        )
        op.execute(f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW{when} {body}")


def downgrade() -> None:
    for table in ("attempts", "deliveries", "webhooks"):
        op.drop_table(table)
