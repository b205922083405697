"""How one process follows the events table: one thread, one connection, one read for all who watch.

    announce (a commit of this process) ─┐
    NOTIFY (PostgreSQL: any commit)  ────┼─▶ bell ─▶ read what is after the last known revision ─▶ deliver
    data_version (SQLite, while watched) ┤
    every `interval` seconds (the net)   ┘
         anything fails ─▶ connect again at once, then with growing pauses ─▶ LISTEN ─▶ read

A notification says no more than "look": who looks at the counter misses nothing, however many notifications were lost while
the connection was down, or behind a pooler that does not pass them on. LISTEN comes before the read, so that nothing
falls between the two.
"""

import contextlib
import logging
import random
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa

from registry.database import Database, ReadSession
from registry.tables import EventRow, FeedRow

CHANNEL = "modelyard_events"
APPLICATION = "modelyard-registry-feed"
"""Under this name operators find the connection."""

AT_ONCE = 1000
"""Events per read; also how many are there after the first."""

_SQLITE_POLL_S = 0.03
_LONGEST_PAUSE_S = 2.0
_LONGEST_STOP_S = 5.0

log = logging.getLogger("modelyard.registry")


@dataclass(frozen=True, slots=True)
class Batch:
    """All events after revision `after`, up to `revision`. `ticket`: requests up to this one are answered."""

    after: int
    revision: int
    events: Sequence[EventRow]
    ticket: int


class Follower(Protocol):
    """Who is told, in the tail's thread."""

    def delivered(self, batch: Batch) -> None:
        """Here is what is new; often nothing."""

    def failed(self, ticket: int) -> None:
        """The database does not answer: requests up to this one will not be."""

    def interval_s(self) -> float | None:
        """After how many seconds to look without being told; None: not at all."""


class Tail:
    """The thread. `request` and `ring` may be called from any other."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._bell: _Bell | None = None
        self._requested = 0
        self._known: int | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, database: Database) -> None:
        """May be called again after `stop`."""
        self._stopping.clear()
        self._bell = _Bell()
        self._thread = threading.Thread(
            target=self._run, args=[database, self._bell], name="feed", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended, or hangs at a database that says nothing: it is a daemon."""
        self._stopping.set()
        self.ring()
        if self._thread is not None:
            self._thread.join(_LONGEST_STOP_S)

    def ring(self) -> None:
        """There may be something new."""
        if self._bell is not None:
            self._bell.ring()

    def request(self) -> int:
        """Look, in any case, from now on; returns the ticket that the answer will carry."""
        self._requested += 1
        self.ring()
        return self._requested

    def _run(self, database: Database, bell: "_Bell") -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with _open(database, bell) as line:
                    while not self._stopping.is_set():
                        self._read(line)
                        failures = self._recovered(failures)
                        line.wait(self._follower.interval_s(), self._known or 0)
            except Exception as error:  # noqa: BLE001 - the border of the thread: an outage must not end the only follower
                failures += 1
                if failures > 1:  # a connection that was only cut is made anew before anybody notices
                    self._pause(failures, error)
        bell.close()

    def _recovered(self, failures: int) -> int:
        if failures > 1:
            log.warning("the change feed follows the database again")
        return 0

    def _pause(self, failures: int, error: Exception) -> None:
        if failures == 2:  # once, not at each attempt
            expected = isinstance(
                error, (sa.exc.OperationalError, sa.exc.TimeoutError, psycopg.OperationalError)
            )
            log.warning(
                "cannot look for new events, trying on: %s", error, exc_info=None if expected else error
            )
        self._follower.failed(self._requested)
        pause_s = min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(failures - 2, 10))
        self._stopping.wait(pause_s * random.uniform(0.5, 1))  # noqa: S311 - no secret, only spread

    def _read(self, line: "_Line") -> None:
        while True:
            ticket = self._requested
            batch = _read_after(line.connection, self._known, ticket)
            self._known = batch.revision
            self._follower.delivered(batch)
            if len(batch.events) < AT_ONCE:
                return


_BEYOND_ALL = 1 << 62
_KNOWN = sa.bindparam("known", type_=sa.BigInteger)
_BEGIN = sa.case((FeedRow.revision < _KNOWN, FeedRow.revision - AT_ONCE), else_=_KNOWN)
_AFTER = (
    sa.select(FeedRow.revision, FeedRow.trimmed, EventRow)
    .select_from(FeedRow)
    .outerjoin(EventRow, sa.and_(EventRow.revision > _BEGIN, EventRow.revision > FeedRow.trimmed))
    .order_by(EventRow.revision)
    .limit(AT_ONCE)
)


