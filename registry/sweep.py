"""The sweep: gives back the space of bytes that nothing needs any more, while everybody goes on working.

    leases      of uploads that are over go …
    expected    … and what never arrived, too; the key is in the trash since before its first byte
    purge       deleted versions whose restore window is over: from now on they hold nothing
    unbind      contents that no unpurged version has: they need their blobs no longer
    condemn     live blobs that nothing holds ──> condemned; nobody is offered them from now on
    revive      condemned blobs that something holds again ──> live
    drop        condemned for the grace time, and still held by nothing ──> the row goes, the key is in the trash
    empty       keys whose time has come: claimed, then deleted from the store, then forgotten
    orphans     (on request) objects of the store that no row knows, older than a day ──> trash

unneeded.py says what "holds" and "needed" mean.

Why nothing that is needed can be lost, whatever runs at the same time, and wherever a process dies:

1. Every step finds candidates in one transaction, and acts in a second one that locks their rows first and then asks
   again, in a statement of its own. SQLite has one writer at a time (BEGIN IMMEDIATE), so that what was asked is true
   until the commit. PostgreSQL gives each statement a new snapshot (READ COMMITTED) and the row lock keeps out whoever
   could make the answer wrong: a commit holds FOR SHARE on every blob that it builds on, and each lease and each
   content_blobs row takes FOR KEY SHARE through its foreign key; all of these conflict with FOR UPDATE here. So they
   either were over before the lock was granted (then the second question sees them), or wait until the sweep has
   committed. Asking in the statement that locks is not enough: its snapshot is older than the lock.
2. Who waited finds a condemned blob no longer live: a commit answers which bytes to send again, and nothing happened.
   A lease on a condemned blob makes it live again, or the next sweep does.
3. Contents are treated likewise: a commit that reuses a content locks its row, and then sees that it still needs its blobs.
4. Only content_blobs of contents that no unpurged version has are removed; a blob that another content needs is held back
   by its foreign key.
5. A key is in `trash` or is that of a sealed blob, never both, for it changes sides within one transaction, and it is
   used once. Claiming it in the trash, in a transaction of its own, comes before the first attempt to delete the object:
   sealing takes only keys that are not claimed. A process that dies in between leaves a claimed key, and any other sweep
   goes on from there.
6. An orphan is what the store lists and one statement that looks at blobs and trash together, later, does not find. Every key is
   in the trash before its first byte, so that what is not there by then was there before, or never.

Rows locked by others are skipped (the next sweep finds them), so that the sweep neither waits nor deadlocks. `grace_s`
must be longer than any transaction takes, and than readers need who have just resolved a key.
"""

import logging
import math
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from registry import events, unneeded, workspaces
from registry.database import Database, ReadSession, WriteSession, insert_or_ignore
from registry.failpoints import failpoint
from registry.tables import (
    BlobRow,
    ContentBlobRow,
    ContentRow,
    LeaseRow,
    ModelRow,
    TrashRow,
    VersionRow,
)
from storage import BlobStore
from storage.errors import StorageError

FEW = 20
"""So many blobs may always be condemned, whatever their share."""

_DELETES_AT_ONCE = 8

log = logging.getLogger("modelyard.registry")


class Implausible(Exception):
    """So much would go that something is more likely wrong with the database than with the bytes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds; `max_share` of all live blobs (or listed objects) may go at once; `max_per_second` rows."""

    restore_window_s: float
    grace_s: float
    max_share: float
    max_per_second: float = math.inf
    force: bool = False
    orphans: bool = False


@dataclass(slots=True)
class Swept:
    """What was done; in a dry run what would be done now, were each step the only one."""

    leases: int = 0
    expected: int = 0
    purged: int = 0
    unbound: int = 0
    condemned: int = 0
    revived: int = 0
    dropped: int = 0
    deleted: int = 0
    orphans: int = 0
    failed: int = 0


