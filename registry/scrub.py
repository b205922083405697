"""The scrub: reads everything again and compares it with its digest, for disks forget and stores lose.

    live blobs ──hash──> damaged or gone?  ──> the blob is marked, so that nobody builds on it …
    contents   ──hash──> other bytes?      ──> … and so are the contents that it is part of
                                                └──> version.damaged; such a version is not promoted

Publishing the same files again repairs (contents.repair), and so does putting the right bytes back into the store: the
scrub finds blobs and contents sound again. A content that is one whole blob is not read a second time.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO, TypeVar

import sqlalchemy as sa

from registry import contents, events
from registry.database import Database, WriteSession, utc_now
from registry.failpoints import failpoint
from registry.tables import BlobRow, ContentBlobRow, ContentRow, FileRow, ModelRow, VersionRow
from storage import BlobStore
from storage.errors import BlobNotFound, StorageError

BATCH = 200

log = logging.getLogger("modelyard.registry")

T = TypeVar("T", BlobRow, ContentRow)


class TooMuchDamage(Exception):
    """So much is wrong that it is more likely the wrong store, or one that is not mounted."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`older_than_s`: skip what was found sound since. More than `max_share` damage (and more than a few) stops the scrub."""

    apply: bool = False
    older_than_s: float = 0
    parallel: int = 4
    max_share: float = 0.2
    force: bool = False


@dataclass(slots=True)
class Scrubbed:
    """What was found. `damaged` counts blobs and contents, `healed` those that were damaged and are sound again."""

    blobs: int = 0
    contents: int = 0
    bytes: int = 0
    damaged: int = 0
    healed: int = 0
    unreadable: int = 0
    versions: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not (self.damaged or self.unreadable)


FEW = 20


def scrub(
    database: Database,
    store: BlobStore,
    rules: Rules,
    *,
    progress: Callable[[Scrubbed], None] = lambda _: None,
) -> Scrubbed:
    """Read and compare; with `rules.apply` also mark what is damaged, and what is sound again.

    Raises TooMuchDamage, or DatabaseUnavailable. What the store does not answer for is counted as unreadable, and keeps
    its mark.
    """
    return _Scrub(database, store, rules, progress).run()


