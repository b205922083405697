import threading
import time

import pytest
from modelyard import _parallel
from modelyard._parallel import Attempt, Meter, Stopped, Workers, in_parallel


def fail() -> None:
    raise KeyError


def wait_for(event: threading.Event) -> None:
    event.wait(30)


def test_a_failure_stops_the_others_between_two_pieces() -> None:
    meter = Meter(0, None)
    working, gave_up = threading.Event(), threading.Event()

    def act(task: str) -> None:
        if task == "fails":
            assert working.wait(10)
            raise KeyError(task)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            working.set()
            try:
                meter.add(1)
            except Stopped:
                gave_up.set()
                raise

    with pytest.raises(KeyError):
        in_parallel(act, ["fails", "works"], meter.stop)
    assert gave_up.is_set()


def test_a_failure_of_the_last_job_is_raised_however_late_it_comes() -> None:
    for _ in range(200):
        with pytest.raises(KeyError), Workers(threading.Event(), ahead=2) as workers:
            workers.submit(fail)


def test_a_failure_is_raised_by_whoever_submits_next() -> None:
    failed, stop = threading.Event(), threading.Event()

    def submit_two() -> None:
        with Workers(stop, ahead=1) as workers:
            workers.submit(fail)
            workers.submit(failed.set)

    with pytest.raises(KeyError):
        submit_two()
    assert stop.is_set()
    assert not failed.is_set()


def test_a_block_that_a_failure_has_stopped_tells_the_failure() -> None:
    meter = Meter(0, None)

    def move() -> None:
        with Workers(meter.stop, ahead=1) as workers:
            workers.submit(fail)
            meter.stop.wait()
            meter.spare(1)

    with pytest.raises(KeyError):
        move()


def test_no_more_is_accepted_than_agreed() -> None:
    """Otherwise every file would lie in memory before the first is sent."""
    go, accepted = threading.Event(), list[int]()
    with Workers(threading.Event(), ahead=3) as workers:

        def submit() -> None:
            for number in range(6):
                workers.submit(lambda: wait_for(go))
                accepted.append(number)

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join(0.3)
        assert accepted == [0, 1, 2]
        go.set()
        thread.join()
    assert len(accepted) == 6


def test_an_interrupted_block_stops_the_jobs_and_waits_for_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_parallel, "GRACE_S", 0.1)
    stop, release = threading.Event(), threading.Event()

    def interrupted() -> None:
        with Workers(stop, ahead=2) as workers:
            workers.submit(lambda: wait_for(release))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stop.is_set()
    release.set()


def test_what_a_failed_attempt_counted_is_taken_back_even_after_the_stop() -> None:
    told: list[tuple[int, int]] = []
    meter = Meter(10, lambda *each: told.append(each))
    attempt = Attempt(meter)
    pieces = attempt.count([b"abc", b"de", b"f"])
    assert [next(pieces), next(pieces), next(pieces)] == [b"abc", b"de", b"f"]
    meter.stop.set()
    with pytest.raises(Stopped):
        next(pieces)
    attempt.take_back()
    assert told == [(0, 10), (3, 10), (5, 10), (0, 10)]


def test_bytes_that_need_not_be_moved_lessen_the_total() -> None:
    told: list[tuple[int, int]] = []
    meter = Meter(10, lambda *each: told.append(each))
    meter.spare(4)
    meter.add(6)
    assert told == [(0, 10), (0, 6), (6, 6)]


def test_progress_is_never_told_from_two_threads_at_once() -> None:
    inside, most = 0, 0

    def progress(*_: int) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1

    meter = Meter(0, progress)
    in_parallel(meter.add, [1] * 80, meter.stop)
    assert most == 1
