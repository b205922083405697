"""What a follower does with each answer of the registry, step by step: no thread, no child process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from modelyard import ModelyardError, Ref, Version, parse_ref
from modelyard._cache import Cache as Content

from serving_adapter.cache import Cache
from serving_adapter.candidate import Candidate
from serving_adapter.errors import CandidateRejected, LoaderBroken
from serving_adapter.follower import Follower
from serving_adapter.loader import Loader
from serving_adapter.prepare import Workshop
from serving_adapter.settings import Settings
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.upstream import Upstream
from tests.servers.adapter_runtime import FORMATS
from tests.unit.adapter_fakes import FakeClient


class FakeLoader(Loader):
    """Says what it is told to say, and lets the test do something meanwhile."""

    def __init__(self) -> None:
        super().__init__((), timeout_s=1, memory_bytes=1)
        self.checked: list[Candidate] = []
        self.verdict: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def check(self, candidate: Candidate) -> None:
        self.checked.append(candidate)
        self.meanwhile()
        if self.verdict is not None:
            raise self.verdict


class Bench:
    """A follower of m@production with everything around it."""

    def __init__(self, cache_dir: Path, ref: Ref) -> None:
        self.client = FakeClient()
        self.loader = FakeLoader()
        upstream = Upstream(self.client, "http://registry")
        self.cache = cache = Cache(cache_dir, upstream)
        cache.prepare()
        self.content = Content(cache_dir, limit_bytes=0)
        self.slot = Slot("m", str(ref), ref.pointer)
        settings = Settings(cache_dir=cache_dir, formats=FORMATS)
        self.follower = Follower(self.slot, ref, upstream, Workshop(settings, cache, self.loader))
        for number in (1, 2, 3):
            self.client.add("m", number, {"answer": number})

    def step(self) -> float:
        return self.follower.step()

    def point(self, number: int | None, generation: int) -> None:
        self.client.point("m", number, generation)

    def pinned(self) -> set[int]:
        """Versions that nobody may evict."""
        numbers = {version.digest: number for (_, number), version in self.client.versions.items()}
        return {numbers[entry.digest] for entry in self.content.entries() if entry.in_use}

    def served(self) -> list[int | None]:
        """Versions of current and previous."""
        return [held.version if held else None for held in (self.slot.current, self.slot.previous)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache", parse_ref("m@production"))


def current(bench: Bench) -> Snapshot:
    assert bench.slot.current is not None
    return bench.slot.current


def test_a_promotion_is_fetched_checked_and_served(bench: Bench) -> None:
    bench.point(1, 1)
    assert bench.step() > 1  # satisfied: the next look is a slow poll
    assert bench.served() == [1, None]
    assert len(bench.loader.checked) == 1
    assert bench.slot.status()["current"]["generation"] == 1


def test_nothing_is_done_twice_for_one_generation(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.client.asked.clear()
    bench.step()
    assert bench.client.asked == ["pointer m@production"]


def test_an_older_generation_is_ignored(bench: Bench) -> None:
    """A stale replica or cache in front of the registry cannot bring an old version back."""
    bench.point(2, 5)
    bench.step()
    bench.point(1, 4)
    bench.step()
    assert bench.served() == [2, None]


def test_going_back_to_the_previous_version_loads_nothing(bench: Bench) -> None:
    for generation, number in enumerate((1, 2), 1):
        bench.point(number, generation)
        bench.step()
    one = bench.slot.previous
    bench.client.asked.clear()
    bench.point(1, 3)
    bench.step()
    assert bench.served() == [1, 2]
    assert current(bench) is one
    assert not any(question.startswith("download") for question in bench.client.asked)
    assert len(bench.loader.checked) == 2


def test_the_same_version_again_changes_nothing_but_the_generation(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.point(1, 3)
    bench.step()
    assert bench.slot.status()["current"]["generation"] == 3
    assert bench.slot.status()["swaps"] == 1


def test_a_vacated_pointer_leaves_the_last_version_in_service(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.point(None, 2)
    bench.step()
    assert bench.served() == [1, None]
    assert bench.slot.status()["note"] == "nothing holds m@production, the last version stays"
    bench.point(2, 3)
    bench.step()
    assert bench.slot.status()["note"] is None


def test_a_pointer_that_nothing_holds_is_the_reason_for_not_being_ready(bench: Bench) -> None:
    bench.point(None, 2)
    bench.step()
    assert "nothing holds m@production" in bench.slot.why_not_ready()


@pytest.mark.parametrize(
    "error", [ModelyardError("registry"), OSError("disk full"), LoaderBroken("no process"), KeyError("bug")]
)
def test_whatever_fails_the_current_version_stays_and_it_is_tried_again(
    bench: Bench, error: Exception
) -> None:
    bench.point(1, 1)
    bench.step()
    bench.loader.verdict = error
    bench.point(2, 2)
    assert bench.step() < 1  # soon again
    assert bench.served() == [1, None]
    assert bench.slot.status()["last_error"]["retrying"] is True
    bench.loader.verdict = None
    bench.step()
    assert bench.served() == [2, 1]


def test_an_outage_of_the_registry_unloads_nothing_and_is_tried_with_growing_pauses(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.client.failing = True
    pauses = [bench.step() for _ in range(12)]
    assert bench.served() == [1, None]
    assert pauses[0] < 1 < pauses[-1] <= 15
    assert bench.slot.status()["last_error"]["message"] == "nobody answers"
    bench.client.failing = False
    bench.point(2, 2)
    bench.step()
    assert bench.served() == [2, 1]


def test_a_pointer_that_is_not_found_unloads_nothing(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.client.pointers.clear()
    bench.step()
    assert bench.served() == [1, None]


def test_a_rejected_version_is_not_tried_again_until_the_pointer_moves(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.loader.verdict = CandidateRejected("load", "it crashed")
    bench.point(2, 2)
    for _ in range(3):
        assert bench.step() > 1
    assert bench.served() == [1, None]
    assert len(bench.loader.checked) == 2
    status = bench.slot.status()["last_error"]
    assert (status["version"], status["phase"], status["message"], status["retrying"]) == (
        2,
        "load",
        "it crashed",
        False,
    )
    bench.loader.verdict = None
    bench.point(2, 3)
    bench.step()
    assert bench.served() == [2, 1]


def test_damaged_bytes_are_rejected_and_not_fetched_again(bench: Bench) -> None:
    bench.client.damaged = True
    bench.point(1, 1)
    bench.step()
    bench.step()
    assert bench.served() == [None, None]
    assert bench.client.asked.count("download 1") == 1
    assert bench.slot.status()["last_error"]["phase"] == "fetch"


def test_a_version_that_loads_badly_here_is_not_swapped_in(bench: Bench) -> None:
    """The child said yes (it is a fake), the adapter's own load says no: the check is before the swap."""
    bench.point(1, 1)
    bench.step()
    bench.client.add("m", 4, {"load": "raise"})
    bench.point(4, 2)
    bench.step()
    assert bench.served() == [1, None]
    assert "does not want to be loaded" in bench.slot.status()["last_error"]["message"]


