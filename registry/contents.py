"""Contents: which stretches of which blobs make up a file, and reading them back as one.

A stretch is [blob id, offset, length]. What is stored says which version of this format it is, so that old versions stay
readable when there is another.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from registry.access import Caller
from registry.database import ReadSession, WriteSession
from registry.tables import BlobRow, ContentBlobRow, ContentRow, FileRow, ModelRow, VersionRow
from storage import BlobStore

LAYOUT = 1
CHUNK = 1 << 20

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` bytes of blob number `blob`, from `offset` on."""

    blob: int
    offset: int
    length: int


def to_layout(segments: Sequence[Segment]) -> dict[str, Any]:
    return {"layout": LAYOUT, "segments": [[s.blob, s.offset, s.length] for s in coalesced(segments)]}


def segments_of(content: ContentRow) -> list[Segment]:
    """What `to_layout` was given. Raises ValueError for a layout that a later registry has written."""
    if content.layout["layout"] != LAYOUT:
        raise ValueError(f"content {content.id} has a layout that this registry does not know: update it")
    return [Segment(*each) for each in content.layout["segments"]]


def coalesced(segments: Sequence[Segment]) -> list[Segment]:
    """The same bytes in as few segments as possible; empty ones are left out."""
    found: list[Segment] = []
    for segment in segments:
        last = found[-1] if found else None
        if last and (last.blob, last.offset + last.length) == (segment.blob, segment.offset):
            found[-1] = Segment(last.blob, last.offset, last.length + segment.length)
        elif segment.length:
            found.append(segment)
    return found


def keys_of(session: Session, segments: Sequence[Segment]) -> dict[int, str]:
    """Where the blobs of these segments are now."""
    wanted = {segment.blob for segment in segments}
    if not wanted:
        return {}
    return {
        row[0]: row[1]
        for row in session.execute(sa.select(BlobRow.id, BlobRow.key).where(BlobRow.id.in_(wanted)))
    }


def read(store: BlobStore, keys: Mapping[int, str], segments: Sequence[Segment]) -> Iterator[bytes]:
    """The bytes of a content, in pieces. Raises BlobNotFound or StoreUnavailable, also half-way."""
    for segment in coalesced(segments):
        left = segment.length
        with store.open(keys[segment.blob], offset=segment.offset, length=left) as stream:
            while left and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
        if left:
            return  # a blob that is too short: whoever counts or hashes finds out


def digest(pieces: Iterator[bytes | memoryview]) -> tuple[str, int]:
    """Digest and size of what `pieces` add up to."""
    hasher, size = hashlib.sha256(), 0
    for piece in pieces:
        hasher.update(piece)
        size += len(piece)
    return f"sha256:{hasher.hexdigest()}", size


def reusable(session: Session, caller: Caller, digests: Sequence[str]) -> dict[str, ContentRow]:
    """Sound contents with these digests in versions that the caller may read: their bytes need not be sent again.

    Nobody learns here that bytes exist which are somebody else's: what a caller may not read is not found.
    """
    of_version = sa.and_(VersionRow.model_id == FileRow.model_id, VersionRow.number == FileRow.number)
    readable = (  # of any one of its versions: a content may have thousands
        sa.exists()
        .where(FileRow.content_id == ContentRow.id, of_version, VersionRow.deleted_at.is_(None))
        .where(ModelRow.id == VersionRow.model_id, caller.sees_models())
    )
    query = sa.select(ContentRow).where(ContentRow.digest.in_(digests), is_sound(), readable)
    return {content.digest: content for content in session.scalars(query)}


def is_sound() -> sa.ColumnElement[bool]:
    """Whether a content was verified, and all its bytes are there as far as anybody knows."""
    lost = (
        sa.exists()
        .where(ContentBlobRow.content_id == ContentRow.id)
        .where(BlobRow.id == ContentBlobRow.blob_id)
        .where(sa.or_(BlobRow.state != "live", BlobRow.damaged))
    )
    return sa.and_(ContentRow.verified_at.is_not(None), ~ContentRow.damaged, ~lost)


def bind(session: WriteSession, bound: Sequence[ContentRow]) -> None:
    """Note which blobs contents need."""
    session.add_all(
        ContentBlobRow(content_id=content.id, blob_id=blob)
        for content in bound
        for blob in sorted({segment.blob for segment in segments_of(content)})
    )
    session.flush()


def repair(session: WriteSession, healthy: Sequence[ContentRow]) -> None:
    """Give damaged contents the same bytes, now that they are there once more: their versions are whole again."""
    by_digest = {content.digest: content for content in healthy}
    damaged = session.scalars(
        sa.select(ContentRow).where(ContentRow.digest.in_(by_digest), ContentRow.damaged)
    ).all()
    for content in damaged:
        sound = by_digest[content.digest]
        session.execute(sa.delete(ContentBlobRow).where(ContentBlobRow.content_id == content.id))
        content.layout = sound.layout
        session.flush()
        content.damaged, content.verified_at, content.chunks = False, sound.verified_at, sound.chunks
    bind(session, damaged)
