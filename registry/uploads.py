"""Uploads: how bytes get into the store. publish.py makes a version of them.

    begin()     OPEN    an upload with an id, a time limit, and perhaps the caller's idempotency key
                OFFER   the caller says which files it has; the answer says which bytes it need not send (offers.py) …
                LEASE   … and from now on those are not swept, until the upload ends
    expect()            the caller announces blobs (whole files, or packs); the answer says where to send each
    receive()   WRITE   bytes that come through the registry, because the store cannot take them directly
                SEAL    seal.py: what arrived has the announced size and digest; now it is live

Whatever dies on the way leaves nothing that the sweep does not find. Every upload writes under keys of its own, which are
never used again.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import BinaryIO

import sqlalchemy as sa

from registry import contents, offers
from registry.access import Caller
from registry.database import Database, ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.domain import (
    File,
    canonical_json,
    check_digest,
    check_files,
    check_model_name,
    check_path,
    sha256,
)
from registry.errors import (
    DigestMismatch,
    IdempotencyMismatch,
    InvalidFiles,
    SizeMismatch,
    UploadExpired,
    UploadNotFound,
)
from registry.hashing import HashingReader
from registry.offers import Base, Unhashed
from registry.seal import discard, make_live, seal, unavailable
from registry.tables import BlobRow, LeaseRow, TrashRow, UploadRow
from storage import BlobStore, Ticket
from storage.errors import SizeMismatch as WrongSize
from storage.errors import StorageError
from storage.layout import new_key

Session = ReadSession | WriteSession

MAX_BLOBS = 65_536
"""Blobs that one upload may bring: a terabyte in packs of 16 MiB."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that the registry asks for. Without a ticket they are to be sent to the registry itself."""

    digest: str
    size: int
    ticket: Ticket | None