class _Scrub:
    def __init__(
        self, database: Database, store: BlobStore, rules: Rules, progress: Callable[[Scrubbed], None]
    ) -> None:
        self._database = database
        self._store = store
        self._rules = rules
        self._progress = progress
        self._found = Scrubbed()
        self._bad: set[int] = set()
        self._unread: set[int] = set()
        self._versions: set[str] = set()

    def run(self) -> Scrubbed:
        with self._database.read() as session:
            now = session.scalars(sa.select(utc_now())).one()
        before = now - timedelta(seconds=self._rules.older_than_s)
        with ThreadPoolExecutor(self._rules.parallel, thread_name_prefix="scrub") as pool:
            for blobs in self._batches(BlobRow, _blobs_to_read(before)):
                self._note_blobs(blobs, list(pool.map(self._blob_is_sound, blobs)))
            for batch in self._batches(ContentRow, _contents_to_read(before)):
                verdicts = list(pool.map(self._content_is_sound, batch))
                for content, sound in zip(batch, verdicts, strict=True):
                    self._note_content(content, sound)
        self._found.versions = tuple(sorted(self._versions))
        return self._found

    def _batches(self, table: type[T], query: sa.Select[Any]) -> Iterator[Sequence[T]]:
        after = 0
        while True:
            with self._database.read() as session:
                page = query.where(table.id > after).order_by(table.id).limit(BATCH)
                rows: Sequence[T] = session.scalars(page).all()
            if not rows:
                return
            yield rows
            after = rows[-1].id
            self._progress(self._found)

    def _blob_is_sound(self, blob: BlobRow) -> bool | None:
        """None: the store does not say."""
        try:
            with self._store.open(blob.key) as stream:
                return contents.digest(_pieces(stream)) == (blob.digest, blob.size)
        except BlobNotFound:
            return False
        except StorageError as error:
            log.warning("cannot read blob %d now: %s", blob.id, error)
            return None

    def _content_is_sound(self, content: ContentRow) -> bool | None:
        segments = contents.segments_of(content)
        needed = {segment.blob for segment in segments}
        with self._database.read() as session:
            blobs = {row.id: row for row in session.scalars(sa.select(BlobRow).where(BlobRow.id.in_(needed)))}
        if self._bad & needed or needed - blobs.keys():
            return False
        if self._unread & needed:
            return None
        if [blobs[s.blob].digest for s in segments] == [content.digest]:
            return True
        keys = {blob.id: blob.key for blob in blobs.values()}
        try:
            found = contents.digest(contents.read(self._store, keys, segments))
        except BlobNotFound:
            return False
        except StorageError as error:
            log.warning("cannot read content %d now: %s", content.id, error)
            return None
        return found == (content.digest, content.size)

    def _note_blobs(self, blobs: Sequence[BlobRow], verdicts: Sequence[bool | None]) -> None:
        self._found.blobs += len(blobs)
        self._found.bytes += sum(blob.size for blob in blobs)
        judged = list(zip(blobs, verdicts, strict=True))
        unread = {blob.id for blob, sound in judged if sound is None}
        bad = [blob for blob, sound in judged if sound is False and self._is_still_there(blob)]
        healed = [blob.id for blob, sound in judged if sound and blob.damaged]
        self._unread |= unread
        self._bad |= {blob.id for blob in bad}
        self._found.unreadable += len(unread)
        self._found.damaged += len(bad)
        self._found.healed += len(healed)
        self._require_plausible()
        for blob in bad:
            log.error("blob %d does not have its digest %s, or is gone", blob.id, blob.digest)
            if self._rules.apply:
                self._mark_blob(blob.id)
        if healed and self._rules.apply:
            with self._database.write() as session:
                session.execute(sa.update(BlobRow).where(BlobRow.id.in_(healed)).values(damaged=False))

    def _is_still_there(self, blob: BlobRow) -> bool:
        """Whether it is damage: the sweep may have taken the blob since it was listed."""
        with self._database.read() as session:
            return session.scalar(sa.select(BlobRow.state).where(BlobRow.id == blob.id)) == "live"

    def _require_plausible(self) -> None:
        bad, there = self._found.damaged, self._found.blobs
        if not self._rules.force and bad > FEW and bad > self._rules.max_share * there:
            raise TooMuchDamage(
                f"{bad} of the first {there} blobs are damaged or gone. Look whether this is the right store, and mounted; "
                "if it is, scrub with --force. What was found so far stays marked."
            )

    def _mark_blob(self, blob: int) -> None:
        using = (
            sa.select(ContentRow)
            .where(
                ContentRow.id.in_(sa.select(ContentBlobRow.content_id).where(ContentBlobRow.blob_id == blob))
            )
            .order_by(ContentRow.id)
        )
        failpoint("scrub.before_mark")
        with self._database.write() as session:
            # Contents before blobs, as a commit does: one order, no deadlock.
            affected = session.scalars(using.with_for_update()).all()
            session.execute(sa.update(BlobRow).where(BlobRow.id == blob).values(damaged=True))
            self._mark(session, [content for content in affected if not content.damaged], damaged=True)

    def _note_content(self, content: ContentRow, sound: bool | None) -> None:
        self._found.contents += 1
        if sound is None:
            self._found.unreadable += 1
            return
        if not sound:
            self._found.damaged += 1
            log.error("content %d does not have its digest %s", content.id, content.digest)
        elif content.damaged:
            self._found.healed += 1
        with self._database.read() as session:
            self._versions |= {f"{m.name}/{n}" for m, n in _versions_of(session, content.id) if not sound}
        if self._rules.apply:
            self._settle(content, sound=sound)

    def _settle(self, content: ContentRow, *, sound: bool) -> None:
        with self._database.write() as session:
            row = session.get_one(ContentRow, content.id, with_for_update=True)
            if row.layout != content.layout:
                return  # repaired meanwhile
            if sound:
                row.verified_at = session.scalars(sa.select(utc_now())).one()
            if row.damaged == sound:
                self._mark(session, [row], damaged=not sound)

    def _mark(self, session: WriteSession, affected: Sequence[ContentRow], *, damaged: bool) -> None:
        for content in affected:
            content.damaged = damaged
        session.flush()
        kind = "version.damaged" if damaged else "version.verified"
        versions = {each for content in affected for each in _versions_of(session, content.id)}
        for model, number in sorted(versions, key=lambda each: (each[0].id, each[1])):
            events.record(session, model, kind, {"number": number})


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(contents.CHUNK):
        yield chunk


def _needed() -> sa.Exists:
    return sa.exists().where(
        FileRow.content_id == ContentRow.id,
        VersionRow.model_id == FileRow.model_id,
        VersionRow.number == FileRow.number,
        VersionRow.purged_at.is_(None),
    )


def _contents_to_read(before: datetime) -> sa.Select[Any]:
    """Contents of versions that are not purged; those that nobody has verified yet are verify.py's."""
    return sa.select(ContentRow).where(
        sa.or_(ContentRow.verified_at <= before, ContentRow.damaged), _needed()
    )


def _blobs_to_read(before: datetime) -> sa.Select[Any]:
    """Live blobs, but not those whose contents were all found sound since."""
    users = sa.exists().where(ContentBlobRow.blob_id == BlobRow.id)
    stale = users.where(
        ContentRow.id == ContentBlobRow.content_id,
        sa.or_(ContentRow.verified_at.is_(None), ContentRow.verified_at <= before, ContentRow.damaged),
    )
    # A damaged blob that nothing uses has been replaced, and is the sweep's.
    unused = sa.and_(~users, ~BlobRow.damaged, BlobRow.created_at <= before)
    return sa.select(BlobRow).where(BlobRow.state == "live", sa.or_(stale, unused))


def _versions_of(session: Any, content: int) -> list[tuple[ModelRow, int]]:
    query = (
        sa.select(ModelRow, FileRow.number)
        .join(FileRow, FileRow.model_id == ModelRow.id)
        .join(
            VersionRow,
            sa.and_(VersionRow.model_id == FileRow.model_id, VersionRow.number == FileRow.number),
        )
        .where(FileRow.content_id == content, VersionRow.purged_at.is_(None))
        .distinct()
    )
    return [(row[0], row[1]) for row in session.execute(query)]
