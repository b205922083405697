"""Logging in: attempts, logins in a browser, trusted publishers; which memberships an identity provider stands for.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from registry.database import UtcDateTime, utc_now

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Digest = sa.String(length=64)

SHORT_LIVED = ("login_attempts", "browser_logins", "login_codes", "spent_tokens")


def upgrade() -> None:
    op.add_column("memberships", sa.Column("issuer", sa.String(length=512), nullable=True))
    op.create_table(
        "login_attempts",
        sa.Column("key", Digest, nullable=False),
        sa.Column("empty_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_login_attempts")),
    )
    op.create_table(
        "browser_logins",
        sa.Column("state", Digest, nullable=False),
        sa.Column("browser", Digest, nullable=False),
        sa.Column("issuer", sa.String(length=32), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=64), nullable=False),
        sa.Column("redirect_uri", sa.String(length=64), nullable=False),
        sa.Column("client_state", sa.String(length=128), nullable=False),
        sa.Column("challenge", sa.String(length=43), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("state", name=op.f("pk_browser_logins")),
    )
    op.create_table(
        "login_codes",
        sa.Column("code", Digest, nullable=False),
        sa.Column("principal_id", BigInteger, nullable=False),
        sa.Column("issuer", sa.String(length=32), nullable=False),
        sa.Column("redirect_uri", sa.String(length=64), nullable=False),
        sa.Column("challenge", sa.String(length=43), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_login_codes_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_login_codes")),
    )
    op.create_table(
        "spent_tokens",
        sa.Column("token", Digest, nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_spent_tokens")),
    )
    for table in SHORT_LIVED:
        op.create_index(op.f(f"ix_{table}_expires_at"), table, ["expires_at"], unique=False)
    op.create_table(
        "trusted_publishers",
        sa.Column("id", BigInteger, nullable=False),
        sa.Column("workspace_id", BigInteger, nullable=False),
        sa.Column("issuer", sa.String(length=512), nullable=False),
        sa.Column("claims", Json, nullable=False),
        sa.Column("principal_id", BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=utc_now(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("CAST(claims AS TEXT) <> '{}'", name=op.f("ck_trusted_publishers_claims")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_trusted_publishers_workspace_id_workspaces")
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_trusted_publishers_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trusted_publishers")),
    )
    op.create_index(
        op.f("ix_trusted_publishers_workspace_id"), "trusted_publishers", ["workspace_id"], unique=False
    )


def downgrade() -> None:
    for table in ("trusted_publishers", *SHORT_LIVED):
        op.drop_table(table)
    op.drop_column("memberships", "issuer")
