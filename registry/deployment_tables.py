"""The tables of deployments: what serving adapters say that they run.

    workspaces ──< adapters ──< deployments >── versions      one row for each model that an adapter serves

They are the newest reports, not a history: an adapter that is not heard of any more is removed after a while.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables import Base, BigInteger, ModelRow, WorkspaceRow


class AdapterRow(Base):
    """One serving process. Its name is its own, within what one principal reports: nobody can report for another."""

    __tablename__ = "adapters"
    __table_args__ = (
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
        sa.UniqueConstraint("workspace_id", "principal", "name"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey(WorkspaceRow.id))
    principal: Mapped[str] = mapped_column(sa.String(128))
    name: Mapped[str] = mapped_column(sa.String(128))
    reported_at: Mapped[datetime] = mapped_column(index=True)


class DeploymentRow(Base):
    """What answers under `name` at an adapter: a version, or (None) nothing yet."""

    __tablename__ = "deployments"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 128", "name"),
        sa.Index(None, "model_id", "adapter_id", "name"),
    )

    adapter_id: Mapped[int] = mapped_column(
        BigInteger, sa.ForeignKey(AdapterRow.id, ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    model_id: Mapped[int] = mapped_column(sa.ForeignKey(ModelRow.id))
    number: Mapped[int | None]
    follows: Mapped[str] = mapped_column(sa.String(256))
    since: Mapped[datetime | None]
    trouble: Mapped[str] = mapped_column(sa.String(512))