@dataclass(frozen=True, slots=True)
class Announced:
    """A blob that the caller wants to send."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Upload:
    """`have`: digests of files that need not be sent. `hash_first`: unhashed files that might be there already."""

    id: str
    expires_at: datetime
    have: Sequence[str] = ()
    hash_first: Sequence[str] = ()
    bases: Sequence[Base] = ()
    needs: Sequence[Need] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a caller has: hashed files, unhashed ones, and whether it sends packs rather than whole files."""

    files: Sequence[File]
    unhashed: Sequence[Unhashed] = ()
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an upload may take, how long one of its URLs is good for (seconds), how large a blob may be (bytes)."""

    ttl_s: int
    url_ttl_s: int
    blob_bytes: int = field(default=5 << 30)


def begin(
    database: Database,
    store: BlobStore,
    caller: Caller,
    model: str,
    offer: Offer,
    *,
    limits: Limits,
    idempotency_key: str | None = None,
) -> Upload:
    """Start an upload, or find the one that the same caller started with the same key and request.

    Raises InvalidName, InvalidInput of the files, IdempotencyMismatch, UploadExpired or StoreUnavailable.
    """
    check_model_name(model)
    _check_offer(offer)
    with database.write() as session:
        upload = _open(session, caller, model, offer, limits, idempotency_key)
        have = contents.reusable(session, caller, [file.digest for file in offer.files])
        _check_sizes(offer.files, {digest: content.size for digest, content in have.items()})
        bases = offers.bases(session, caller, model) if offer.packed else []
        hash_first = offers.worth_hashing(session, caller, offer.unhashed, bases)
        leased = offers.blobs_of(session, [*have.values(), *bases])
        offers.lease(session, upload.id, leased)
    lost = offers.lost(database, store, leased.values())
    whole = {digest for digest, content in have.items() if not offers.needs(content) & lost}
    missing = {file.digest: file.size for file in offer.files if file.digest not in whole}
    announced = [Announced(digest, size) for digest, size in sorted(missing.items())]
    return Upload(
        id=upload.id,
        expires_at=upload.expires_at,
        have=sorted(whole),
        hash_first=hash_first,
        bases=[offers.base_of(base, leased) for base in bases if not offers.needs(base) & lost],
        needs=[] if offer.packed else expect(database, store, caller, upload.id, announced, limits=limits),
    )


def have(
    database: Database, store: BlobStore, caller: Caller, upload_id: str, files: Sequence[File]
) -> Sequence[str]:
    """Which of these files, hashed since the upload began, need not be sent. Raises UploadNotFound or UploadExpired."""
    check_files(files)
    with database.write() as session:
        open_upload(session, caller, upload_id)
        found = contents.reusable(session, caller, [file.digest for file in files])
        _check_sizes(files, {digest: content.size for digest, content in found.items()})
        leased = offers.blobs_of(session, found.values())
        offers.lease(session, upload_id, leased)
    lost = offers.lost(database, store, leased.values())
    return sorted(digest for digest, content in found.items() if not offers.needs(content) & lost)


def expect(
    database: Database,
    store: BlobStore,
    caller: Caller,
    upload_id: str,
    announced: Sequence[Announced],
    *,
    limits: Limits,
) -> list[Need]:
    """Tell where to send each of these blobs; those that this upload has already are left out.

    Raises UploadNotFound, UploadExpired, InvalidDigest or InvalidFiles.
    """
    for blob in announced:
        check_digest(blob.digest)
        if blob.size > limits.blob_bytes:
            raise InvalidFiles(
                f"One blob may have at most {limits.blob_bytes} bytes: cut larger files into chunks."
            )
    with database.read() as session:
        upload = open_upload(session, caller, upload_id)
        known = {blob.digest: blob for blob in _of_digests(session, upload_id, announced)}
        new = [blob for blob in announced if blob.digest not in known]
        earlier = offers.unfinished(session, upload, [blob.digest for blob in new]) if new else []
    resumed = seal(database, store, earlier)
    if new:
        with database.write() as session:
            offers.lease(session, upload_id, resumed)
            known |= {blob.digest: blob for blob in _of_digests(session, upload_id, new)}
            _add_expected(session, upload, [blob for blob in new if blob.digest not in known], limits)
            known |= {blob.digest: blob for blob in _of_digests(session, upload_id, new)}
    wanted = [known[blob.digest] for blob in announced if known[blob.digest].state == "expected"]
    try:
        return [
            Need(
                b.digest,
                b.size,
                store.upload_ticket(b.key, size=b.size, digest=b.digest, expires_s=limits.url_ttl_s),
            )
            for b in wanted
        ]
    except StorageError as error:
        raise unavailable() from error


def _add_expected(
    session: WriteSession, upload: UploadRow, announced: Sequence[Announced], limits: Limits
) -> None:
    if not announced:
        return
    leases = sa.select(sa.func.count()).select_from(LeaseRow).where(LeaseRow.upload_id == upload.id)
    if session.scalars(leases).one() + len(announced) > MAX_BLOBS:
        raise InvalidFiles(f"One upload may bring at most {MAX_BLOBS} blobs.")
    # Plain statements: an upload announces each of its packs, and the unit of work would take twice as long.
    keys = [new_key(blob.digest) for blob in announced]
    _into_trash(session, keys, upload, limits)
    rows = [
        {"digest": blob.digest, "size": blob.size, "key": key, "state": "expected", "upload_id": upload.id}
        for blob, key in zip(announced, keys, strict=True)
    ]
    session.execute(sa.insert(BlobRow), rows)
    of_keys = sa.select(sa.literal(upload.id), BlobRow.id).where(BlobRow.key.in_(keys))
    session.execute(sa.insert(LeaseRow).from_select(["upload_id", "blob_id"], of_keys))


def _of_digests(session: Session, upload_id: str, announced: Sequence[Announced]) -> Sequence[BlobRow]:
    digests = [blob.digest for blob in announced]
    return session.scalars(_LEASED.where(BlobRow.digest.in_(digests)), {"upload": upload_id}).all()


def receive(
    database: Database,
    store: BlobStore,
    caller: Caller,
    upload_id: str,
    digest: str,
    source: BinaryIO,
    *,
    size: int,
    limits: Limits,
) -> None:
    """Store bytes that the client sends to the registry itself.

    Raises UploadNotFound, UploadExpired, SizeMismatch or DigestMismatch; then nothing of them is kept. Bytes that
    arrived before are not written again.
    """
    check_digest(digest)
    with database.write() as session:
        upload = open_upload(session, caller, upload_id)
        blob = session.scalars(_LEASED.where(BlobRow.digest == digest), {"upload": upload_id}).first()
        if blob is None:
            raise UploadNotFound("This upload does not expect these bytes.")
        if size != blob.size:
            raise SizeMismatch(f"{blob.size} bytes were announced; the request has {size}.")
        if blob.state == "live":
            return
        # Two requests with the same bytes may run at once; each writes under its own key, the first to finish counts.
        key = new_key(digest)
        _into_trash(session, [key], upload, limits)
    hashing = HashingReader(source)
    try:
        store.put(key, hashing, size=size)
    except WrongSize as error:
        raise SizeMismatch(f"{blob.size} bytes were announced; another number arrived.") from error
    except StorageError as error:
        raise unavailable() from error
    if hashing.digest() != digest:
        discard(store, key)
        raise DigestMismatch("The bytes received do not have the digest that was announced.")
    live = make_live(database, {blob.id: key})
    if live.get(blob.id) != key:
        discard(store, key)
    if blob.id not in live:
        raise UploadExpired("This upload took too long. Start a new one.")


def open_upload(session: Session, caller: Caller, upload_id: str) -> UploadRow:
    """An upload of the caller that is under way. Raises UploadNotFound or UploadExpired."""
    found = session.execute(_UPLOAD_AND_NOW, {"id": upload_id}).first()
    if found is None or (found[0].workspace_id, found[0].created_by) != (caller.workspace_id, caller.name):
        raise UploadNotFound("There is no such upload.")
    upload, now = found
    if upload.expires_at <= now:
        raise UploadExpired("This upload took too long. Start a new one.")
    return upload


def blobs_of_upload(session: Session, upload_id: str) -> Sequence[BlobRow]:
    """What an upload brings, or may reuse."""
    return session.scalars(_LEASED, {"upload": upload_id}).all()


_LEASED = (
    sa.select(BlobRow)
    .join(LeaseRow, LeaseRow.blob_id == BlobRow.id)
    # what turned out to be gone is asked for again
    .where(LeaseRow.upload_id == sa.bindparam("upload"), ~BlobRow.damaged)
    .order_by(BlobRow.id)
)


_UPLOAD_AND_NOW = sa.select(UploadRow, utc_now()).where(UploadRow.id == sa.bindparam("id"))


def _check_offer(offer: Offer) -> None:
    if offer.files or not offer.unhashed:
        check_files(offer.files)
    for each in offer.unhashed:
        check_path(each.path)
    if offer.unhashed and not offer.packed:
        raise InvalidFiles("Files without a digest can only be sent in packs.")


def _check_sizes(files: Iterable[File], known: Mapping[str, int]) -> None:
    if any(known.get(file.digest, file.size) != file.size for file in files):
        raise SizeMismatch("A file was announced with a size that its digest cannot have.")


def _open(
    session: WriteSession,
    caller: Caller,
    model: str,
    offer: Offer,
    limits: Limits,
    idempotency_key: str | None,
) -> UploadRow:
    now = session.scalars(sa.select(utc_now())).one()
    request = {
        "model": model,
        "workspace": caller.workspace,
        "packed": offer.packed,
        "files": [[f.path, f.size, f.digest] for f in offer.files],
        "unhashed": [[f.path, f.size] for f in offer.unhashed],
    }
    upload_id, digest = str(uuid.uuid4()), sha256(canonical_json(request))
    row = {
        "id": upload_id,
        "model": model,
        "created_by": caller.name,
        "workspace_id": caller.workspace_id,
        "expires_at": now + timedelta(seconds=limits.ttl_s),
        "idempotency_key": idempotency_key,
        "request_digest": digest,
    }
    insert_or_ignore(session, UploadRow, row)
    if (mine := session.execute(_UPLOAD_AND_NOW, {"id": upload_id}).first()) is not None:
        return mine[0]
    same_key = sa.select(UploadRow).where(
        UploadRow.created_by == caller.name, UploadRow.idempotency_key == idempotency_key
    )
    same = session.scalars(same_key).one()
    if same.request_digest != digest:
        raise IdempotencyMismatch("This idempotency key was used for another request. Use a new one.")
    return open_upload(session, caller, same.id)


def _into_trash(session: WriteSession, keys: Sequence[str], upload: UploadRow, limits: Limits) -> None:
    """Until they are sealed."""
    not_before = _not_before(upload, limits)
    session.execute(sa.insert(TrashRow), [{"key": key, "not_before": not_before} for key in keys])


def _not_before(upload: UploadRow, limits: Limits) -> datetime:
    """A presigned URL outlives its upload, and may bring a key back to life until it expires."""
    return upload.expires_at + timedelta(seconds=limits.url_ttl_s)
