"""The lane: bounded, ordered by arrival, and the event loop stays free."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from serving_adapter.errors import Overloaded
from serving_adapter.lane import Lane


def in_lane(test: Callable[[Lane], Awaitable[None]], *, threads: int = 2, max_queue: int = 1000) -> None:
    async def run() -> None:
        lane = Lane(threads=threads, max_queue=max_queue)
        try:
            await test(lane)
        finally:
            lane.close()
            assert lane.join(10)

    asyncio.run(run())


def test_results_and_errors_come_back_to_whoever_asked() -> None:
    async def test(lane: Lane) -> None:
        def fail() -> None:
            raise ValueError("mine")

        good = [lane.submit(partial(pow, n, 2)) for n in range(500)]
        bad = lane.submit(fail)
        assert await asyncio.gather(*good) == [n * n for n in range(500)]
        with pytest.raises(ValueError, match="mine"):
            await bad

    in_lane(test)


def test_a_full_lane_refuses_at_once_and_takes_more_when_there_is_room() -> None:
    async def test(lane: Lane) -> None:
        gate = threading.Event()
        waiting = [lane.submit(gate.wait) for _ in range(3)]
        try:
            with pytest.raises(Overloaded):
                lane.submit(gate.wait)
        finally:
            gate.set()
        await asyncio.gather(*waiting)
        assert await lane.submit(lambda: "room") == "room"

    in_lane(test, threads=1, max_queue=2)


def test_the_event_loop_is_free_while_the_lane_is_busy() -> None:
    async def test(lane: Lane) -> None:
        gate = threading.Event()
        busy = lane.submit(gate.wait)
        started = time.perf_counter()
        await asyncio.sleep(0)
        assert time.perf_counter() - started < 0.5
        assert not busy.done()
        gate.set()
        await busy

    in_lane(test, threads=1)


def test_a_caller_that_gives_up_does_not_disturb_the_lane() -> None:
    async def test(lane: Lane) -> None:
        gate = threading.Event()
        abandoned = lane.submit(gate.wait)
        abandoned.cancel()
        gate.set()
        assert await lane.submit(lambda: "next") == "next"

    in_lane(test, threads=1)


class DawdlingLane(Lane):
    """Pauses after reading whether the loop has been woken: there a race would show."""

    @property
    def _woken(self) -> bool:
        found: bool = self.__dict__.get("flag", False)
        time.sleep(0.0005)
        return found

    @_woken.setter
    def _woken(self, woken: bool) -> None:
        self.__dict__["flag"] = woken


def test_no_wake_up_is_lost_when_many_threads_finish_at_once() -> None:
    """The threads coalesce their wake-ups; a lost one would leave a request waiting for ever."""

    async def run() -> None:
        lane = DawdlingLane(threads=8, max_queue=100)
        try:
            for _ in range(100):
                await asyncio.wait_for(asyncio.gather(*(lane.submit(int) for _ in range(8))), timeout=5)
        finally:
            lane.close()
            assert lane.join(10)

    asyncio.run(run())


def test_closing_finishes_what_is_queued() -> None:
    async def test() -> list[int]:
        lane = Lane(threads=1, max_queue=10)
        futures = [lane.submit(partial(abs, n)) for n in range(5)]
        lane.close()
        assert lane.join(10)
        return [await future for future in futures]

    assert asyncio.run(test()) == [0, 1, 2, 3, 4]


def test_work_that_outlives_the_event_loop_ends_quietly() -> None:
    """As a model that hangs does, when the adapter ends without waiting for it."""
    gate = threading.Event()

    async def begin() -> Lane:
        lane = Lane(threads=1, max_queue=1)
        lane.submit(gate.wait)
        return lane

    lane = asyncio.run(begin())
    gate.set()
    lane.close()
    assert lane.join(10)