def plan(database: Database, store: BlobStore, rules: Rules) -> Swept:
    """What `sweep` would do. Changes nothing, and does not stop at an implausible share."""
    with database.read() as session:
        due = unneeded.due(session, rules.restore_window_s)
        found = Swept(
            leases=_count(session, unneeded.expired_leases()),
            expected=_count(session, unneeded.stale_expected()),
            purged=_count(session, sa.select(VersionRow.number).where(due)),
            unbound=_count(session, unneeded.contents(due)),
            condemned=_count(session, unneeded.blobs("live").where(~unneeded.held(due))),
            revived=_count(session, unneeded.blobs("condemned").where(unneeded.held())),
            dropped=_count(session, unneeded.past_grace(session, rules.grace_s)),
            deleted=_count(session, unneeded.due_trash()),
        )
    if rules.orphans:
        found.orphans = sum(len(keys) for keys, _ in unneeded.orphans(database, store))
    return found


def sweep(
    database: Database, store: BlobStore, rules: Rules, *, stopping: threading.Event | None = None
) -> Swept:
    """Do it; gives up between two batches when `stopping` is set.

    Raises Implausible before anything has changed, StoreUnavailable or DatabaseUnavailable.
    """
    return _Sweep(database, store, rules, stopping or threading.Event()).run()


