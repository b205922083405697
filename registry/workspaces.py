"""Workspaces: names, rights and limits of their own. One, "default", is always there.

What a workspace has is counted with every change, so that a limit costs no look at all its versions. Bytes are those of
its versions' files, however much of them is stored only once; a deleted version counts until it is purged.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from registry import audit
from registry.access import Caller
from registry.database import ReadSession, WriteSession
from registry.domain import check_workspace_name
from registry.errors import NameTaken, QuotaExceeded, WorkspaceNotFound
from registry.tables import ContentRow, FileRow, VersionRow, WorkspaceRow


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so many versions, bytes, and requests a minute of each caller; None: no limit."""

    max_versions: int | None = None
    max_bytes: int | None = None
    max_requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    name: str
    versions: int
    bytes: int
    limits: Limits
    created_at: datetime
    created_by: str


def create(session: WriteSession, caller: Caller, name: str, limits: Limits) -> Workspace:
    """Raises InvalidName or NameTaken."""
    check_workspace_name(name)
    row = WorkspaceRow(
        name=name,
        max_versions=limits.max_versions,
        max_bytes=limits.max_bytes,
        max_requests_per_minute=limits.max_requests_per_minute,
        created_by=caller.name,
    )
    try:
        session.add(row)
        session.flush()
    except sa.exc.IntegrityError as error:
        raise NameTaken(f"There is a workspace {name!r} already.") from error
    audit.record(session, caller, "workspace.created", f"workspaces/{name}", asdict(limits))
    return _workspace_of(row)


def listed(session: ReadSession) -> Sequence[Workspace]:
    """All of them, by name."""
    return [
        _workspace_of(row) for row in session.scalars(sa.select(WorkspaceRow).order_by(WorkspaceRow.name))
    ]


def get(session: ReadSession, caller: Caller) -> Workspace:
    """The one that is asked."""
    return _workspace_of(session.get_one(WorkspaceRow, caller.workspace_id))


def limit(session: WriteSession, caller: Caller, name: str, limits: Limits) -> Workspace:
    """Set the limits of a workspace. What it has already stays. Raises WorkspaceNotFound."""
    row = session.scalar(sa.select(WorkspaceRow).where(WorkspaceRow.name == name).with_for_update())
    if row is None:
        raise WorkspaceNotFound(name)
    row.max_versions, row.max_bytes = limits.max_versions, limits.max_bytes
    row.max_requests_per_minute = limits.max_requests_per_minute
    session.flush()
    audit.record(session, caller, "workspace.limited", f"workspaces/{name}", asdict(limits))
    return _workspace_of(row)


def count(session: WriteSession, caller: Caller, *, versions: int, bytes_: int) -> None:
    """Add to what the caller's workspace has. Raises QuotaExceeded.

    The row stays locked until the commit, as the feed's does: call it as late.
    """
    session.flush()
    more = {"workspace": caller.workspace_id, "more_versions": versions, "more_bytes": bytes_}
    row = session.execute(_COUNT, more).one()
    for have, most, what in ((row[0], row[1], "versions"), (row[2], row[3], "bytes")):
        if most is not None and have > most:
            raise QuotaExceeded(
                f"The workspace {caller.workspace!r} may have {most} {what}. Delete some, or ask an administrator for more.",
                limit=most,
                what=what,
            )


def uncount(session: WriteSession, workspace_id: int, versions: Sequence[VersionRow]) -> None:
    """Take off what purged versions of one model had."""
    model_id, numbers = versions[0].model_id, [version.number for version in versions]
    sizes = (
        sa.select(sa.func.coalesce(sa.func.sum(ContentRow.size), 0))
        .join(FileRow, FileRow.content_id == ContentRow.id)
        .where(FileRow.model_id == model_id, FileRow.number.in_(numbers))
    )
    change = sa.update(WorkspaceRow).where(WorkspaceRow.id == workspace_id)
    session.execute(
        change.values(
            versions=WorkspaceRow.versions - len(versions),
            bytes=WorkspaceRow.bytes - sizes.scalar_subquery(),
        )
    )


_WORKSPACES = WorkspaceRow.__table__.c
_COUNT = (
    sa.update(WorkspaceRow.__table__)
    .where(_WORKSPACES.id == sa.bindparam("workspace"))
    .values(
        versions=_WORKSPACES.versions + sa.bindparam("more_versions", type_=sa.BigInteger),
        bytes=_WORKSPACES.bytes + sa.bindparam("more_bytes", type_=sa.BigInteger),
    )
    .returning(_WORKSPACES.versions, _WORKSPACES.max_versions, _WORKSPACES.bytes, _WORKSPACES.max_bytes)
)


def _workspace_of(row: WorkspaceRow) -> Workspace:
    limits = Limits(row.max_versions, row.max_bytes, row.max_requests_per_minute)
    return Workspace(row.name, row.versions, row.bytes, limits, row.created_at, row.created_by)
