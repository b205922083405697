"""The tables of access rules: who exists, what they may do, and with which tokens they prove who they are.

    workspaces ──< models (tables.py)          a name is unique within its workspace; counters and limits are per workspace
        ├──< groups ──< memberships >── principals ──< tokens        a principal is a person or a robot
        └──< grants >── principal | group      role, for the models whose names match a pattern

An administrator may do everything in every workspace. A token may do at most what its principal may.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.database import utc_now
from registry.tables import Base, BigInteger, WorkspaceRow

ROLES = "'reader', 'publisher', 'promoter', 'owner', 'admin'"


class PrincipalRow(Base):
    __tablename__ = "principals"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('person', 'robot')", "kind"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
        sa.CheckConstraint("(issuer IS NULL) = (subject IS NULL)", "identity"),
        sa.UniqueConstraint("issuer", "subject"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(128), unique=True)
    kind: Mapped[str] = mapped_column(sa.String(8))
    administrator: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    # The workspace whose admins look after this principal; None: only administrators do.
    workspace_id: Mapped[int | None] = mapped_column(sa.ForeignKey(WorkspaceRow.id), index=True)
    password_hash: Mapped[str | None] = mapped_column(sa.String(512))
    # Who they are for an identity provider: a subject means nothing without its issuer.
    issuer: Mapped[str | None] = mapped_column(sa.String(512))
    subject: Mapped[str | None] = mapped_column(sa.String(512))
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))


class GroupRow(Base):
    __tablename__ = "groups"
    __table_args__ = (
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
        sa.UniqueConstraint("workspace_id", "name"),
        sa.UniqueConstraint("workspace_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id))
    name: Mapped[str] = mapped_column(sa.String(128))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))


class MembershipRow(Base):
    __tablename__ = "memberships"

    group_id: Mapped[int] = mapped_column(sa.ForeignKey(GroupRow.id, ondelete="CASCADE"), primary_key=True)
    principal_id: Mapped[int] = mapped_column(sa.ForeignKey(PrincipalRow.id), primary_key=True, index=True)
    # The identity provider that said so last; None: an admin did, whom no provider overrules.
    issuer: Mapped[str | None] = mapped_column(sa.String(512))


class GrantRow(Base):
    __tablename__ = "grants"
    __table_args__ = (
        # A group's grant is in the group's workspace.
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_id"], ["groups.workspace_id", "groups.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("(principal_id IS NULL) <> (group_id IS NULL)", "grantee"),
        sa.CheckConstraint(f"role IN ({ROLES})", "role"),
        sa.CheckConstraint("length(pattern) BETWEEN 1 AND 128", "pattern"),
        *(
            sa.Index(
                f"uq_grants_{column}",
                "workspace_id",
                column,
                "pattern",
                "role",
                unique=True,
                sqlite_where=sa.text(f"{column} IS NOT NULL"),
                postgresql_where=sa.text(f"{column} IS NOT NULL"),
            )
            for column in ("principal_id", "group_id")
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id))
    principal_id: Mapped[int | None] = mapped_column(sa.ForeignKey(PrincipalRow.id), index=True)
    group_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    pattern: Mapped[str] = mapped_column(sa.String(128))
    role: Mapped[str] = mapped_column(sa.String(16))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))


class TokenRow(Base):
    """What is kept of a token: enough to recognise it, not enough to make it."""

    __tablename__ = "tokens"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('token', 'session')", "kind"),
        sa.CheckConstraint(f"role IN ({ROLES})", "role"),
        sa.CheckConstraint("length(digest) = 64", "digest"),
    )

    id: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    principal_id: Mapped[int] = mapped_column(sa.ForeignKey(PrincipalRow.id), index=True)
    # Good in this workspace only; None: wherever the principal has rights.
    workspace_id: Mapped[int | None] = mapped_column(sa.ForeignKey(WorkspaceRow.id), index=True)
    kind: Mapped[str] = mapped_column(sa.String(8))
    name: Mapped[str] = mapped_column(sa.String(128))
    digest: Mapped[str] = mapped_column(sa.String(64))
    last4: Mapped[str] = mapped_column(sa.String(4))
    # At most this role, and only for models whose names match; None: whatever the principal may.
    role: Mapped[str | None] = mapped_column(sa.String(16))
    pattern: Mapped[str | None] = mapped_column(sa.String(128))
    created_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    created_by: Mapped[str] = mapped_column(sa.String(128))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(sa.String(128))


class InstanceRow(Base):
    """One row: by which secret key the tokens of this database were made. Another key would recognise none of them."""

    __tablename__ = "instance"
    __table_args__ = (sa.CheckConstraint("id = 1", "single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key_fingerprint: Mapped[str] = mapped_column(sa.String(64))
