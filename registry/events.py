"""The change feed: every change is an event with a revision number, and whoever waits hears of it.

    use case ── record() ──> events, feed (same transaction) ── commit ──> Notifier.announce ──> waiting watchers

A waiting watcher holds neither a thread nor a database connection: it waits on the Notifier of its process. Changes
made by other registry processes are found by looking at the feed's counter, as long as somebody waits.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from anyio import to_thread

from registry.access import Caller
from registry.database import Database, ReadSession, WriteSession
from registry.tables import EventRow, FeedRow, ModelRow


def record(session: WriteSession, model: ModelRow, kind: str, data: dict[str, Any]) -> int:
    """Add an event to the feed and return its revision.

    The feed's row stays locked until the commit, so that a watcher which has seen revision n can never be shown n - 1
    later. Call it as late as possible, and always after the model's row is locked: one order, no deadlock.
    """
    revision: int | None = session.scalar(
        sa.update(FeedRow).values(revision=FeedRow.revision + 1).returning(FeedRow.revision)
    )
    if revision is None:
        raise RuntimeError("the feed table has lost its row; run `modelyard-registry migrate`")
    session.add(
        EventRow(revision=revision, kind=kind, workspace_id=model.workspace_id, model=model.name, data=data)
    )
    session.info["revision"] = revision
    return revision


def latest_revision(session: ReadSession | WriteSession) -> int:
    """The newest revision there is."""
    return session.scalar(sa.select(FeedRow.revision)) or 0


def events_since(
    session: ReadSession, caller: Caller, since: int, models: Collection[str], limit: int
) -> tuple[int, Sequence[EventRow]]:
    """Events of models that the caller may read after revision `since`, oldest first, and the revision to ask from next time."""
    latest = latest_revision(session)
    columns = EventRow.__table__.c
    readable = caller.sees(columns.workspace_id, columns.model)
    newer = sa.select(EventRow).where(EventRow.revision > since, readable)
    query = newer.order_by(EventRow.revision).limit(limit)
    if models:
        query = query.where(EventRow.model.in_(models))
    events = session.scalars(query).all()
    return (events[-1].revision if len(events) == limit else latest), events


class Notifier:
    """Wakes the watchers of this process. `announce` may be called from any thread, the rest from the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._revision = 0
        self._watchers = 0
        self._closed = False

    def start(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def announce(self, revision: int) -> None:
        """Tell that `revision` has been committed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._advance, revision)

    def close(self) -> None:
        """Let all watchers go; from now on nobody waits."""
        self._closed = True
        self._wake()

    async def wait_beyond(self, revision: int, timeout_s: float) -> None:
        """Return when a revision above `revision` is known, when the time is over, or when the server stops."""
        self._watchers += 1
        try:
            async with asyncio.timeout(timeout_s):
                while self._revision <= revision and not self._closed:
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._watchers -= 1

    async def follow_other_processes(
        self, database: Database, interval_s: float, log: Callable[[str], None]
    ) -> None:
        """Look at the feed's counter every `interval_s` seconds while somebody waits. Runs until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            if self._watchers:
                try:
                    self._advance(await to_thread.run_sync(_read_revision, database))
                except Exception as error:  # noqa: BLE001 - an outage of the database must not end the only follower
                    log(f"cannot look for new events: {error}")

    def _advance(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _read_revision(database: Database) -> int:
    with database.read() as session:
        return latest_revision(session)
