"""Workspaces, principals, groups, grants and tokens. What was there before belongs to the workspace "default".

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

from registry.database import UtcDateTime, utc_now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ROLES = "'reader', 'publisher', 'promoter', 'owner', 'admin'"


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("versions", BigInteger, server_default="0", nullable=False),
        sa.Column("bytes", BigInteger, server_default="0", nullable=False),
        sa.Column("max_versions", BigInteger, nullable=True),
        sa.Column("max_bytes", BigInteger, nullable=True),
        sa.Column("max_requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 64", name=op.f("ck_workspaces_name")),
        sa.CheckConstraint("versions >= 0 AND bytes >= 0", name=op.f("ck_workspaces_counters")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspaces")),
        sa.UniqueConstraint("name", name=op.f("uq_workspaces_name")),
    )
    op.execute(
        "INSERT INTO workspaces (name, versions, bytes, created_by) SELECT 'default',"
        " (SELECT count(*) FROM versions WHERE purged_at IS NULL), (SELECT coalesce(sum(c.size), 0) FROM files f"
        " JOIN contents c ON c.id = f.content_id JOIN versions v ON v.model_id = f.model_id AND v.number = f.number"
        " WHERE v.purged_at IS NULL), 'modelyard'"
    )
    change_models(in_workspaces=True)
    op.add_column("uploads", sa.Column("workspace_id", BigInteger, server_default="1", nullable=False))
    op.add_column("events", sa.Column("workspace_id", BigInteger, server_default="1", nullable=False))
    op.drop_index("ix_uploads_idempotency_key", "uploads")
    op.create_index("uq_uploads_idempotency_key", "uploads", ["created_by", "idempotency_key"], unique=True)
    create_principals()
    create_grants()
    create_tokens()


def create_principals() -> None:
    op.create_table(
        "principals",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("administrator", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=True),
        sa.Column("password_hash", sa.String(length=512), nullable=True),
        sa.Column("issuer", sa.String(length=512), nullable=True),
        sa.Column("subject", sa.String(length=512), nullable=True),
        sa.Column("disabled_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("kind IN ('person', 'robot')", name=op.f("ck_principals_kind")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_principals_name")),
        sa.CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name=op.f("ck_principals_identity")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_principals_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principals")),
        sa.UniqueConstraint("name", name=op.f("uq_principals_name")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_principals_issuer_subject")),
    )
    op.create_index(op.f("ix_principals_workspace_id"), "principals", ["workspace_id"], unique=False)
    op.create_table(
        "groups",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_groups_name")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_groups_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_groups_workspace_id_name")),
        sa.UniqueConstraint("workspace_id", "id", name=op.f("uq_groups_workspace_id_id")),
    )
    op.create_table(
        "memberships",
        sa.Column("group_id", BigInteger, nullable=False),
        sa.Column("principal_id", BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_memberships_group_id_groups"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_memberships_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("group_id", "principal_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_principal_id"), "memberships", ["principal_id"], unique=False)


def create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("principal_id", BigInteger, nullable=True),
        sa.Column("group_id", BigInteger, nullable=True),
        sa.Column("pattern", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("(principal_id IS NULL) <> (group_id IS NULL)", name=op.f("ck_grants_grantee")),
        sa.CheckConstraint(f"role IN ({ROLES})", name=op.f("ck_grants_role")),
        sa.CheckConstraint("length(pattern) BETWEEN 1 AND 128", name=op.f("ck_grants_pattern")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_grants_workspace_id_workspaces")
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_grants_principal_id_principals")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_id"],
            ["groups.workspace_id", "groups.id"],
            name=op.f("fk_grants_workspace_id_group_id_groups"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    for column in ("principal_id", "group_id"):
        op.create_index(op.f(f"ix_grants_{column}"), "grants", [column], unique=False)
        given = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"uq_grants_{column}",
            "grants",
            ["workspace_id", column, "pattern", "role"],
            unique=True,
            sqlite_where=given,
            postgresql_where=given,
        )


def create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("principal_id", BigInteger, nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=True),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("last4", sa.String(length=4), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=True),
        sa.Column("pattern", sa.String(length=128), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_by", sa.String(length=128), nullable=True),
        sa.CheckConstraint("kind IN ('token', 'session')", name=op.f("ck_tokens_kind")),
        sa.CheckConstraint(f"role IN ({ROLES})", name=op.f("ck_tokens_role")),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_tokens_digest")),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_tokens_principal_id_principals")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_tokens_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    for column in ("principal_id", "workspace_id"):
        op.create_index(op.f(f"ix_tokens_{column}"), "tokens", [column], unique=False)
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key_fingerprint", sa.String(length=64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_instance_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )


def change_models(*, in_workspaces: bool) -> None:
    """Make names unique within a workspace, or (downgrade) everywhere.

    SQLite cannot change a constraint: the table is made anew under the feet of those that refer to it, whose foreign keys
    are looked at again at the commit.
    """
    if op.get_bind().dialect.name != "sqlite":
        change_models_in_place(in_workspaces=in_workspaces)
        return
    op.execute("CREATE TABLE old_models AS SELECT * FROM models")
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.drop_table("models")
    columns: list[sa.schema.SchemaItem] = [
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("next_number", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", name=op.f("ck_models_name")),
        sa.CheckConstraint("next_number >= 1", name=op.f("ck_models_next_number")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    ]
    if in_workspaces:
        columns += [
            sa.Column("workspace_id", BigInteger, server_default="1", nullable=False),
            sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_models_workspace_id_name")),
            sa.ForeignKeyConstraint(
                ["workspace_id"], ["workspaces.id"], name=op.f("fk_models_workspace_id_workspaces")
            ),
        ]
    else:
        columns.append(sa.UniqueConstraint("name", name=op.f("uq_models_name")))
    op.create_table("models", *columns)
    kept = "id, name, description, next_number, created_at"
    op.execute(f"INSERT INTO models ({kept}) SELECT {kept} FROM old_models")
    op.drop_table("old_models")
    op.execute(
        "CREATE TRIGGER tr_models_refuse_update BEFORE UPDATE ON models FOR EACH ROW WHEN"
        " (NEW.next_number < OLD.next_number) BEGIN SELECT RAISE(ABORT, 'models refuses UPDATE here'); END"
    )


def change_models_in_place(*, in_workspaces: bool) -> None:
    if in_workspaces:
        op.add_column("models", sa.Column("workspace_id", BigInteger, server_default="1", nullable=False))
        op.drop_constraint("uq_models_name", "models")
        op.create_unique_constraint("uq_models_workspace_id_name", "models", ["workspace_id", "name"])
        op.create_foreign_key(
            "fk_models_workspace_id_workspaces", "models", "workspaces", ["workspace_id"], ["id"]
        )
    else:
        op.drop_constraint("fk_models_workspace_id_workspaces", "models")
        op.drop_constraint("uq_models_workspace_id_name", "models")
        op.drop_column("models", "workspace_id")
        op.create_unique_constraint("uq_models_name", "models", ["name"])


def downgrade() -> None:
    foreign = op.get_bind().execute(sa.text("SELECT count(*) FROM models WHERE workspace_id <> 1"))
    if count := foreign.scalar_one():
        raise RuntimeError(
            f"{count} models are in other workspaces than the default one, which the schema before 0003 cannot express: "
            "copy them to another registry and delete them first, or restore a backup"
        )
    for table in ("instance", "tokens", "grants", "memberships", "groups", "principals"):
        op.drop_table(table)
    op.drop_index("uq_uploads_idempotency_key", "uploads")
    # Two callers may have used one key; which upload it was is of no use any more.
    op.execute("UPDATE uploads SET idempotency_key = NULL")
    op.create_index(op.f("ix_uploads_idempotency_key"), "uploads", ["idempotency_key"], unique=True)
    op.drop_column("events", "workspace_id")
    op.drop_column("uploads", "workspace_id")
    change_models(in_workspaces=False)
    op.drop_table("workspaces")
