"""Publishing: from announced files to a visible version.

    begin()    the client announces paths, sizes and digests; the registry answers which bytes it needs, and where to
    receive()  … and takes them itself when the store cannot; every upload writes under a key of its own
    seal()     bytes that went straight to the store must have the announced size and digest
    commit()   one transaction: number, version, files, blobs, event. Only now can anybody see the version

Whatever dies on the way leaves nothing but unreferenced bytes. A commit that is repeated gives the same version.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO

import sqlalchemy as sa

from registry import browse, events
from registry.database import Database, WriteSession, insert_or_ignore, utc_now
from registry.domain import (
    Facts,
    File,
    check_digest,
    check_facts,
    check_files,
    check_model_name,
    manifest_digest,
)
from registry.errors import (
    DigestMismatch,
    ModelExists,
    SizeMismatch,
    StoreUnavailable,
    UploadExpired,
    UploadIncomplete,
    UploadNotFound,
    UploadUsed,
)
from registry.tables import BlobRow, FileRow, ModelRow, UploadBlobRow, UploadRow, VersionRow
from storage import BlobStore, Ticket
from storage.errors import BlobNotFound, StorageError
from storage.errors import SizeMismatch as WrongSize
from storage.layout import new_key


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that the registry asks for. Without a ticket they are to be sent to the registry itself."""

    digest: str
    size: int
    ticket: Ticket | None


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    expires_at: datetime
    needs: Sequence[Need]


def create_model(session: WriteSession, name: str, description: str) -> None:
    """Create a model without versions. Raises InvalidName or ModelExists."""
    check_model_name(name)
    if session.scalar(sa.select(ModelRow.id).where(ModelRow.name == name)) is not None:
        raise ModelExists(f"There is a model {name!r} already.")
    try:
        session.add(ModelRow(name=name, description=description))
        session.flush()
    except sa.exc.IntegrityError as error:  # somebody else was faster
        raise ModelExists(f"There is a model {name!r} already.") from error
    events.record(session, "model.created", name, {})


def begin(
    database: Database,
    store: BlobStore,
    model: str,
    files: Sequence[File],
    *,
    actor: str,
    ttl_s: int,
    url_ttl_s: int,
) -> Upload:
    """Start an upload of `files`; tells which bytes are needed. Raises InvalidName or InvalidInput of the files."""
    check_model_name(model)
    check_files(files)
    sizes = {file.digest: file.size for file in files}
    upload_id = str(uuid.uuid4())
    with database.write() as session:
        now = session.scalars(sa.select(utc_now())).one()
        upload = UploadRow(
            id=upload_id, model=model, created_by=actor, expires_at=now + timedelta(seconds=ttl_s)
        )
        session.add(upload)
        session.flush()
        stored = sa.select(BlobRow.digest, BlobRow.size).where(BlobRow.digest.in_(sizes))
        known = {row[0]: row[1] for row in session.execute(stored)}
        if any(known[digest] != sizes[digest] for digest in known):
            raise SizeMismatch("A file was announced with a size that its digest cannot have.")
        needed = [
            UploadBlobRow(upload_id=upload_id, digest=digest, key=new_key(digest), size=size)
            for digest, size in sorted(sizes.items())
            if digest not in known
        ]
        session.add_all(needed)
    try:
        needs = [
            Need(b.digest, b.size, store.upload_ticket(b.key, size=b.size, expires_s=url_ttl_s))
            for b in needed
        ]
    except StorageError as error:
        raise _store_unavailable() from error
    return Upload(upload_id, upload.expires_at, needs)


def receive(
    database: Database, store: BlobStore, upload_id: str, digest: str, source: BinaryIO, *, size: int
) -> None:
    """Store bytes that the client sends to the registry itself.

    Raises UploadNotFound, UploadExpired, SizeMismatch or DigestMismatch; then nothing of them is kept. Bytes that
    arrived before are not written again.
    """
    check_digest(digest)
    with database.read() as session:
        _open_upload(session, upload_id)
        blob = session.get(UploadBlobRow, (upload_id, digest))
    if blob is None:
        raise UploadNotFound("This upload does not expect these bytes.")
    if size != blob.size:
        raise SizeMismatch(f"{blob.size} bytes were announced; the request has {size}.")
    if blob.sealed:
        return
    hashing = _HashingReader(source)
    # Two requests with the same bytes may run at once; each writes under its own key, the first to finish counts.
    key = new_key(digest)
    try:
        store.put(key, hashing, size=size)
    except WrongSize as error:
        raise SizeMismatch(f"{blob.size} bytes were announced; another number arrived.") from error
    except StorageError as error:
        raise _store_unavailable() from error
    if hashing.digest() != digest:
        _discard(store, key)
        raise DigestMismatch("The bytes received do not have the digest that was announced.")
    if not _seal_as(database, upload_id, digest, key):
        _discard(store, key)


