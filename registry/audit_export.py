"""Putting checkpoints of the audit trail where whoever owns the database may not write: into the blob store.

    every few minutes:   check the entries since the newest checkpoint ──> sign the last of them ──> store it under a key of its own

Nothing is signed that does not follow from what was signed before: a trail that was tampered with gets no checkpoint, but an
error in the log. Several registry processes may do it at once: each checkpoint is true, and none is overwritten.
"""

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from registry.audit_verify import START, Problem, Report, verify_from, verify_since
from registry.checkpoints import MAX_BYTES, Checkpoint, Found, Signer, key_id, read
from registry.database import Database, ReadSession, as_text, utc_now
from storage import BlobStat, BlobStore
from storage.errors import BlobNotFound, KeyExists
from storage.layout import CHECKPOINTS, checkpoint_key

_READS_AT_ONCE = 8

log = logging.getLogger("modelyard.registry")


class TrailDamaged(Exception):
    """The trail is not what was written, so that nothing of it is signed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(
            f"the audit trail is not as it was written: entry {problem.first}: {problem.detail}. No checkpoint was made; "
            "`modelyard-registry audit verify` tells all."
        )


class Exporter:
    """Makes checkpoints; remembers the newest, so that the store is listed only once."""

    def __init__(self, database: Database, store: BlobStore, signer: Signer) -> None:
        self._database = database
        self._store = store
        self._signer = signer
        self._newest: Checkpoint | None = None

    def export(self, stopping: threading.Event | None = None) -> Checkpoint | None:
        """Sign and store the newest entry, unless there are none since the newest checkpoint; that one, or None.

        Raises TrailDamaged, StorageError or DatabaseUnavailable.
        """
        if self._newest is None:
            self._newest = self._newest_stored()
        with self._database.read() as session:
            report = self._look(session, stopping)
            if report.problems:
                raise TrailDamaged(report.problems[0])
            at = session.scalars(sa.select(as_text(utc_now()))).one()
        before = self._newest.mark if self._newest is not None else None
        if report.last.sequence == 0 or report.last == before:
            return self._newest
        checkpoint = self._signer.sign(report.last, at, before)
        self._put(checkpoint)
        self._newest = checkpoint
        return checkpoint

    def _look(self, session: ReadSession, stopping: threading.Event | None) -> Report:
        if self._newest is None:
            return verify_from(session, START, [], stopping=stopping)
        return verify_since(session, self._newest, stopping=stopping)

    def _newest_stored(self) -> Checkpoint | None:
        """The newest that this key has signed: others may be of an older key, or of anybody."""
        ours = {key_id(self._signer.public_key): self._signer.public_key}
        for stat in sorted(self._store.iterate(CHECKPOINTS), key=lambda stat: stat.key, reverse=True):
            found = _read(self._store, stat)
            checkpoint = None if found is None else read(found, ours)
            if isinstance(checkpoint, Checkpoint):
                return checkpoint
        return None

    def _put(self, checkpoint: Checkpoint) -> None:
        key, content = checkpoint_key(checkpoint.sequence), checkpoint.content()
        if self._store.stat(key) is None:
            with contextlib.suppress(KeyExists):  # another registry was faster; what it signed is as true
                self._store.put(key, io.BytesIO(content), size=len(content))


def stored_checkpoints(store: BlobStore) -> Iterator[Found]:
    """Everything in the store that claims to be a checkpoint."""
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="audit") as pool:
        for found in pool.map(lambda stat: _read(store, stat), store.iterate(CHECKPOINTS)):
            if found is not None:
                yield found


def export_in_background(exporter: Exporter, *, stopping: threading.Event) -> None:
    """Export, and tell the log."""
    try:
        exporter.export(stopping)
    except TrailDamaged as error:
        log.error("%s", error)  # noqa: TRY400 - the message says all


def _read(store: BlobStore, stat: BlobStat) -> Found | None:
    """None: it was deleted after it was listed."""
    try:
        with store.open(stat.key, length=MAX_BYTES) as stream:
            return Found(stat.key, stream.read())
    except BlobNotFound:
        return None
