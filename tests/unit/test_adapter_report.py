"""What an adapter reports, when, and that nothing of it disturbs serving."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from modelyard import ConnectionFailed, NotFound, Run

from serving_adapter.report import EVERY_S, LONGEST_TROUBLE, Reporter
from serving_adapter.settings import Settings
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.slots import Slots
from tests.unit.test_adapter_slot import Tracked

DIGEST = "sha256:" + "1" * 64


class FakeRegistry:
    def __init__(self) -> None:
        self.reports: list[list[Run]] = []
        self.error: Exception | None = None
        self.asked = 0

    def report_deployments(self, adapter: str, runs: Sequence[Run]) -> int:
        assert adapter == "a:8080"
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.reports.append(list(runs))
        return len(runs)


class Bench:
    """A reporter that the test steps, at times that the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.registry = FakeRegistry()
        self.slots = Slots(follow_all=False)
        self.slot = Slot("new", "fraud@champion", "champion")
        self.slots.add(self.slot)
        self.reporter = Reporter(self.registry, self.slots, "a:8080", clock=lambda: self.now)

    def step(self, after_s: float = 1.0) -> int:
        """How many reports there have been."""
        self.now += after_s
        self.reporter.step()
        return len(self.registry.reports)

    def swap(self, number: int) -> None:
        self.slot.swap(Snapshot(number, DIGEST, "onnx", Tracked()), number)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_reports_at_once_on_change_and_every_so_often(bench: Bench) -> None:
    assert bench.step() == 1
    assert bench.registry.reports[0] == [Run("new", "fraud", follows="fraud@champion")]
    assert bench.step() == 1
    bench.swap(3)
    assert bench.step() == 2
    [run] = bench.registry.reports[1]
    assert (run.number, run.digest, run.trouble) == (3, DIGEST, "")
    assert str(run.since).endswith("Z")
    assert [bench.step(EVERY_S / 2 - 1) for _ in range(3)] == [2, 2, 3]
    bench.slot.failed(4, "load", "x" * 1000 + "\x00", retrying=False)
    assert bench.step() == 4
    [run] = bench.registry.reports[3]
    assert (run.number, len(run.trouble), run.trouble[:16]) == (3, LONGEST_TROUBLE, "version 4, load:")


@pytest.mark.parametrize(
    "error",
    [ConnectionFailed("nobody answers"), NotFound("not_found", 404, "no such route"), ValueError("x")],
)
def test_what_fails_is_logged_once_and_tried_again_later(
    bench: Bench, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.registry.error = error
    for number in range(10):
        bench.swap(number)
        bench.step()
    assert bench.registry.asked == 1, "what changes meanwhile is no reason to ask again and again"
    assert bench.step(EVERY_S) == 0
    assert (bench.registry.asked, len(caplog.records)) == (2, 1)
    bench.registry.error = None
    assert bench.step(EVERY_S) == 1
    assert bench.registry.reports[0][0].number == 9
    bench.swap(11)
    assert bench.step() == 2


def test_it_runs_in_a_thread_of_its_own_and_ends(bench: Bench) -> None:
    bench.reporter.start()
    bench.reporter.stop()
    bench.reporter._thread.join(10)
    assert not bench.reporter._thread.is_alive()


@pytest.mark.parametrize(
    ("name", "reported"), [("pod-7.risk", "pod-7.risk"), ("a b/c", "a-b-c"), ("-x", "x"), ("...", "adapter")]
)
def test_its_name_is_one_that_the_registry_takes(name: str, reported: str) -> None:
    assert Settings(Path(), name=name).reported_name == reported
    assert Settings(Path(), port=99).reported_name.endswith(":99")
