"""What an uploader need not send: bytes that are there already, and that it may read.

    files      sound contents of versions that are not deleted
    bases      large files of the newest versions of the model: their chunks
    unfinished what earlier uploads of the same caller to the same model brought before they were interrupted

Whatever is found is leased to the upload, so that the sweep leaves it alone until the upload ends, and looked at in the
store: a blob that is gone there is marked, so that nobody builds on it. Nobody learns here that somebody else's bytes exist.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from registry import contents
from registry.access import Caller
from registry.database import Database, ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.seal import AT_ONCE, unavailable
from registry.tables import BlobRow, ContentRow, FileRow, LeaseRow, ModelRow, UploadRow, VersionRow
from storage import BlobStore
from storage.errors import StorageError

Session = ReadSession | WriteSession

_BLOBS, _LEASES = BlobRow.__table__, LeaseRow.__table__.c
_REVIVE = (
    sa.update(_BLOBS)
    .where(_BLOBS.c.id.in_(sa.select(_LEASES.blob_id).where(_LEASES.upload_id == sa.bindparam("upload"))))
    .where(_BLOBS.c.state == "condemned")
    .values(state="live", condemned_at=None)
)
_BASE_VERSIONS = 3
_BASE_BYTES = 8 << 20  # of lists of chunks: those of 29 GiB


@dataclass(frozen=True, slots=True)
class Unhashed:
    """A file that the caller has not hashed yet."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Base:
    """A stored large file: where it lies ([blob digest, offset, length] each), and its chunks as chunks.py lists them."""

    segments: Sequence[tuple[str, int, int]]
    chunks: bytes


def bases(session: Session, caller: Caller, model: str) -> Sequence[ContentRow]:
    """Large files of the newest versions of this model, as many as there is room for in one answer."""
    newest = (
        sa.select(VersionRow.model_id, VersionRow.number)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(caller.sees_models(), ModelRow.name == model, VersionRow.deleted_at.is_(None))
        .order_by(VersionRow.number.desc())
        .limit(_BASE_VERSIONS)
        .subquery()
    )
    listed = (
        sa.select(ContentRow)
        .join(FileRow, FileRow.content_id == ContentRow.id)
        .join(newest, sa.and_(newest.c.model_id == FileRow.model_id, newest.c.number == FileRow.number))
        .where(ContentRow.chunks.is_not(None), contents.is_sound())
        .order_by(newest.c.number.desc(), FileRow.path)
    )
    found, room = {}, _BASE_BYTES
    for content in session.scalars(listed):
        if content.id not in found and (room := room - len(content.chunks or b"")) >= 0:
            found[content.id] = content
    return list(found.values())


def base_of(content: ContentRow, blobs: Mapping[int, BlobRow]) -> Base:
    segments = [(blobs[s.blob].digest, s.offset, s.length) for s in contents.segments_of(content)]
    return Base(segments, content.chunks or b"")


def worth_hashing(
    session: Session, caller: Caller, unhashed: Sequence[Unhashed], known: Collection[ContentRow]
) -> list[str]:
    """Unhashed files for which some readable file of that size exists that is none of the bases `known`.

    The others are new, or their chunks will show that they are not.
    """
    query = (
        sa.select(ContentRow.size)
        .join(FileRow, FileRow.content_id == ContentRow.id)
        .join(
            VersionRow,
            sa.and_(VersionRow.model_id == FileRow.model_id, VersionRow.number == FileRow.number),
        )
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(
            caller.sees_models(),
            ContentRow.size.in_({each.size for each in unhashed}),
            ContentRow.id.not_in([content.id for content in known]),
            VersionRow.deleted_at.is_(None),
        )
    )
    sizes = set(session.scalars(query)) if unhashed else set()
    return [each.path for each in unhashed if each.size in sizes]


def unfinished(session: Session, upload: UploadRow, digests: Collection[str]) -> Sequence[BlobRow]:
    """Blobs with these digests that earlier uploads of this caller to this model announced, and perhaps brought."""
    theirs = (
        sa.select(BlobRow)
        .join(UploadRow, UploadRow.id == BlobRow.upload_id)
        .where(
            BlobRow.digest.in_(digests),
            BlobRow.state != "condemned",
            ~BlobRow.damaged,
            UploadRow.workspace_id == upload.workspace_id,
            UploadRow.model == upload.model,
            UploadRow.created_by == upload.created_by,
            UploadRow.id != upload.id,
            UploadRow.expires_at > utc_now(),
            ~sa.exists().where(VersionRow.upload_id == UploadRow.id),
        )
    )
    return session.scalars(theirs).all()


def blobs_of(session: Session, found: Iterable[ContentRow]) -> dict[int, BlobRow]:
    """The blobs that these contents need, by id."""
    ids = {blob for content in found for blob in needs(content)}
    rows = session.scalars(sa.select(BlobRow).where(BlobRow.id.in_(ids))).all() if ids else []
    return {row.id: row for row in rows}


def needs(content: ContentRow) -> set[int]:
    return {segment.blob for segment in contents.segments_of(content)}


def lease(session: WriteSession, upload_id: str, blobs: Collection[int]) -> None:
    if not blobs:
        return
    # in one order for all, or two could wait for each other
    insert_or_ignore(
        session, LeaseRow, *({"upload_id": upload_id, "blob_id": blob} for blob in sorted(blobs))
    )
    # The sweep may have condemned one since it was looked up: it is needed again.
    session.execute(_REVIVE, {"upload": upload_id})


def lost(database: Database, store: BlobStore, blobs: Collection[BlobRow]) -> set[int]:
    """Ids of blobs that the store has no longer, or not with their size. They are marked, so that nobody builds on them."""
    if not blobs:
        return set()
    try:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            found = list(pool.map(lambda blob: store.stat(blob.key), blobs))
    except StorageError as error:
        raise unavailable() from error
    gone = {
        blob.id for blob, stat in zip(blobs, found, strict=True) if stat is None or stat.size != blob.size
    }
    if gone:
        with database.write() as session:
            session.execute(sa.update(BlobRow).where(BlobRow.id.in_(gone)).values(damaged=True))
    return gone
