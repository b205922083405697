"""The change feed in memory: the newest events, and who waits for the next.

    tail.py's thread ── delivered() ──▶ recent events ──▶ the watchers that may see and want one of them

A waiting watcher holds neither a thread nor a connection, and is not even woken by an event that is not for it. However many
wait, each event is read once, and written as text once. Only who lags behind what is kept here reads from the database.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread

from registry import events
from registry.database import Database
from registry.errors import DatabaseUnavailable, TooManyWatchers
from registry.events import Look, Wanted
from registry.tables import EventRow
from registry.tail import Batch, Tail

MOST_EVENTS = 4096
MOST_BYTES = 8 * 1024**2
"""What is kept in memory."""

_READERS = 4


@dataclass(frozen=True, slots=True)
class Told:
    """An event: what it is chosen by, and the text in which all watchers get it."""

    revision: int
    kind: str
    workspace_id: int
    model: str
    text: bytes


class Recent:
    """All events after revision `after`, up to `revision`, within bounds: the oldest leave first."""

    def __init__(self, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self.after = self.revision = -1
        self._told: deque[Told] = deque()
        self._bytes = 0
        self._most_events = most_events
        self._most_bytes = most_bytes

    def restart(self, after: int) -> None:
        """Forget all; what is added next comes after revision `after`."""
        self.after = self.revision = after
        self._told.clear()
        self._bytes = 0

    def add(self, revision: int, told: Sequence[Told]) -> None:
        """These are all events after the revision of before, up to `revision`."""
        self.revision = revision
        self._told.extend(told)
        self._bytes += sum(len(each.text) for each in told)
        while len(self._told) > self._most_events or self._bytes > self._most_bytes:
            oldest = self._told.popleft()
            self.after = oldest.revision
            self._bytes -= len(oldest.text)

    def since(self, revision: int) -> list[Told] | None:
        """What came after `revision`, oldest first; None when some of it is not here any more."""
        if revision < self.after:
            return None
        found = []
        for told in reversed(self._told):
            if told.revision <= revision:
                break
            found.append(told)
        return found[::-1]

    def newest_seen(self, wanted: Wanted) -> int | None:
        """The revision of the newest event that may be seen; None when it is not here."""
        return next((told.revision for told in reversed(self._told) if wanted.sees(told)), None)


class Watcher:
    """Somebody who waits. `dismissed`: for nothing any more."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.dismissed = False
        self._news = asyncio.Event()

    def tell(self, told: Sequence[Told]) -> None:
        """Wake it if something is for it."""
        if not self._news.is_set() and any(self.wanted.includes(each) for each in told):
            self.wake()

    def wake(self) -> None:
        """Let it look."""
        self._news.set()

    def dismiss(self) -> None:
        """Let it go."""
        self.dismissed = True
        self.wake()

    async def wait(self, timeout_s: float) -> None:
        """Return when it was told something since the last call, when it is dismissed, or when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return
        if not self.dismissed:
            self._news.clear()


class Feed:
    """The feed of one process. `announce` may be called from any thread, the rest from the event loop."""

    def __init__(self, write: Callable[[EventRow], bytes], *, poll_s: float, max_watchers: int) -> None:
        self._write = write
        self._poll_s = poll_s
        self._max_watchers = max_watchers
        self._recent = Recent()
        self._announced = 0
        self._watchers: set[Watcher] = set()
        self._asked: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._tail = Tail(self)
        self._down = False
        self.closed = False

    def start(self, database: Database) -> None:
        """Begin to follow, for the running event loop."""
        self.closed = False
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._readers = CapacityLimiter(_READERS)
        self._tail.start(database)

    def announce(self, revision: int) -> None:
        """This process has committed an event."""
        self._announced = max(self._announced, revision)
        self._tail.ring()

    def close(self) -> None:
        """Let all watchers go; from now on nobody waits."""
        self.closed = True
        for watcher in self._watchers:
            watcher.dismiss()

    async def stop(self) -> None:
        """Close, and stop following."""
        self.close()
        await to_thread.run_sync(self._tail.stop)
        self._fail(self._asked[-1][0] if self._asked else 0)

    def has(self, revision: int) -> bool:
        """Whether memory has come to this revision, and to all that this process has committed."""
        return self._recent.revision >= max(revision, self._announced)

    @contextmanager
    def watcher(self, wanted: Wanted) -> Iterator[Watcher]:
        """A place for one who waits, as long as the block lasts. Raises TooManyWatchers."""
        if len(self._watchers) >= self._max_watchers:
            raise TooManyWatchers("This registry has as many watchers as it may have. Try again in a moment.")
        watcher = Watcher(wanted)
        if self.closed:
            watcher.dismiss()
        self._watchers.add(watcher)
        if len(self._watchers) == 1:
            self._tail.ring()  # it looked away while nobody watched
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def refresh(self) -> None:
        """Return when memory has everything that was committed before this call. Raises DatabaseUnavailable."""
        if self._down or self.closed:
            raise _unavailable()
        answered = self._loop.create_future()
        self._asked.append((self._tail.request(), answered))
        await answered

    async def look(self, since: int, wanted: Wanted, limit: int) -> Look[Told]:
        """As events.look, from memory if `since` is not too old."""
        newest = self._recent.newest_seen(wanted)
        if newest is None or since < self._recent.after:
            return await self._read(since, wanted, limit)
        if since > newest:
            return Look(newest, self._recent.revision, ())
        return await self.look_on(Look(since, since, ()), wanted, limit)

    async def look_on(self, place: Look[Told], wanted: Wanted, limit: int) -> Look[Told]:
        """What comes after an earlier look."""
        new = self._recent.since(place.examined)
        if new is None:
            found = await self._read(place.examined, wanted, limit)
            return Look(max(place.revision, found.revision), found.examined, found.events)
        included = [told for told in new if wanted.includes(told)]
        if len(included) >= limit:
            last = included[limit - 1].revision
            return Look(last, last, included[:limit])
        seen = (told.revision for told in reversed(new) if wanted.sees(told))
        return Look(next(seen, place.revision), max(place.examined, self._recent.revision), included)

    async def _read(self, since: int, wanted: Wanted, limit: int) -> Look[Told]:
        def read() -> Look[Told]:
            with self._database.read() as session:
                found = events.look(session, since, wanted, limit)
                return Look(found.revision, found.examined, self._texts(found.events))

        return await to_thread.run_sync(read, limiter=self._readers)

    def _texts(self, found: Sequence[EventRow]) -> list[Told]:
        return [Told(e.revision, e.kind, e.workspace_id, e.model, self._write(e)) for e in found]

    def interval_s(self) -> float | None:
        """For the tail: somebody watches, so look even if nothing is heard."""
        return self._poll_s if self._watchers else None

    def delivered(self, batch: Batch) -> None:
        """For the tail, in its thread."""
        self._loop.call_soon_threadsafe(self._take, batch, self._texts(batch.events))

    def failed(self, ticket: int) -> None:
        """For the tail, in its thread."""
        self._loop.call_soon_threadsafe(self._fail, ticket)

    def _take(self, batch: Batch, told: Sequence[Told]) -> None:
        self._down = False
        known = self._recent.revision
        went_back = batch.revision < known
        if went_back:
            self._announced = batch.revision
        if batch.after != known:
            self._recent.restart(batch.after)
        self._recent.add(batch.revision, told)
        for watcher in self._watchers:
            if went_back:  # another database than before: no place in the old one means anything
                watcher.dismiss()
            elif batch.after != known:  # what came in between was never here
                watcher.wake()
            else:
                watcher.tell(told)
        for answered in self._answered(batch.ticket):
            answered.set_result(None)

    def _fail(self, ticket: int) -> None:
        self._down = True
        for answered in self._answered(ticket):
            answered.set_exception(_unavailable())

    def _answered(self, ticket: int) -> Iterator[asyncio.Future[None]]:
        while self._asked and self._asked[0][0] <= ticket:
            _, answered = self._asked.popleft()
            if not answered.done():
                yield answered


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable("The registry's database does not answer. Try again in a moment.")