def test_a_version_that_answers_its_example_differently_here_is_not_swapped_in(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    tensor = {"datatype": "FP64", "shape": [1, 1], "data": [1]}
    example = json.dumps({"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}).encode()
    bench.client.add("m", 4, {"answer": 5}, {"example.json": example}, example="example.json")
    bench.point(4, 2)
    bench.step()
    assert bench.served() == [1, None]
    assert "5.0 instead of 1.0" in bench.slot.status()["last_error"]["message"]


def test_what_the_child_rejects_is_not_loaded_here(bench: Bench) -> None:
    bench.client.add("m", 4, {"load": "raise"})
    bench.loader.verdict = CandidateRejected("load", "the child says no")
    bench.point(4, 1)
    bench.step()
    assert bench.slot.status()["last_error"]["message"] == "the child says no"


def test_a_pointer_that_goes_back_while_a_candidate_loads_is_not_overtaken(bench: Bench) -> None:
    """A rollback during a slow load: the candidate is never in service, not for a moment."""
    bench.point(1, 1)
    bench.step()

    def roll_back() -> None:
        bench.point(1, 3)
        bench.follower.wake()

    bench.loader.meanwhile = roll_back
    bench.point(2, 2)
    bench.step()
    assert bench.served() == [1, None]
    assert bench.pinned() == {1}
    bench.step()
    assert bench.slot.status()["current"]["generation"] == 3


def test_a_pointer_that_moves_on_while_a_candidate_loads_wins_afterwards(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()

    def move_on() -> None:
        bench.loader.meanwhile = lambda: None
        bench.point(3, 3)
        bench.follower.wake()

    bench.loader.meanwhile = move_on
    bench.point(2, 2)
    bench.step()
    bench.step()
    assert bench.served() == [3, 2]


def test_a_registry_that_started_anew_is_believed_by_digest_not_by_number(bench: Bench) -> None:
    """Same number, other content: that is another version."""
    bench.point(1, 7)
    bench.step()
    bench.client.add("m", 1, {"answer": 100})
    bench.point(1, 1)
    bench.follower.forget()
    bench.step()
    assert current(bench).digest == bench.client.versions["m", 1].digest


def test_a_registry_that_starts_anew_while_a_candidate_loads_is_believed_too(bench: Bench) -> None:
    """The step that is under way must not settle the old registry's high generation over the news."""

    def start_anew() -> None:
        bench.loader.meanwhile = lambda: None
        bench.point(3, 1)
        bench.follower.forget()

    bench.loader.meanwhile = start_anew
    bench.point(2, 9)
    bench.step()
    bench.step()
    assert bench.served() == [3, 2]


def test_a_version_that_was_named_directly_is_loaded_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache", parse_ref("m/2"))
    bench.step()
    bench.client.asked.clear()
    bench.step()
    assert bench.served() == [2, None]
    assert bench.client.asked == ["resolve m/2"]


def test_a_version_that_is_deleted_while_it_is_served_stays_and_the_status_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache", parse_ref("m/2"))
    bench.step()
    bench.client.deleted.add("m/2")
    assert bench.step() < 1
    assert bench.served() == [2, None]
    error = bench.slot.status()["last_error"]
    assert (error["phase"], error["retrying"]) == ("registry", True)
    assert error["message"] == "m/2 was deleted (version_deleted)"
    bench.client.deleted.clear()
    assert bench.step() > 1
    assert bench.slot.status()["last_error"] is None
    assert bench.slot.status()["swaps"] == 1


def test_a_version_that_was_deleted_before_it_was_fetched_is_served_once_it_is_restored(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "cache", parse_ref("m/2"))
    bench.client.deleted.add("m/2")
    bench.step()
    assert "m/2 was deleted" in bench.slot.why_not_ready()
    bench.client.deleted.clear()
    bench.step()
    assert bench.served() == [2, None]


def test_a_version_that_is_deleted_between_two_questions_costs_one_more_look(bench: Bench) -> None:
    """The pointer was read, moved on, and what it had named was deleted."""
    bench.point(1, 1)
    bench.step()
    bench.client.deleted.add("m/2")
    bench.point(2, 2)
    assert bench.step() < 1
    bench.point(3, 3)
    bench.step()
    assert bench.served() == [3, 1]
    assert bench.slot.status()["last_error"] is None


def test_an_outage_is_over_for_the_status_when_it_is_over(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    bench.client.failing = True
    bench.step()
    assert bench.slot.status()["last_error"]["message"] == "nobody answers"
    bench.client.failing = False
    bench.step()
    assert bench.slot.status()["last_error"] is None


def test_current_and_previous_are_pinned_and_the_one_before_is_not(bench: Bench) -> None:
    seen: list[set[int]] = []
    bench.loader.meanwhile = lambda: seen.append(bench.pinned())
    for number in (1, 2, 3):
        bench.point(number, number)
        bench.step()
    assert seen == [{1}, {1, 2}, {1, 2, 3}]  # while the candidate is checked
    assert bench.pinned() == {2, 3}
    bench.point(2, 4)
    bench.step()
    assert bench.pinned() == {2, 3}
    bench.slot.close()
    assert bench.pinned() == set()


def test_a_candidate_is_pinned_before_it_is_fetched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process could evict it between fetch and load."""
    fetch = bench.cache.fetch

    def fetch_then_evict(version: Version) -> Path:
        folder = fetch(version)
        assert bench.content.evict() == ()
        return folder

    monkeypatch.setattr(bench.cache, "fetch", fetch_then_evict)
    bench.point(1, 1)
    bench.step()
    assert bench.served() == [1, None]


@pytest.mark.parametrize("verdict", [CandidateRejected("load", "it crashed"), LoaderBroken("no process")])
def test_a_candidate_that_is_not_served_is_unpinned(bench: Bench, verdict: Exception) -> None:
    bench.loader.verdict = verdict
    bench.point(1, 1)
    bench.step()
    assert bench.pinned() == set()
    assert bench.content.evict() == (bench.client.versions["m", 1].digest,)


def test_a_retired_version_is_pinned_until_its_last_request_ends(bench: Bench) -> None:
    bench.point(1, 1)
    bench.step()
    inside = bench.slot.acquire()
    for number in (2, 3):
        bench.point(number, number)
        bench.step()
    assert bench.pinned() == {1, 2, 3}
    bench.slot.release(inside)
    assert bench.pinned() == {2, 3}


def test_what_another_slot_serves_stays_pinned(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "cache", parse_ref("m/1"))
    other.step()
    for number in (1, 2, 3):
        bench.point(number, number)
        bench.step()
    assert bench.pinned() == {1, 2, 3}
    other.slot.close()
    assert bench.pinned() == {2, 3}


def test_a_thread_follows_until_it_is_stopped(bench: Bench) -> None:
    bench.point(1, 1)
    bench.follower.start()
    bench.point(2, 2)
    bench.follower.wake()
    bench.follower.stop()
    assert bench.follower.join(10)


def rejection(bench: Bench, version: Version) -> str:
    bench.client.versions["m", 4] = version
    bench.point(4, 1)
    bench.step()
    return str(bench.slot.status()["last_error"]["message"])


def test_a_version_in_a_format_that_is_not_served_says_which_are(bench: Bench) -> None:
    version = bench.client.add("m", 4, {}, variants=(), format="files")
    assert "as files, and this adapter serves ['scripted']" in rejection(bench, version)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "other.json", "model"])
def test_a_variant_outside_the_versions_files_is_refused(bench: Bench, path: str) -> None:
    from modelyard import Variant

    version = bench.client.add("m", 4, {"answer": 1}, variants=(Variant("scripted", path),))
    assert "has no file" in rejection(bench, version)


def test_an_example_outside_the_versions_files_is_refused(bench: Bench) -> None:
    version = bench.client.add("m", 4, {"answer": 1}, example="../x.json")
    assert "has no file" in rejection(bench, version)
