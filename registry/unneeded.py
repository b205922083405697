"""What nothing needs any more: the questions that the sweep asks (sweep.py), as queries and conditions.

A blob is held while a content that needs it belongs to a file of a version that is not purged, or while an upload that
has not expired has a lease on it. `due` says which deleted versions count as purged already.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from registry.database import Database, ReadSession, WriteSession, utc_now
from registry.tables import (
    BlobRow,
    ContentBlobRow,
    ContentRow,
    FileRow,
    LeaseRow,
    TrashRow,
    UploadRow,
    VersionRow,
)
from storage import BlobStore
from storage.layout import is_audit

BATCH = 500
"""Rows that one transaction changes at most."""

ORPHAN_AGE = timedelta(days=1)

Condition = sa.ColumnElement[bool]
Session = ReadSession | WriteSession
T = TypeVar("T")


def now(session: Session) -> datetime:
    return session.scalars(sa.select(utc_now())).one()


def blobs(state: str) -> sa.Select[Any]:
    return sa.select(BlobRow.id).where(BlobRow.state == state)


def due(session: Session, restore_window_s: float) -> Condition:
    """Versions whose restore window is over."""
    before = now(session) - timedelta(seconds=restore_window_s)
    return sa.and_(
        VersionRow.deleted_at <= before, VersionRow.purged_at.is_(None), VersionRow.legal_hold.is_(None)
    )


def _of_kept_version(due: Condition | None) -> Condition:
    """Whether a file is one of a version that is not purged, and not about to be."""
    kept = VersionRow.purged_at.is_(None)
    return sa.and_(
        VersionRow.model_id == FileRow.model_id,
        VersionRow.number == FileRow.number,
        kept if due is None else sa.and_(kept, sa.not_(sa.func.coalesce(due, sa.false()))),
    )


def _leased() -> Condition:
    return sa.exists().where(
        LeaseRow.blob_id == BlobRow.id, UploadRow.id == LeaseRow.upload_id, UploadRow.expires_at > utc_now()
    )


def held(due: Condition | None = None) -> Condition:
    """Whether something needs a blob; with `due`, as if these versions were purged already."""
    by_version = sa.exists().where(
        ContentBlobRow.blob_id == BlobRow.id,
        FileRow.content_id == ContentBlobRow.content_id,
        _of_kept_version(due),
    )
    return sa.or_(by_version, _leased())


def expired_leases() -> sa.Select[Any]:
    expired = sa.exists().where(UploadRow.id == LeaseRow.upload_id, UploadRow.expires_at <= utc_now())
    return sa.select(LeaseRow).where(expired)


def stale_expected() -> sa.Select[Any]:
    """Blobs that no upload can still bring."""
    return blobs("expected").where(~_leased())


def contents(due: Condition | None = None) -> sa.Select[Any]:
    needed = sa.exists().where(FileRow.content_id == ContentRow.id, _of_kept_version(due))
    bound = sa.exists().where(ContentBlobRow.content_id == ContentRow.id)
    return sa.select(ContentRow.id).where(bound, ~needed)


def past_grace(session: Session, grace_s: float) -> sa.Select[Any]:
    before = now(session) - timedelta(seconds=grace_s)
    return blobs("condemned").where(BlobRow.condemned_at <= before, ~held())


def due_trash() -> sa.Select[Any]:
    """Keys whose time has come, but never one that a sealed blob has: that would be a defect, and is one for fsck."""
    sealed = sa.exists().where(BlobRow.key == TrashRow.key, BlobRow.state != "expected")
    return sa.select(TrashRow.key).where(sa.or_(TrashRow.not_before <= utc_now(), TrashRow.claimed), ~sealed)


def orphans(database: Database, store: BlobStore) -> Iterator[tuple[list[str], int]]:
    """Keys that only the store knows, and how many objects were looked at, a batch at a time."""
    old = datetime.now(UTC) - ORPHAN_AGE
    for stats in batched(store.iterate()):
        keys = [stat.key for stat in stats if stat.modified < old and not is_audit(stat.key)]
        with database.read() as session:
            known = known_keys(session, keys)
        yield [key for key in keys if key not in known], len(stats)


def known_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """One statement, as between two a key could change sides and be seen on neither."""
    blobs = sa.select(BlobRow.key).where(BlobRow.key.in_(keys))
    return set(session.scalars(blobs.union(sa.select(TrashRow.key).where(TrashRow.key.in_(keys)))))


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch
