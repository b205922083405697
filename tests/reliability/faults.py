"""Every call to the database or the store may fail: the k-th one, once or from then on, before or after it took effect.

Faults         counts calls, and says which of them fail
FaultyStore    a store whose verbs (and streams, half-way) are such calls: StoreUnavailable
break_engine   statements and commits are such calls: OperationalError, as when the connection is lost
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa

from storage import BlobStore
from storage.errors import StoreUnavailable

BACKGROUND = {"verifier", "sweeper", "tidier", "scheduler", "feed"}
"""Threads whose calls are neither counted nor broken: when they run is chance."""


class Faults:
    """Which calls fail. `calls` counts all since it was armed, so that one run without faults tells how many there are."""

    def __init__(self) -> None:
        self.calls = self.failed = 0
        self._at, self._after, self._lasting = 0, False, False
        self._lock = threading.Lock()

    def arm(self, at: int, *, after: bool, lasting: bool) -> None:
        """Fail call number `at` (0: none); `after` its effect; `lasting`: and all that follow, until healed."""
        self.calls = self.failed = 0
        self._at, self._after, self._lasting = at, after, lasting

    def heal(self) -> None:
        self._at = 0

    @contextmanager
    def around(self, error: Callable[[], Exception]) -> Iterator[None]:
        fails = self._is_due()
        if fails and not self._after:
            raise error()
        yield
        if fails:
            raise error()

    def _is_due(self) -> bool:
        if threading.current_thread().name in BACKGROUND:
            return False
        with self._lock:
            self.calls += 1
            due = 0 < self._at == self.calls or (self._lasting and 0 < self._at < self.calls)
            self.failed += due
            return due


class FaultyStore:
    """A store in front of which everything that `faults` says fails."""

    def __init__(self, store: BlobStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, verb: str) -> Any:
        act = getattr(self._store, verb)

        def faulty(*given: Any, **named: Any) -> Any:
            with self._faults.around(_store_is_down):
                return act(*given, **named)

        return faulty

    def open(self, key: str, **range_: Any) -> Any:
        with self._faults.around(_store_is_down):
            return _FaultyStream(self._store.open(key, **range_), self._faults)


class _FaultyStream:
    def __init__(self, stream: Any, faults: Faults) -> None:
        self._stream = stream
        self._faults = faults

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        with self._faults.around(_store_is_down):
            return bytes(self._stream.read(size))

    def close(self) -> None:
        self._stream.close()


def break_engine(engine: sa.Engine, faults: Faults) -> None:
    """From now on statements and commits of this engine fail when `faults` says so."""
    lost = engine.dialect.loaded_dbapi.OperationalError

    def error() -> Exception:
        return lost("a test lost the connection")

    @sa.event.listens_for(engine, "do_execute")
    def execute(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        with faults.around(error):
            cursor.execute(statement, parameters)
        return True

    @sa.event.listens_for(engine, "do_executemany")
    def execute_many(cursor: Any, statement: str, parameters: Any, _context: Any) -> bool:
        with faults.around(error):
            cursor.executemany(statement, parameters)
        return True

    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        try:
            with faults.around(error):
                commit(connection)
        except lost:
            if engine.dialect.name == "postgresql":  # whose COMMIT ends the transaction, also when it fails
                connection.rollback()
            raise

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]


def _store_is_down() -> Exception:
    return StoreUnavailable("a test broke the store")
