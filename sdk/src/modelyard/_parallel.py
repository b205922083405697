"""Moving several things at once: a few threads that stop together, and one count of the bytes moved."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

WORKERS = 4
GRACE_S = 2.0

T = TypeVar("T")
Piece = TypeVar("Piece", bound=Sized)
Progress = Callable[[int, int], None]
"""Called with (bytes moved, bytes to move), never from two threads at once. The first number falls when something is
retried, the second when bytes turn out to be there already."""


class Stopped(Exception):
    """Raised inside a transfer whose siblings have failed. Never leaves this package."""


class Meter:
    """Counts bytes for a Progress. `stop` tells the transfers to give up."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.add(0)

    def add(self, count: int) -> None:
        """Count bytes, or take them back (negative). Raises Stopped when the transfer is to give up."""
        self._tell(count, 0)

    def spare(self, count: int) -> None:
        """Bytes that need not be moved after all."""
        self._tell(0, count)

    def _tell(self, moved: int, spared: int) -> None:
        if self.stop.is_set() and moved >= 0:
            raise Stopped
        with self._lock:
            self._done += moved
            self._total -= spared
            if self._progress:
                self._progress(self._done, self._total)


class Attempt:
    """What one attempt at one thing has added to a meter, so that a failed one can be taken back."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._bytes = 0

    def count(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces, each counted when the consumer asks for the next."""
        for piece in pieces:
            yield piece
            self._meter.add(len(piece))
            self._bytes += len(piece)

    def take_back(self) -> None:
        self._meter.add(-self._bytes)


class Workers:
    """Up to WORKERS threads that run jobs, at most `ahead` of them accepted and unfinished.

    A context manager: at its end all jobs are done. The first failure sets `stop`, and is raised by the next `submit` or at
    the end; what fails in the block itself sets `stop`, too.
    """

    def __init__(self, stop: threading.Event, *, ahead: int) -> None:
        self._stop = stop
        self._room = threading.BoundedSemaphore(ahead)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="modelyard")
        self._running: set[Future[None]] = set()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread; wait first until there is room. Raises what a job has raised."""
        self._room.acquire()
        self.check()
        future = self._pool.submit(job)
        self._running.add(future)
        future.add_done_callback(self._done)

    def check(self) -> None:
        """Raise what a job has raised."""
        if self._failure is not None:
            raise self._failure

    def _done(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._lock:
            if error is not None and self._failure is None:
                self._failure = error
                self._stop.set()
        self._running.discard(future)  # last: whoever finds nothing running looks for a failure next
        self._room.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:  # also KeyboardInterrupt: the threads must not go on
            self._abandon()
            if kind is Stopped and self._failure is not None:  # the block heard of it by its meter
                raise self._failure
        else:
            try:
                while self._running and self._failure is None:
                    wait(set(self._running), timeout=0.2)
            except BaseException:
                self._abandon()
                raise
            if self._failure is not None:
                self._abandon()
                raise self._failure
            self._pool.shutdown()

    def _abandon(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        # Long enough for those that move bytes, not for one that waits for a dead server.
        wait(set(self._running), timeout=GRACE_S)


def in_parallel(act: Callable[[T], None], items: Sequence[T], stop: threading.Event) -> None:
    """Call `act` for every item in up to WORKERS threads. The first failure sets `stop` and is raised."""
    if len(items) == 1:
        act(items[0])
        return
    with Workers(stop, ahead=2 * WORKERS) as workers:
        for item in items:
            workers.submit(lambda item=item: act(item))  # type: ignore[misc]