class _Sweep:
    def __init__(self, database: Database, store: BlobStore, rules: Rules, stopping: threading.Event) -> None:
        self._database = database
        self._store = store
        self._rules = rules
        self._stopping = stopping

    def run(self) -> Swept:
        orphans = self._plausible()
        done = Swept()
        done.leases = self._each("leases", unneeded.expired_leases, LeaseRow.blob_id, self._end_leases)
        done.expected = self._each("expected", unneeded.stale_expected, BlobRow.id, self._give_up)
        done.purged = self._each("purge", self._models_with_due, ModelRow.id, self._purge)
        done.unbound = self._each("unbind", unneeded.contents, ContentRow.id, self._unbind)
        done.condemned = self._each("condemn", self._unheld, BlobRow.id, self._condemn)
        done.revived = self._each("revive", self._held_again, BlobRow.id, self._revive)
        done.dropped = self._each("drop", self._droppable, BlobRow.id, self._drop)
        done.orphans = self._each_orphan(orphans)
        done.deleted, done.failed = self._empty()
        return done

    def _plausible(self) -> Sequence[str]:
        """Check the shares that would go; returns the orphans. Raises Implausible."""
        with self._database.read() as session:
            live = _count(session, unneeded.blobs("live"))
            unheld = _count(
                session,
                unneeded.blobs("live").where(
                    ~unneeded.held(unneeded.due(session, self._rules.restore_window_s))
                ),
            )
        self._require_plausible("live blobs are needed by nothing", unheld, live)
        orphans: list[str] = []
        listed = 0
        for keys, seen in unneeded.orphans(self._database, self._store) if self._rules.orphans else ():
            orphans += keys
            listed += seen
        self._require_plausible("objects of the store are unknown", len(orphans), listed)
        return orphans

    def _require_plausible(self, what: str, going: int, there: int) -> None:
        if not self._rules.force and going > FEW and going > self._rules.max_share * there:
            raise Implausible(
                f"{going} of {there} {what}: more than the {self._rules.max_share:.0%} that one sweep may take, so nothing "
                "was changed. Look whether this is the right database for this store (`fsck`, `sweep` without --apply); "
                "if it is as it should be, sweep with --force."
            )

    def _each(
        self,
        step: str,
        candidates: Callable[[], sa.Select[Any]],
        key: Any,
        act: Callable[[WriteSession, Sequence[Any]], int],
    ) -> int:
        """Let `act` have all candidates, a batch and a transaction at a time."""
        done, after = 0, None
        while not self._stopping.is_set():
            query = candidates().with_only_columns(key).distinct().order_by(key).limit(unneeded.BATCH)
            with self._database.read() as session:
                found = session.scalars(query.where(key > after) if after is not None else query).all()
            if not found:
                break
            failpoint(f"sweep.before_{step}")
            with self._database.write() as session:
                changed = act(session, found)
            failpoint(f"sweep.after_{step}")
            done, after = done + changed, found[-1]
            self._pace(changed)
        return done

    def _pace(self, changed: int) -> None:
        if changed:
            self._stopping.wait(changed / self._rules.max_per_second)

    def _end_leases(self, session: WriteSession, blobs: Sequence[int]) -> int:
        expired = (
            unneeded.expired_leases().where(LeaseRow.blob_id.in_(blobs)).with_for_update(skip_locked=True)
        )
        leases = session.scalars(expired).all()
        for lease in leases:
            session.delete(lease)
        session.flush()
        return len(leases)

    def _give_up(self, session: WriteSession, blobs: Sequence[int]) -> int:
        locked = _lock_blobs(session, "expected", blobs)
        stale = session.scalars(unneeded.stale_expected().where(BlobRow.id.in_(locked))).all()
        return _remove_blobs(session, stale)

    def _models_with_due(self) -> sa.Select[Any]:
        with self._database.read() as session:
            due = unneeded.due(session, self._rules.restore_window_s)
        return sa.select(ModelRow.id).where(sa.exists().where(VersionRow.model_id == ModelRow.id, due))

    def _purge(self, session: WriteSession, models: Sequence[int]) -> int:
        locked = session.scalars(_skipping_locked(sa.select(ModelRow).where(ModelRow.id.in_(models)))).all()
        owners = {model.id: model for model in locked}
        due = sa.select(VersionRow).where(
            VersionRow.model_id.in_(owners), unneeded.due(session, self._rules.restore_window_s)
        )
        versions = session.scalars(_skipping_locked(due)).all()
        now = unneeded.now(session)
        for version in versions:
            version.purged_at = now
        session.flush()
        for model in sorted(owners.values(), key=lambda each: (each.workspace_id, each.id)):
            if purged := [version for version in versions if version.model_id == model.id]:
                workspaces.uncount(session, model.workspace_id, purged)
        for version in versions:
            model = owners[version.model_id]
            events.record(session, model, "version.purged", {"number": version.number})
        return len(versions)

    def _unbind(self, session: WriteSession, found: Sequence[int]) -> int:
        query = sa.select(ContentRow.id).where(ContentRow.id.in_(found)).order_by(ContentRow.id)
        locked = session.scalars(_skipping_locked(query)).all()
        unbound = session.scalars(unneeded.contents().where(ContentRow.id.in_(locked))).all()
        session.execute(sa.delete(ContentBlobRow).where(ContentBlobRow.content_id.in_(unbound)))
        return len(unbound)

    def _unheld(self) -> sa.Select[Any]:
        return unneeded.blobs("live").where(~unneeded.held())

    def _condemn(self, session: WriteSession, blobs: Sequence[int]) -> int:
        locked = _lock_blobs(session, "live", blobs)
        unheld = session.scalars(self._unheld().where(BlobRow.id.in_(locked))).all()
        condemned = sa.update(BlobRow).where(BlobRow.id.in_(unheld))
        session.execute(condemned.values(state="condemned", condemned_at=unneeded.now(session)))
        return len(unheld)

    def _held_again(self) -> sa.Select[Any]:
        return unneeded.blobs("condemned").where(unneeded.held())

    def _revive(self, session: WriteSession, blobs: Sequence[int]) -> int:
        locked = _lock_blobs(session, "condemned", blobs)
        revived = sa.update(BlobRow).where(BlobRow.id.in_(locked))
        session.execute(revived.values(state="live", condemned_at=None))
        return len(locked)

    def _droppable(self) -> sa.Select[Any]:
        with self._database.read() as session:
            return unneeded.past_grace(session, self._rules.grace_s)

    def _drop(self, session: WriteSession, blobs: Sequence[int]) -> int:
        locked = _lock_blobs(session, "condemned", blobs)
        unheld = session.scalars(self._droppable_of(session, locked)).all()
        keys = session.scalars(sa.select(BlobRow.key).where(BlobRow.id.in_(unheld))).all()
        self._into_trash(session, keys)
        return _remove_blobs(session, unheld)

    def _droppable_of(self, session: WriteSession, locked: Sequence[int]) -> sa.Select[Any]:
        return unneeded.past_grace(session, self._rules.grace_s).where(BlobRow.id.in_(locked))

    def _each_orphan(self, orphans: Sequence[str]) -> int:
        for keys in unneeded.batched(orphans):
            failpoint("sweep.before_orphans")
            with self._database.write() as session:
                self._into_trash(session, sorted(set(keys) - unneeded.known_keys(session, keys)))
        return len(orphans)

    def _into_trash(self, session: WriteSession, keys: Collection[str]) -> None:
        not_before = unneeded.now(session) + timedelta(seconds=self._rules.grace_s)
        for key in keys:
            insert_or_ignore(session, TrashRow, {"key": key, "not_before": not_before})

    def _empty(self) -> tuple[int, int]:
        """Delete what is due; returns how many keys, and how many the store did not delete: those stay for the next time."""
        deleted, after = 0, ""
        while not self._stopping.is_set():
            failpoint("sweep.before_claim")
            with self._database.write() as session:
                claimed = self._claim(session, after)
            if not claimed:
                break
            failpoint("sweep.before_delete")
            gone = self._delete(claimed)
            failpoint("sweep.after_delete")
            with self._database.write() as session:
                session.execute(sa.delete(TrashRow).where(TrashRow.key.in_(gone), TrashRow.claimed))
            deleted += len(gone)
            if len(gone) < len(claimed):
                return deleted, len(claimed) - len(gone)
            after = claimed[-1]
            self._pace(len(gone))
        return deleted, 0

    def _claim(self, session: WriteSession, after: str) -> Sequence[str]:
        query = unneeded.due_trash().where(TrashRow.key > after).order_by(TrashRow.key).limit(unneeded.BATCH)
        keys = session.scalars(_skipping_locked(query)).all()
        session.execute(sa.update(TrashRow).where(TrashRow.key.in_(keys)).values(claimed=True))
        return keys

    def _delete(self, keys: Sequence[str]) -> list[str]:
        def is_deleted(key: str) -> bool:
            try:
                self._store.delete(key)
            except StorageError as error:
                log.warning("cannot delete %s now: %s", key, error)
                return False
            return True

        with ThreadPoolExecutor(_DELETES_AT_ONCE, thread_name_prefix="sweep") as pool:
            outcomes = pool.map(is_deleted, keys)
            return [key for key, gone in zip(keys, outcomes, strict=True) if gone]


