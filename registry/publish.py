"""Publishing: making a version of what an upload brought (uploads.py), in one transaction.

    place       every file is stretches of blobs that this upload brought or may reuse, or a content that is there already
    verify      what the store has not checked itself is read and hashed; very large files right after the commit instead,
                and until then their version cannot be promoted (verify.py)
    commit      one transaction: every blob still live, number, version, files, contents, event. Only now can anybody see it

Whatever dies on the way leaves nothing but unreferenced bytes. A commit that is repeated gives the same version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from registry import audit, browse, contents, events, facts, seal, uploads, verify, workspaces
from registry.access import Caller, Permission, require
from registry.contents import Segment
from registry.database import Database, ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.domain import Facts, File, check_facts, check_files, check_model_name, manifest_digest
from registry.errors import (
    DigestMismatch,
    InvalidFiles,
    ModelExists,
    SizeMismatch,
    UploadIncomplete,
    UploadNotFound,
    UploadUsed,
)
from registry.failpoints import failpoint
from registry.tables import (
    BlobRow,
    ContentBlobRow,
    ContentRow,
    FileRow,
    LeaseRow,
    ModelRow,
    VersionRow,
)
from storage import BlobStore
from storage.errors import BlobNotFound, StorageError

MAX_SEGMENTS = 100_000
"""Stretches of which one version may consist."""

_MODELS, _VERSIONS = ModelRow.__table__, VersionRow.__table__
_COMMITTED = (
    sa.select(_VERSIONS.c.number, _VERSIONS.c.manifest_digest, _MODELS.c.name)
    .join(_MODELS, _MODELS.c.id == _VERSIONS.c.model_id)
    .where(
        _VERSIONS.c.upload_id == sa.bindparam("upload"), _MODELS.c.workspace_id == sa.bindparam("workspace")
    )
)
_REUSED = (
    sa.select(ContentRow)
    .where(ContentRow.id.in_(sa.bindparam("contents", expanding=True)))
    .order_by(ContentRow.id)
    .with_for_update(read=True)
)
_BOUND = sa.select(ContentBlobRow.__table__).where(
    ContentBlobRow.__table__.c.content_id.in_(sa.bindparam("contents", expanding=True))
)
_BLOBS = BlobRow.__table__.c
_STILL_LIVE = (
    sa.select(_BLOBS.id)
    .where(_BLOBS.id.in_(sa.bindparam("blobs", expanding=True)), _BLOBS.state == "live", ~_BLOBS.damaged)
    .order_by(_BLOBS.id)
    .with_for_update(read=True)
)
_RELEASE = sa.delete(LeaseRow.__table__).where(LeaseRow.__table__.c.upload_id == sa.bindparam("upload"))

Stretch = tuple[str, int, int]
"""Digest of a blob, offset, length: how a client says where the bytes of a file are."""


@dataclass(frozen=True, slots=True)
class _Content:
    """The bytes of a file: an existing content, or segments for a new one."""

    file: File
    known: int | None = None
    segments: tuple[Segment, ...] = ()
    verified: bool = False


def create_model(session: WriteSession, caller: Caller, name: str, description: str) -> None:
    """Create a model without versions. Raises InvalidName or ModelExists."""
    check_model_name(name)
    require(caller, Permission.PUBLISH, name)
    model = ModelRow(workspace_id=caller.workspace_id, name=name, description=description)
    try:
        session.add(model)
        session.flush()
    except sa.exc.IntegrityError as error:
        raise ModelExists(f"There is a model {name!r} already.") from error
    events.record(session, model, "model.created", {})
    audit.record(session, caller, "model.created", f"models/{name}")


def commit(
    database: Database,
    store: BlobStore,
    caller: Caller,
    model: str,
    upload_id: str,
    files: Sequence[File],
    stretches: Mapping[str, Sequence[Stretch]],
    said: Facts,
    *,
    verify_bytes: int,
) -> tuple[browse.Version, bool]:
    """Make the uploaded files a version of `model`, and the model if need be.

    `stretches` says, by path, where the bytes of a file are; a file without is a blob of its own, or there already. New
    contents of at most `verify_bytes` together are verified before the commit, larger ones after it.

    Returns the version and whether it is new: repeating a commit whose answer was lost gives the same version. Raises
    UploadIncomplete with what is missing, DigestMismatch, UploadNotFound, UploadExpired, UploadUsed, or InvalidInput.
    """
    check_model_name(model)
    by_path = check_files(files)
    check_facts(said, by_path)
    if sum(map(len, stretches.values())) > MAX_SEGMENTS:
        raise InvalidFiles(f"A version has at most {MAX_SEGMENTS} segments.")
    with database.read() as session:
        if (done := _committed(session, caller, model, upload_id, files)) is not None:
            return done, False
        if uploads.open_upload(session, caller, upload_id).model != model:
            raise UploadNotFound(f"Model {model!r} has no such upload.")
        # Only what this version is made of: other uploads of the same caller may still be bringing the rest.
        needed = {file.digest for file in files} | {s[0] for path in stretches for s in stretches[path]}
        brought = [b for b in uploads.blobs_of_upload(session, upload_id) if b.digest in needed]
    live = seal.seal(database, store, brought)
    with database.read() as session:
        placed = _place(session, caller, files, stretches, [blob for blob in brought if blob.id in live])
        keys = contents.keys_of(session, [s for content in placed for s in content.segments])
    placed = _verified(store, keys, placed, verify_bytes)
    failpoint("commit.before")
    with database.write() as session:
        insert_or_ignore(session, ModelRow, {"workspace_id": caller.workspace_id, "name": model})
        owner = browse.model_row(session, caller, model, lock=True)
        if (done := _committed(session, caller, model, upload_id, files)) is not None:
            return done, False
        uploads.open_upload(session, caller, upload_id)
        _require_live(session, placed)
        number = owner.next_number
        owner.next_number = number + 1
        digest = manifest_digest(files)
        version = _version_row(owner.id, number, upload_id, digest, said, caller.name)
        session.add(version)
        session.flush()
        _add_facts(session, version, said)
        _add_files(session, owner.id, number, placed)
        session.execute(_RELEASE, {"upload": upload_id})
        workspaces.count(session, caller, versions=1, bytes_=sum(file.size for file in files))
        events.record(session, owner, "version.created", {"number": number, "digest": digest})
        audit.record(
            session, caller, "version.created", f"models/{model}/versions/{number}", {"digest": digest}
        )
        return browse.version(session, caller, model, number), True


def _committed(
    session: browse.Session, caller: Caller, model: str, upload_id: str, files: Sequence[File]
) -> browse.Version | None:
    """The version that this upload became. Raises UploadUsed if it is another one than is asked for now."""
    found = session.execute(_COMMITTED, {"upload": upload_id, "workspace": caller.workspace_id}).first()
    if found is None:
        return None
    if (found.name, found.manifest_digest) != (model, manifest_digest(files)):
        raise UploadUsed("This upload became another version already. Start a new one.")
    return browse.version(session, caller, model, found.number)


def _place(
    session: ReadSession,
    caller: Caller,
    files: Sequence[File],
    stretches: Mapping[str, Sequence[Stretch]],
    brought: Sequence[BlobRow],
) -> list[_Content]:
    """Where the bytes of each file are. Raises UploadIncomplete or InvalidInput."""
    blobs = {blob.digest: blob for blob in brought}
    known = contents.reusable(session, caller, [file.digest for file in files])
    missing = {s[0] for path in stretches for s in stretches[path]} - blobs.keys()
    found = {}
    for file in files:
        content = known.get(file.digest)
        if content is not None:
            if content.size != file.size:
                raise SizeMismatch("A file was announced with a size that its digest cannot have.")
            found[file.path] = _Content(file, known=content.id, verified=True)
        elif file.path in stretches:
            if not missing:
                found[file.path] = _Content(file, segments=_resolve(file, stretches[file.path], blobs))
        elif file.digest in blobs:
            blob = blobs[file.digest]
            if blob.size != file.size:
                raise SizeMismatch("A file was announced with a size that its digest cannot have.")
            whole = Segment(blob.id, 0, blob.size)
            found[file.path] = _Content(file, segments=(whole,), verified=True)
        else:
            missing.add(file.digest)
    if missing:
        raise UploadIncomplete(sorted(missing))
    return [found[file.path] for file in files]


def _resolve(file: File, stretches: Sequence[Stretch], blobs: Mapping[str, BlobRow]) -> tuple[Segment, ...]:
    for digest, offset, length in stretches:
        if offset + length > blobs[digest].size:
            raise InvalidFiles("A segment reaches beyond the end of its blob.")
    if sum(length for _, _, length in stretches) != file.size:
        raise SizeMismatch("The segments of a file do not add up to its size.")
    return tuple(
        contents.coalesced([Segment(blobs[d].id, offset, length) for d, offset, length in stretches])
    )


def _verified(
    store: BlobStore, keys: Mapping[int, str], placed: Sequence[_Content], verify_bytes: int
) -> list[_Content]:
    """The same contents, verified unless they are too many bytes to read now."""
    unverified = {content.file.digest: content for content in placed if not content.verified}
    if sum(content.file.size for content in unverified.values()) > verify_bytes:
        return list(placed)
    reader = verify.PackReader(store)
    try:
        for content in unverified.values():
            found = contents.digest(reader.read(keys, content.segments))
            if found != (content.file.digest, content.file.size):
                raise DigestMismatch("The segments of a file do not have the digest that was announced.")
    except BlobNotFound as error:
        raise UploadIncomplete(sorted(unverified)) from error
    except StorageError as error:
        raise seal.unavailable() from error
    return [replace(content, verified=True) for content in placed]


def _require_live(session: WriteSession, placed: Sequence[_Content]) -> None:
    """Lock every blob that the version needs, so that the sweep waits; whatever it took before is asked for again."""
    known = [content.known for content in placed if content.known is not None]
    reused = session.scalars(_REUSED, {"contents": known}).all() if known else []
    of_known = {(content.id, segment.blob) for content in reused for segment in contents.segments_of(content)}
    # A content whose last version was purged meanwhile does not need its blobs any more.
    bound = session.execute(_BOUND, {"contents": known}) if known else ()
    unbound = of_known - {(row[0], row[1]) for row in bound}
    wanted = {segment.blob for content in placed for segment in content.segments} | {b for _, b in of_known}
    lost = wanted - set(session.scalars(_STILL_LIVE, {"blobs": list(wanted)}))
    if lost or unbound or any(content.damaged for content in reused):
        digests = sa.select(BlobRow.digest).where(BlobRow.id.in_(lost))
        files = {content.file.digest for content in placed if content.known is not None}
        raise UploadIncomplete(sorted({*session.scalars(digests), *files}))


def _add_files(session: WriteSession, model_id: int, number: int, placed: Sequence[_Content]) -> None:
    known = {content.file.digest: content.known for content in placed if content.known is not None}
    new = {content.file.digest: content for content in placed if content.file.digest not in known}
    ids = known | _add_contents(session, list(new.values()))
    of_version = {"model_id": model_id, "number": number}
    digests = {content.file.path: content.file.digest for content in placed}
    rows = [{**of_version, "path": path, "digest": d, "content_id": ids[d]} for path, d in digests.items()]
    session.execute(sa.insert(FileRow.__table__), rows)


def _add_contents(session: WriteSession, new: Sequence[_Content]) -> dict[str, int]:
    """Returns their ids by digest."""
    if not new:
        return {}
    now = session.scalars(sa.select(utc_now())).one()
    rows = [
        ContentRow(
            digest=content.file.digest,
            size=content.file.size,
            layout=contents.to_layout(content.segments),
            verified_at=now if content.verified else None,
        )
        for content in new
    ]
    session.add_all(rows)
    session.flush()
    contents.bind(session, rows)
    contents.repair(session, [row for row in rows if row.verified_at is not None])
    return {row.digest: row.id for row in rows}


def _add_facts(session: WriteSession, version: VersionRow, said: Facts) -> None:
    facts.add(session, version, "tag", said.tags or {})
    facts.add(session, version, "metric", said.metrics or {})
    facts.add_metrics(session, version, said.measured)
    facts.add(session, version, "metadata", said.metadata or {})
    facts.add(session, version, "parameter", said.parameters or {})


def _version_row(
    model_id: int, number: int, upload_id: str, digest: str, said: Facts, actor: str
) -> VersionRow:
    return VersionRow(
        model_id=model_id,
        number=number,
        manifest_digest=digest,
        format=said.format,
        variants=[{"format": variant.format, "path": variant.path} for variant in said.variants],
        signature=said.signature,
        example=said.example,
        description=said.description,
        upload_id=upload_id,
        created_by=actor,
    )
