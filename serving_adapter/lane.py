"""The lane: a few threads that do the work of requests, and a bounded queue in front of them.

    event loop ──submit──▶ queue (bounded) ──▶ threads: decode, infer, encode ──▶ event loop
                   └──▶ Overloaded, at once, when as many wait as may wait

The event loop itself only reads and writes, so that health and metadata answer however busy the models are.
Leaner than an executor: no lock and no second future per job, and jobs that finish together come back together.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from serving_adapter.errors import Overloaded

T = TypeVar("T")
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Lane:
    """Runs functions in threads, for the event loop in which it was made."""

    def __init__(self, *, threads: int, max_queue: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = threads + max_queue
        self._pending = 0
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._finished: deque[Outcome] = deque()
        self._woken = False
        self._threads = [
            threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Run `work` in a thread; raise Overloaded, without having begun, if too many are running and waiting."""
        if self._pending >= self._room:
            raise Overloaded(f"{self._pending} requests are running and waiting, which is as many as may")
        self._pending += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """Let the threads end once they have done what is queued; see `join`."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for each thread to end; whether all have."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            outcome: Outcome
            try:
                outcome = (future, work(), None)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever awaits the future
                outcome = (future, None, error)
            self._finished.append(outcome)
            # After the append: either this sees that the loop has not been woken, or the loop will see the outcome.
            if not self._woken:
                self._woken = True
                self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            if not self._loop.is_closed():  # once it is, nobody waits any more
                raise

    def _deliver(self) -> None:
        self._woken = False
        while self._finished:
            future, result, error = self._finished.popleft()
            self._pending -= 1
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
