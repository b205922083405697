"""Moving several files at once: a few threads that stop together, and one count of the bytes moved."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

WORKERS = 4
GRACE_S = 2.0

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (bytes moved, bytes to move), never from two threads at once. The first number falls when a file is retried."""


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
        if self.stop.is_set() and count >= 0:
            raise Stopped
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(self._done, self._total)


class Attempt:
    """What one attempt at one file has added to a meter, so that a failed one can be taken back."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._bytes = 0

    def count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks, each counted when the consumer asks for the next."""
        for chunk in chunks:
            yield chunk
            self._meter.add(len(chunk))
            self._bytes += len(chunk)

    def take_back(self) -> None:
        self._meter.add(-self._bytes)


def in_parallel(act: Callable[[T], None], items: Sequence[T], stop: threading.Event) -> None:
    """Call `act` for every item in up to WORKERS threads. The first failure sets `stop` and is raised."""
    from concurrent.futures import ThreadPoolExecutor, as_completed, wait

    if len(items) == 1:
        act(items[0])
        return
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="modelyard")
    futures = [pool.submit(act, item) for item in items]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:  # also KeyboardInterrupt: the threads must not go on
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        # Long enough for those that move bytes, not for one that waits for a dead server.
        wait([future for future in futures if not future.cancelled()], timeout=GRACE_S)
        raise
    pool.shutdown()