def commit(
    database: Database,
    store: BlobStore,
    model: str,
    upload_id: str,
    files: Sequence[File],
    facts: Facts,
    *,
    actor: str,
) -> tuple[browse.Version, bool]:
    """Make the uploaded files a version of `model`, and the model if need be.

    Returns the version and whether it is new: repeating a commit whose answer was lost gives the same version. Raises
    UploadIncomplete with what is missing, DigestMismatch, UploadNotFound, UploadExpired, UploadUsed, or InvalidInput.
    """
    check_model_name(model)
    by_path = check_files(files)
    check_facts(facts, by_path)
    seal(database, store, upload_id)
    digest = manifest_digest(files)
    with database.write() as session:
        insert_or_ignore(session, ModelRow, name=model)
        owner = session.scalars(sa.select(ModelRow).where(ModelRow.name == model).with_for_update()).one()
        committed = session.scalar(sa.select(VersionRow).where(VersionRow.upload_id == upload_id))
        if committed is not None:
            if (committed.model_id, committed.manifest_digest) != (owner.id, digest):
                raise UploadUsed("This upload became another version already. Start a new one.")
            return browse.version(session, model, committed.number), False
        upload = _open_upload(session, upload_id)
        if upload.model != model:
            raise UploadNotFound(f"Model {model!r} has no such upload.")
        spare = _adopt_blobs(session, upload_id, files)
        number = owner.next_number
        owner.next_number = number + 1
        session.add(_version_row(owner.id, number, upload_id, digest, facts, actor))
        session.flush()
        session.add_all(
            FileRow(model_id=owner.id, number=number, path=f.path, digest=f.digest) for f in files
        )
        session.flush()
        events.record(session, "version.created", model, {"number": number, "digest": digest})
        version = browse.version(session, model, number)
    for key in spare:
        _discard(store, key)
    return version, True


def seal(database: Database, store: BlobStore, upload_id: str) -> None:
    """Read what was sent straight to the store, and keep what has the announced size and digest.

    A presigned URL outlives the upload, so what it can write must never be what a version refers to: the verified
    bytes are written again under a key that no URL was ever made for. Bytes that are not there yet are no error here.
    Raises DigestMismatch when stored bytes are not what was announced.
    """
    with database.read() as session:
        unsealed = session.scalars(
            sa.select(UploadBlobRow).where(UploadBlobRow.upload_id == upload_id, ~UploadBlobRow.sealed)
        ).all()
    for blob in unsealed:
        try:
            key = _keep_verified(store, blob)
        except BlobNotFound:
            continue
        except StorageError as error:
            raise _store_unavailable() from error
        _discard(store, blob.key)
        if key is None:
            raise DigestMismatch(
                "Stored bytes do not have the size and digest that were announced. Upload them again."
            )
        if not _seal_as(database, upload_id, blob.digest, key):
            _discard(store, key)


def _keep_verified(store: BlobStore, blob: UploadBlobRow) -> str | None:
    key = new_key(blob.digest)
    with store.open(blob.key) as stored:
        hashing = _HashingReader(stored)
        try:
            store.put(key, hashing, size=blob.size)
        except WrongSize:
            return None
    if hashing.digest() != blob.digest:
        _discard(store, key)
        return None
    return key


def _seal_as(database: Database, upload_id: str, digest: str, key: str) -> bool:
    with database.write() as session:
        sealed = session.execute(
            sa.update(UploadBlobRow)
            .where(
                UploadBlobRow.upload_id == upload_id, UploadBlobRow.digest == digest, ~UploadBlobRow.sealed
            )
            .values(sealed=True, key=key)
            .returning(UploadBlobRow.digest)
        )
        return sealed.first() is not None


def _open_upload(session: browse.Session, upload_id: str) -> UploadRow:
    upload = session.get(UploadRow, upload_id)
    if upload is None:
        raise UploadNotFound("There is no such upload.")
    if upload.expires_at <= session.scalars(sa.select(utc_now())).one():
        raise UploadExpired("This upload took too long. Start a new one.")
    return upload


def _adopt_blobs(session: WriteSession, upload_id: str, files: Sequence[File]) -> list[str]:
    """Turn what this upload brought into blobs; returns keys of bytes that turned out to be there already."""
    wanted = {file.digest: file.size for file in files}
    brought = session.scalars(
        sa.select(UploadBlobRow).where(UploadBlobRow.upload_id == upload_id, UploadBlobRow.sealed)
    ).all()
    for blob in sorted(
        brought, key=lambda b: b.digest
    ):  # one order for all writers, or two could wait for each other
        if blob.digest in wanted:
            insert_or_ignore(session, BlobRow, digest=blob.digest, key=blob.key, size=blob.size)
    known = {b.digest: b for b in session.scalars(sa.select(BlobRow).where(BlobRow.digest.in_(wanted)))}
    if missing := wanted.keys() - known.keys():
        raise UploadIncomplete(sorted(missing))
    if any(known[digest].size != size for digest, size in wanted.items()):
        raise SizeMismatch("A file was announced with a size that its digest cannot have.")
    return [blob.key for blob in brought if blob.digest in known and known[blob.digest].key != blob.key]


def _version_row(
    model_id: int, number: int, upload_id: str, digest: str, facts: Facts, actor: str
) -> VersionRow:
    return VersionRow(
        model_id=model_id,
        number=number,
        manifest_digest=digest,
        format=facts.format,
        variants=[{"format": variant.format, "path": variant.path} for variant in facts.variants],
        signature=facts.signature,
        example=facts.example,
        description=facts.description,
        metrics=facts.metrics or {},
        tags=facts.tags or {},
        upload_id=upload_id,
        created_by=actor,
    )


def _discard(store: BlobStore, key: str) -> None:
    """Remove bytes that nothing refers to. If the store refuses, they stay, unreferenced and harmless."""
    try:
        store.delete(key)
    except StorageError:
        return


def _store_unavailable() -> StoreUnavailable:
    return StoreUnavailable("The registry's blob store does not answer. Try again in a moment.")


class _HashingReader:
    """Hashes what passes through."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