def sweep_in_background(
    database: Database, store: BlobStore, rules: Rules, *, stopping: threading.Event
) -> None:
    """Sweep, and tell the log."""
    try:
        log.info("swept: %s", sweep(database, store, rules, stopping=stopping))
    except Implausible as error:
        log.error("the sweep stopped: %s", error)  # noqa: TRY400 - the message says all


def _count(session: ReadSession, query: sa.Select[Any]) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0


def _skipping_locked(query: sa.Select[Any]) -> sa.Select[Any]:
    return query.with_for_update(skip_locked=True)


def _lock_blobs(session: WriteSession, state: str, blobs: Sequence[int]) -> Sequence[int]:
    query = unneeded.blobs(state).where(BlobRow.id.in_(blobs)).order_by(BlobRow.id)
    return session.scalars(_skipping_locked(query)).all()


def _remove_blobs(session: WriteSession, blobs: Sequence[int]) -> int:
    """Remove rows that nothing holds, with what expired uploads and purged contents left of theirs."""
    session.execute(sa.delete(LeaseRow).where(LeaseRow.blob_id.in_(blobs)))
    session.execute(sa.delete(ContentBlobRow).where(ContentBlobRow.blob_id.in_(blobs)))
    session.execute(sa.delete(BlobRow).where(BlobRow.id.in_(blobs)))
    return len(blobs)
