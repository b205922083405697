"""Policies, promotion requests, what checks found; a model can be frozen.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from registry.database import UtcDateTime, utc_now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATES = "'open', 'done', 'rejected', 'withdrawn', 'expired', 'outdated', 'failed'"
KINDS = "'asked', 'commented', 'approved', 'rejected', 'withdrawn', 'expired', 'outdated', 'failed', 'done'"
ASKED = (
    'model_id, id, number, "to", pointer, generation, reason, at, due_at, expires_at, requested_at, requested_by'
)
CLOSED = (
    "EXISTS (SELECT 1 FROM promotion_requests r"
    " WHERE r.model_id = NEW.model_id AND r.id = NEW.request_id AND r.state <> 'open')"
)

# (table, name, what is refused, when)
REFUSALS = [
    ("policies", "update", "UPDATE", "1 = 1"),
    ("policies", "delete", "DELETE", "1 = 1"),
    ("promotion_requests", "update", f"UPDATE OF {ASKED}", "1 = 1"),
    ("promotion_requests", "closed", "UPDATE", "OLD.state <> 'open'"),
    ("promotion_requests", "delete", "DELETE", "1 = 1"),
    ("request_entries", "update", "UPDATE", "1 = 1"),
    ("request_entries", "delete", "DELETE", "1 = 1"),
    ("request_entries", "closed", "INSERT", CLOSED),
    ("decisions", "update", "UPDATE", "1 = 1"),
    ("decisions", "delete", "DELETE", "1 = 1"),
    ("findings", "update", "UPDATE", "1 = 1"),
    ("findings", "delete", "DELETE", "1 = 1"),
    (
        "moves",
        "frozen",
        "INSERT",
        "EXISTS (SELECT 1 FROM models m WHERE m.id = NEW.model_id AND m.frozen IS NOT NULL)",
    ),
]


def upgrade() -> None:
    # Not add_column: SQLite would have the table made anew, without its triggers.
    op.execute("ALTER TABLE models ADD COLUMN frozen TEXT")
    create_policies()
    create_requests()
    create_decisions()
    for table, name, action, condition in REFUSALS:
        refuse(table, name, action, condition)


def create_policies() -> None:
    op.create_table(
        "policies",
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("pattern", sa.String(length=128), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rules", Json, nullable=True),
        sa.Column("set_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("set_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_policies_revision")),
        sa.CheckConstraint("length(pattern) BETWEEN 1 AND 128", name=op.f("ck_policies_pattern")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_policies_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "pattern", "revision", name=op.f("pk_policies")),
    )


def create_requests() -> None:
    op.create_table(
        "promotion_requests",
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("to", sa.String(length=64), nullable=False),
        sa.Column("pointer", sa.String(length=64), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=True),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("requested_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("id >= 1", name=op.f("ck_promotion_requests_id")),
        sa.CheckConstraint("generation >= 0", name=op.f("ck_promotion_requests_generation")),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_promotion_requests_state")),
        sa.CheckConstraint(
            "(state = 'open') = (closed_at IS NULL)", name=op.f("ck_promotion_requests_closed_at")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_promotion_requests_model_id_models")
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_promotion_requests_model_id_number_versions"),
        ),
        sa.PrimaryKeyConstraint("model_id", "id", name=op.f("pk_promotion_requests")),
        sa.UniqueConstraint(
            "model_id", "id", "requested_by", name=op.f("uq_promotion_requests_model_id_id_requested_by")
        ),
    )
    unique_where("uq_promotion_requests_open", "promotion_requests", "state = 'open'", "model_id", "number", "to")
    unique_where(
        "uq_promotion_requests_move", "promotion_requests", "state = 'done'", "model_id", "pointer", "generation"
    )
    op.create_index("ix_promotion_requests_due", "promotion_requests", ["state", "due_at"])
    op.create_table(
        "request_entries",
        sa.Column("model_id", BigInteger, autoincrement=False, nullable=False),
        sa.Column("request_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=9), nullable=False),
        sa.Column("author", sa.String(length=128), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=71), nullable=False),
        sa.Column("fact_revision", BigInteger, nullable=False),
        sa.Column("at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint(f"kind IN ({KINDS})", name=op.f("ck_request_entries_kind")),
        sa.CheckConstraint(
            "kind <> 'approved' OR author <> requested_by", name=op.f("ck_request_entries_four_eyes")
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "request_id", "requested_by"],
            ["promotion_requests.model_id", "promotion_requests.id", "promotion_requests.requested_by"],
            name=op.f("fk_request_entries_request"),
        ),
        sa.PrimaryKeyConstraint("model_id", "request_id", "position", name=op.f("pk_request_entries")),
    )
    unique_where(
        "uq_request_entries_approval",
        "request_entries",
        "kind = 'approved'",
        "model_id",
        "request_id",
        "author",
        "fact_revision",
    )


def create_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("model_id", BigInteger, nullable=False),
        sa.Column("outcome", sa.String(length=5), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("to", sa.String(length=64), nullable=False),
        sa.Column("pointer", sa.String(length=64), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=71), nullable=False),
        sa.Column("fact_revision", BigInteger, nullable=False),
        sa.Column("policies", Json, nullable=False),
        sa.Column("approvals", sa.Integer(), nullable=False),
        sa.Column("approved_by", Json, nullable=False),
        sa.Column("request_id", sa.Integer(), nullable=True),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint("outcome IN ('asked', 'done')", name=op.f("ck_decisions_outcome")),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_decisions_model_id_number_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_model_id_id", "decisions", ["model_id", "id"])
    op.create_table(
        "findings",
        sa.Column("decision_id", BigInteger, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decisions.id"], name=op.f("fk_findings_decision_id_decisions")
        ),
        sa.PrimaryKeyConstraint("decision_id", "position", name=op.f("pk_findings")),
    )


def unique_where(name: str, table: str, condition: str, *columns: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [*columns], unique=True, sqlite_where=where, postgresql_where=where)


def on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def refuse(table: str, name: str, action: str, condition: str) -> None:
    trigger = f"tr_{table}_refuse_{name}"
    refusal = f"{table} refuses {action.split()[0]} here"
    if on_sqlite():
        op.execute(
            f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW WHEN ({condition})"
            f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {condition} THEN RAISE EXCEPTION '{refusal}'"
        " USING ERRCODE = 'integrity_constraint_violation'; END IF;"
        " IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH ROW EXECUTE FUNCTION {trigger}()"
    )


def downgrade() -> None:
    for table, name, _, _ in REFUSALS:
        trigger = f"tr_{table}_refuse_{name}"
        op.execute(f"DROP TRIGGER {trigger}" + ("" if on_sqlite() else f" ON {table}"))
        if not on_sqlite():
            op.execute(f"DROP FUNCTION {trigger}()")
    for table in ("findings", "decisions", "request_entries", "promotion_requests", "policies"):
        op.drop_table(table)
    op.execute("ALTER TABLE models DROP COLUMN frozen")
