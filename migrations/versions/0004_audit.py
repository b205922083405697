"""The audit trail: rows that cannot be changed or removed, each of which must follow the one before.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

from registry.database import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ByteOrder = sa.String(length=512).with_variant(sa.String(length=512, collation="C"), "postgresql")
NOTHING_BEFORE = "sha256:" + "0" * 64

# (table, what is refused, when). INSERT into the head, for INSERT OR REPLACE fires no other trigger of SQLite.
REFUSALS = [
    ("audit", "UPDATE", None),
    ("audit", "DELETE", None),
    ("audit_head", "UPDATE", "NEW.sequence <> OLD.sequence + 1 OR NEW.id <> OLD.id"),
    ("audit_head", "DELETE", None),
    ("audit_head", "INSERT", None),
]
UNLIKE_THE_HEAD = "audit refuses what does not follow its head"
FOLLOWS = "sequence = NEW.sequence - 1 AND digest = NEW.previous_digest"
APPEND = f"UPDATE audit_head SET sequence = NEW.sequence, digest = NEW.digest WHERE {FOLLOWS};"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("workspace", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("token_id", sa.String(length=32), nullable=True),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("resource", ByteOrder, nullable=False),
        sa.Column("outcome", sa.String(length=6), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("previous_digest", sa.String(length=71), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_audit_sequence")),
        sa.CheckConstraint("outcome IN ('done', 'denied')", name=op.f("ck_audit_outcome")),
        sa.CheckConstraint(is_digest("previous_digest"), name=op.f("ck_audit_previous_digest")),
        sa.CheckConstraint(is_digest("digest"), name=op.f("ck_audit_digest")),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
    )
    for column in ("workspace", "actor", "resource"):
        op.create_index(op.f(f"ix_audit_{column}_sequence"), "audit", [column, "sequence"], unique=False)
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", BigInteger, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_single_row")),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_audit_head_sequence")),
        sa.CheckConstraint(is_digest("digest"), name=op.f("ck_audit_head_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.execute(f"INSERT INTO audit_head (id, sequence, digest) VALUES (1, 0, '{NOTHING_BEFORE}')")
    if op.get_bind().dialect.name == "sqlite":
        create_triggers_on_sqlite()
    else:
        create_triggers_on_postgresql()


def is_digest(column: str) -> str:
    digits = f"trim(substr({column}, 8), '0123456789abcdef')"
    return f"length({column}) = 71 AND substr({column}, 1, 7) = 'sha256:' AND {digits} = ''"


def create_triggers_on_sqlite() -> None:
    for table, action, condition in REFUSALS:
        when = f" WHEN ({condition})" if condition else ""
        op.execute(
            f"CREATE TRIGGER tr_{table}_refuse_{action.lower()} BEFORE {action} ON {table} FOR EACH ROW{when}"
            f" BEGIN SELECT RAISE(ABORT, '{table} refuses {action} here'); END"
        )
    op.execute(
        "CREATE TRIGGER tr_audit_append AFTER INSERT ON audit FOR EACH ROW BEGIN"
        f" SELECT RAISE(ABORT, '{UNLIKE_THE_HEAD}') WHERE NOT EXISTS (SELECT 1 FROM audit_head WHERE {FOLLOWS});"
        f" {APPEND} END"
    )


def create_triggers_on_postgresql() -> None:
    for table, action, condition in REFUSALS:
        when = f" WHEN ({condition})" if condition else ""
        op.execute(
            f"CREATE TRIGGER tr_{table}_refuse_{action.lower()} BEFORE {action} ON {table} FOR EACH ROW{when}"
            " EXECUTE FUNCTION modelyard_refuse()"
        )
    for table in ("audit", "audit_head"):
        op.execute(
            f"CREATE TRIGGER tr_{table}_refuse_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION modelyard_refuse()"
        )
    op.execute(
        "CREATE FUNCTION tr_audit_append() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" {APPEND} IF NOT FOUND THEN RAISE EXCEPTION '{UNLIKE_THE_HEAD}'"
        " USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER tr_audit_append AFTER INSERT ON audit FOR EACH ROW EXECUTE FUNCTION tr_audit_append()"
    )


def downgrade() -> None:
    op.drop_table("audit_head")
    op.drop_table("audit")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION tr_audit_append()")
