"""Verifying contents: are the stored bytes those that the digests promise?

    commit ──> content without verified_at ──> verify_next() claims it, reads it once ──> verified, or damaged
                                                        └──> and lists its chunks, for the next version to build on

Very large files are verified after their version was created, so that publishing one takes no longer than sending it.
Until then the version cannot be promoted, and nobody's upload builds on its bytes. Several registries share the work: a
content is claimed for a moment; the claim is renewed while it is read, and lapses if the reader dies.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import sqlalchemy as sa

from registry import contents, events
from registry.chunks import LARGE, list_chunks
from registry.contents import Segment
from registry.database import Database, WriteSession, utc_now
from registry.tables import ContentBlobRow, ContentRow, FileRow, ModelRow
from storage import BlobStore
from storage.errors import BlobNotFound

CLAIM_S = 30
"""Seconds after which a claim that was not renewed is anybody's: its holder has died."""

MAX_PACK = 64 << 20
"""Bytes of a blob that is read as a whole rather than in stretches."""

LONG = 4 << 20
"""Bytes of a stretch that is worth a request of its own, and so takes no memory."""

_KEPT = 3

log = logging.getLogger("modelyard.registry")


class PackReader:
    """Reads contents. Packs are fetched whole, once, for files and chunks that follow each other and share them."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._packs: OrderedDict[int, bytes] = OrderedDict()

    def read(self, keys: Mapping[int, str], segments: Sequence[Segment]) -> Iterator[bytes | memoryview]:
        """The bytes of a content, in pieces. Raises BlobNotFound or StoreUnavailable, also half-way."""
        for segment in segments:
            pack = None if segment.length >= LONG else self._pack(segment.blob, keys[segment.blob])
            if pack is None:
                yield from contents.read(self._store, keys, [segment])
            else:
                yield memoryview(pack)[segment.offset : segment.offset + segment.length]

    def _pack(self, blob: int, key: str) -> bytes | None:
        if blob not in self._packs:
            found = self._store.stat(key)
            if found is None:
                raise BlobNotFound(key)
            if found.size > MAX_PACK:
                return None
            with self._store.open(key) as stream:
                self._packs[blob] = stream.read()
            if len(self._packs) > _KEPT:
                self._packs.popitem(last=False)
        self._packs.move_to_end(blob)
        return self._packs[blob]


def verify_all(database: Database, store: BlobStore, *, stopping: threading.Event) -> None:
    """Verify whatever is not verified yet, until there is no more or `stopping` is set."""
    while not stopping.is_set() and verify_next(database, store, stopping.is_set):
        pass


def verify_next(database: Database, store: BlobStore, give_up: Callable[[], bool] = lambda: False) -> bool:
    """Verify one content that nobody else is verifying; returns whether there was one."""
    with database.write() as session:
        content = _claim(session)
        if content is None:
            return False
        segments = contents.segments_of(content)
        keys = contents.keys_of(session, segments)
    try:
        pieces = _claimed(database, content, PackReader(store).read(keys, segments))
        found, chunks = _examine(content, pieces, give_up)
    except BlobNotFound:
        found, chunks = ("", 0), None
    except BaseException:
        _let_go(database, content)
        raise
    if give_up():
        _let_go(database, content)
    else:
        _settle(database, content, sound=found == (content.digest, content.size), chunks=chunks)
    return True


def _examine(
    content: ContentRow, pieces: Iterator[bytes | memoryview], give_up: Callable[[], bool]
) -> tuple[tuple[str, int], bytes | None]:
    """Digest and size of a content, and the list of its chunks if it is large; all in one reading."""
    hasher, size = hashlib.sha256(), 0

    def hashed() -> Iterator[bytes | memoryview]:
        nonlocal size
        for piece in pieces:
            if give_up():
                return
            hasher.update(piece)
            size += len(piece)
            yield piece

    if content.size < LARGE:
        chunks = None
        for _ in hashed():
            pass
    else:
        chunks = list_chunks(hashed())
    return (f"sha256:{hasher.hexdigest()}", size), chunks


def _claim(session: WriteSession) -> ContentRow | None:
    now = session.scalars(sa.select(utc_now())).one()
    free = sa.or_(ContentRow.claimed_until.is_(None), ContentRow.claimed_until < now)
    unlisted = sa.and_(ContentRow.chunks.is_(None), ContentRow.size >= LARGE)
    # What a purged version had is not held any more; no bytes at all need no blob.
    held = sa.or_(ContentRow.size == 0, sa.exists().where(ContentBlobRow.content_id == ContentRow.id))
    waiting = (
        sa.select(ContentRow)
        .where(sa.or_(ContentRow.verified_at.is_(None), unlisted), held, ~ContentRow.damaged, free)
        .order_by(ContentRow.verified_at.is_not(None), ContentRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    content = session.scalars(waiting).first()
    if content is not None:
        content.claimed_until = now + timedelta(seconds=CLAIM_S)
        session.flush()
    return content


def _claimed(
    database: Database, content: ContentRow, pieces: Iterator[bytes | memoryview]
) -> Iterator[bytes | memoryview]:
    """The same pieces; while they are read, the claim on the content is renewed."""
    renewed = time.monotonic()
    for piece in pieces:
        yield piece
        if time.monotonic() - renewed > CLAIM_S / 3:
            renewed = time.monotonic()
            with database.write() as session:
                until = session.scalars(sa.select(utc_now())).one() + timedelta(seconds=CLAIM_S)
                session.execute(
                    sa.update(ContentRow).where(ContentRow.id == content.id).values(claimed_until=until)
                )


def _let_go(database: Database, content: ContentRow) -> None:
    with database.write() as session:
        session.execute(sa.update(ContentRow).where(ContentRow.id == content.id).values(claimed_until=None))


def _settle(database: Database, content: ContentRow, *, sound: bool, chunks: bytes | None) -> None:
    with database.write() as session:
        row = session.get_one(ContentRow, content.id, with_for_update=True)
        row.claimed_until = None
        news = "version.verified" if row.verified_at is None else None
        if sound:
            row.verified_at = row.verified_at or session.scalars(sa.select(utc_now())).one()
            row.chunks = chunks
            session.flush()
            contents.repair(session, [row])
        else:
            log.error("content %d does not have its digest %s", row.id, row.digest)
            row.damaged, news = True, "version.damaged"
        session.flush()
        if news is not None:
            for model, number in _versions_of(session, row.id):
                events.record(session, model, news, {"number": number})


def _versions_of(session: WriteSession, content_id: int) -> list[tuple[ModelRow, int]]:
    query = (
        sa.select(ModelRow, FileRow.number)
        .join(FileRow, FileRow.model_id == ModelRow.id)
        .where(FileRow.content_id == content_id)
        .distinct()
        .order_by(ModelRow.id, FileRow.number)
    )
    return [(row[0], row[1]) for row in session.execute(query)]