def _read_after(connection: sa.Connection, known: int | None, ticket: int) -> Batch:
    """Read what is after revision `known`; when that is None or no longer is one, the newest events."""
    with ReadSession(connection, autoflush=False) as session:
        rows = session.execute(_AFTER, {"known": _BEYOND_ALL if known is None else known}).all()
    revision, trimmed, _ = rows[0]
    events = [event for _, _, event in rows if event is not None]
    after = revision - AT_ONCE if known is None or revision < known else known
    last = events[-1].revision if len(events) == AT_ONCE else revision
    return Batch(max(after, trimmed, 0), last, events, ticket)


class _Bell:
    """Wakes a thread that waits for it, or for a socket."""

    def __init__(self) -> None:
        self._hear, self._pull = socket.socketpair()
        self._hear.setblocking(False)
        self._pull.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # it has been ringing for long, or nobody is there any more
            self._pull.send(b"!")

    def close(self) -> None:
        self._hear.close()
        self._pull.close()

    def wait(self, timeout_s: float | None, *others: int) -> bool:
        """Whether it rang, before the time was over or something came for one of `others`."""
        with selectors.DefaultSelector() as selector:
            for each in (self._hear.fileno(), *others):
                selector.register(each, selectors.EVENT_READ)
            selector.select(timeout_s)
        with contextlib.suppress(BlockingIOError):
            return bool(self._hear.recv(4096))
        return False


class _Line(Protocol):
    """An open connection, and how it hears that something was committed."""

    connection: sa.Connection

    def wait(self, timeout_s: float | None, known: int) -> None:
        """Return when there may be more than revision `known`, or when the time is over."""


@contextmanager
def _open(database: Database, bell: _Bell) -> Iterator[_Line]:
    connection = database.engine.connect()
    raw: Any = connection.connection.driver_connection
    connection.detach()  # kept for long: it is none of the pool's any more
    try:
        yield (
            _SqliteLine(connection, raw, bell) if database.is_sqlite else _PostgresLine(connection, raw, bell)
        )
    finally:
        with contextlib.suppress(Exception):  # it may be broken, which is why it is closed
            connection.close()
        raw.close()


class _PostgresLine:
    def __init__(self, connection: sa.Connection, raw: Any, bell: _Bell) -> None:
        self.connection = connection
        self._raw: psycopg.Connection[Any] = raw
        self._bell = bell
        self._heard = 0
        self._raw.autocommit = True  # notifications come between transactions only
        self._raw.add_notify_handler(lambda notify: self._hear(notify.payload))
        self._raw.execute(f"SET application_name = '{APPLICATION}'")
        self._raw.execute(f"LISTEN {CHANNEL}")

    def wait(self, timeout_s: float | None, known: int) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._hear_all() <= known:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._bell.wait(left_s, self._raw.fileno()) or left_s == 0:
                return
        self._heard = 0  # so that a revision that was only made up is looked for once

    def _hear_all(self) -> int:
        # Those that came along with the answer to a query were given to the handler.
        self._raw.pgconn.consume_input()
        while (notify := self._raw.pgconn.notifies()) is not None:
            self._hear(notify.extra.decode())
        return self._heard

    def _hear(self, payload: str) -> None:
        if payload.isdecimal() and len(payload) < 20:
            self._heard = max(self._heard, int(payload))


class _SqliteLine:
    """SQLite tells nobody; but a connection can ask, in microseconds, whether another one has committed anything."""

    def __init__(self, connection: sa.Connection, raw: Any, bell: _Bell) -> None:
        self.connection = connection
        self._raw = raw
        self._bell = bell
        self._seen = self._data_version()

    def wait(self, timeout_s: float | None, known: int) -> None:  # noqa: ARG002 - as the protocol names it
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._bell.wait(None if deadline is None else _SQLITE_POLL_S):
            seen, self._seen = self._seen, self._data_version()
            if seen != self._seen or (deadline is not None and time.monotonic() >= deadline):
                return
        self._seen = self._data_version()

    def _data_version(self) -> int:
        return int(self._raw.execute("PRAGMA data_version").fetchone()[0])
