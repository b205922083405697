"""Where the bytes of a version are: its files, the segments that each consists of, and the blobs that those are parts of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from registry.access import Caller
from registry.browse import Session, model_row, version_row
from registry.contents import Segment, segments_of
from registry.domain import File
from registry.errors import FileNotFound
from registry.tables import BlobRow, ContentBlobRow, ContentRow, FileRow


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """An object of the blob store. The key never leaves the registry."""

    digest: str
    size: int
    key: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file together with the segments that it consists of."""

    file: File
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """The files of a version, and the blobs that their segments refer to, by id."""

    files: Sequence[StoredFile]
    blobs: Mapping[int, StoredBlob]


def stored_version(
    session: Session, caller: Caller, name: str, number: int, path: str | None = None
) -> StoredVersion:
    """The files of a version (or only `path`) and where their bytes are.

    Raises ModelNotFound, VersionNotFound, VersionDeleted or FileNotFound.
    """
    owner = model_row(session, caller, name)
    version_row(session, owner, number)
    query = (
        sa.select(FileRow, ContentRow)
        .join(ContentRow, ContentRow.id == FileRow.content_id)
        .where(FileRow.model_id == owner.id, FileRow.number == number)
        .order_by(FileRow.path)
    )
    if path is not None:
        query = query.where(FileRow.path == path)
    files = [StoredFile(File(f.path, c.size, c.digest), segments_of(c)) for f, c in session.execute(query)]
    if not files:
        raise FileNotFound(f"Version {number} of {name!r} has no such file.")
    wanted = {segment.blob for stored in files for segment in stored.segments}
    rows = session.scalars(sa.select(BlobRow).where(BlobRow.id.in_(wanted)))
    return StoredVersion(files, {row.id: StoredBlob(row.digest, row.size, row.key) for row in rows})


def stored_blob(session: Session, caller: Caller, name: str, number: int, digest: str) -> StoredBlob:
    """One blob that files of this version need. Raises as `stored_version` does."""
    owner = model_row(session, caller, name)
    version_row(session, owner, number)
    query = (
        sa.select(BlobRow)
        .join(ContentBlobRow, ContentBlobRow.blob_id == BlobRow.id)
        .join(FileRow, FileRow.content_id == ContentBlobRow.content_id)
        .where(FileRow.model_id == owner.id, FileRow.number == number, BlobRow.digest == digest)
    )
    row = session.scalars(query.limit(1)).first()
    if row is None:
        raise FileNotFound(f"Version {number} of {name!r} has no such blob.")
    return StoredBlob(row.digest, row.size, row.key)
