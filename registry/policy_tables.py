"""The tables of governance: what promotions need, who asked for them, who approved, and what the checks found.

    workspaces ──< policies                    every revision of every policy: the newest of a pattern counts
    models ──< promotion_requests ──< request_entries       asked, commented, approved, …: all that was said
       └─────< decisions ──< findings          what the checks found when somebody asked, and when it was done

Triggers refuse to change or remove policies, entries, decisions and findings, to change a request that is closed or what an
open one asks for, to say anything in a closed one, and to move a pointer of a frozen model.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.database import utc_now
from registry.tables import Base, BigInteger, Json, ModelRow, WorkspaceRow


class PolicyRow(Base):
    """One revision of the policy of a pattern. Without `rules`: there is none any more."""

    __tablename__ = "policies"
    __table_args__ = (
        sa.CheckConstraint("revision >= 1", "revision"),
        sa.CheckConstraint("length(pattern) BETWEEN 1 AND 128", "pattern"),
    )

    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id), primary_key=True)
    pattern: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rules: Mapped[dict[str, Any] | None] = mapped_column(Json)
    set_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    set_by: Mapped[str] = mapped_column(sa.String(128))


class RequestRow(Base):
    """Somebody asks for a promotion that needs approvals, or its time.

    open ──last approval──> done
     ├──> rejected  withdrawn  expired
     └──> outdated (the pointer moved)  failed (when its time came, it could not be done)
    """

    __tablename__ = "promotion_requests"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("id >= 1", "id"),
        sa.CheckConstraint("generation >= 0", "generation"),
        sa.CheckConstraint(
            "state IN ('open', 'done', 'rejected', 'withdrawn', 'expired', 'outdated', 'failed')", "state"
        ),
        sa.CheckConstraint("(state = 'open') = (closed_at IS NULL)", "closed_at"),
        # For the foreign key of entries, which know by it who must not approve.
        sa.UniqueConstraint("model_id", "id", "requested_by"),
        # Asking twice is asking once.
        sa.Index(
            "uq_promotion_requests_open",
            "model_id",
            "number",
            "to",
            unique=True,
            sqlite_where=sa.text("state = 'open'"),
            postgresql_where=sa.text("state = 'open'"),
        ),
        # A move is what one request asked for.
        sa.Index(
            "uq_promotion_requests_move",
            "model_id",
            "pointer",
            "generation",
            unique=True,
            sqlite_where=sa.text("state = 'done'"),
            postgresql_where=sa.text("state = 'done'"),
        ),
        # What the scheduler looks for.
        sa.Index("ix_promotion_requests_due", "state", "due_at"),
    )

    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    to: Mapped[str] = mapped_column(sa.String(64))
    # The pointer that would move, and how often it had moved when somebody asked; None: the version holds no stage to leave.
    pointer: Mapped[str | None] = mapped_column(sa.String(64))
    generation: Mapped[int]
    reason: Mapped[str] = mapped_column(sa.Text)
    # Not before then; None: as soon as it is approved.
    at: Mapped[datetime | None]
    # When the scheduler has to look at it: `at`, or when it expires, whichever is first.
    due_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    requested_at: Mapped[datetime] = mapped_column(server_default=utc_now())
    requested_by: Mapped[str] = mapped_column(sa.String(128))
    state: Mapped[str] = mapped_column(sa.String(9), default="open")
    closed_at: Mapped[datetime | None]


class EntryRow(Base):
    """Something said about a request. An approval is of the version's facts as they were at `fact_revision`."""

    __tablename__ = "request_entries"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["model_id", "request_id", "requested_by"],
            ["promotion_requests.model_id", "promotion_requests.id", "promotion_requests.requested_by"],
            name="fk_request_entries_request",
        ),
        sa.CheckConstraint(
            "kind IN ('asked', 'commented', 'approved', 'rejected', 'withdrawn', 'expired', 'outdated', 'failed', 'done')",
            "kind",
        ),
        # Four eyes.
        sa.CheckConstraint("kind <> 'approved' OR author <> requested_by", "four_eyes"),
        sa.Index(
            "uq_request_entries_approval",
            "model_id",
            "request_id",
            "author",
            "fact_revision",
            unique=True,
            sqlite_where=sa.text("kind = 'approved'"),
            postgresql_where=sa.text("kind = 'approved'"),
        ),
    )

    model_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    request_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    requested_by: Mapped[str] = mapped_column(sa.String(128))
    kind: Mapped[str] = mapped_column(sa.String(9))
    author: Mapped[str] = mapped_column(sa.String(128))
    text: Mapped[str] = mapped_column(sa.Text)
    manifest_digest: Mapped[str] = mapped_column(sa.String(71))
    fact_revision: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=utc_now())


class DecisionRow(Base):
    """Policy was asked about a promotion that then became a request ('asked') or was done ('done'): on what grounds."""

    __tablename__ = "decisions"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("outcome IN ('asked', 'done')", "outcome"),
        sa.Index(None, "model_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    model_id: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str] = mapped_column(sa.String(5))
    number: Mapped[int]
    source: Mapped[str] = mapped_column(sa.String(10))
    to: Mapped[str] = mapped_column(sa.String(64))
    # The move that follows has the next generation of this pointer.
    pointer: Mapped[str | None] = mapped_column(sa.String(64))
    generation: Mapped[int]
    manifest_digest: Mapped[str] = mapped_column(sa.String(71))
    fact_revision: Mapped[int] = mapped_column(BigInteger)
    # [pattern, revision] of each policy.
    policies: Mapped[list[Any]]
    approvals: Mapped[int]
    approved_by: Mapped[list[Any]]
    request_id: Mapped[int | None]
    actor: Mapped[str] = mapped_column(sa.String(128))
    at: Mapped[datetime] = mapped_column(server_default=utc_now())


class FindingRow(Base):
    """What one check found."""

    __tablename__ = "findings"

    decision_id: Mapped[int] = mapped_column(sa.ForeignKey(DecisionRow.id), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # As it was evaluated: JSONB rewrites numbers.
    check: Mapped[dict[str, Any]] = mapped_column("asked", sa.JSON())
    passed: Mapped[bool]
    said: Mapped[str] = mapped_column(sa.Text)
    inputs: Mapped[dict[str, Any]] = mapped_column(sa.JSON())
