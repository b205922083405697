"""The slot: swaps are seen whole, nothing is unloaded while a request is inside, exactly one previous stays warm."""

import threading
import time

import pytest

from serving_adapter.errors import NotReady, Unknown
from serving_adapter.model import Model
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.slots import Slots
from tests.servers.adapter_runtime import ScriptedRuntime


class Tracked(Model):
    """A model that knows whether it has been closed."""

    def __init__(self) -> None:
        super().__init__(ScriptedRuntime({"answer": 1}), None)
        self.closed = False

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


def snapshot(version: int) -> Snapshot:
    return Snapshot(version, f"sha256:{version:064x}", "scripted", Tracked())


def is_closed(held: Snapshot) -> bool:
    assert isinstance(held.model, Tracked)
    return held.model.closed


@pytest.fixture
def slot() -> Slot:
    return Slot("m", "m@production", "production")


def test_an_empty_slot_says_why_it_cannot_answer(slot: Slot) -> None:
    with pytest.raises(NotReady, match="'m' has no version loaded"):
        slot.acquire()
    slot.failed(3, "load", "it crashed", retrying=False)
    with pytest.raises(NotReady, match="it crashed"):
        slot.acquire()


def test_a_swap_keeps_one_previous_and_unloads_the_one_before(slot: Slot) -> None:
    one, two, three = snapshot(1), snapshot(2), snapshot(3)
    for generation, each in enumerate((one, two, three)):
        slot.swap(each, generation)
    assert (slot.current, slot.previous) == (three, two)
    assert [is_closed(each) for each in (one, two, three)] == [True, False, False]


def test_a_version_is_unloaded_only_after_its_last_request(slot: Slot) -> None:
    one = snapshot(1)
    slot.swap(one, 1)
    inside = [slot.acquire(), slot.acquire()]
    slot.swap(snapshot(2), 2)
    slot.swap(snapshot(3), 3)
    slot.release(inside[0])
    assert not is_closed(one)
    slot.release(inside[1])
    assert is_closed(one)


def test_swapping_back_loads_and_unloads_nothing(slot: Slot) -> None:
    one, two = snapshot(1), snapshot(2)
    slot.swap(one, 1)
    slot.swap(two, 2)
    slot.swap_back(3)
    assert (slot.current, slot.previous) == (one, two)
    assert not is_closed(one)
    assert not is_closed(two)
    current = slot.status()["current"]
    assert (current["version"], current["generation"]) == (1, 3)


def test_closing_unloads_both(slot: Slot) -> None:
    one, two = snapshot(1), snapshot(2)
    slot.swap(one, 1)
    slot.swap(two, 2)
    slot.close()
    assert is_closed(one)
    assert is_closed(two)


class DawdlingSlot(Slot):
    """Pauses between reading which version is current and what it does with it: there a race would show."""

    @property
    def _current(self) -> Snapshot | None:
        found: Snapshot | None = self.__dict__.get("kept")
        time.sleep(0.0005)
        return found

    @_current.setter
    def _current(self, snapshot: Snapshot | None) -> None:
        self.__dict__["kept"] = snapshot


def test_no_request_ever_holds_a_closed_version() -> None:
    """Requests and swaps race: each request's version is open from acquire to release."""
    slot = DawdlingSlot("m", "m@production", "production")
    slot.swap(snapshot(0), 0)
    stop, wrong = threading.Event(), []

    def request() -> None:
        while not stop.is_set():
            held = slot.acquire()
            if is_closed(held):
                wrong.append(held.version)
            slot.release(held)

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(1, 200):
        slot.swap(snapshot(version), version)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_status_tells_everything(slot: Slot) -> None:
    slot.swap(snapshot(1), 1)
    slot.swap(snapshot(2), 2)
    slot.trying(3, "fetch")
    slot.release(slot.acquire())
    slot.release(slot.acquire(), failed=True)
    status = slot.status()
    assert status["follows"] == "m@production"
    assert status["current"].keys() == {"version", "digest", "format", "since", "generation"}
    assert status["previous"]["version"] == 1
    assert status["candidate"] == {"version": 3, "phase": "fetch"}
    assert (status["requests"], status["failures"], status["swaps"]) == (2, 1, 2)
    slot.failed(3, "load", "it crashed", retrying=False)
    status = slot.status()
    assert status["candidate"] is None
    assert status["last_error"].keys() == {"version", "phase", "message", "retrying", "at"}


def test_what_was_to_be_retried_is_forgotten_once_it_is_not_wanted_any_more(slot: Slot) -> None:
    slot.swap(snapshot(1), 1)
    slot.failed(2, "fetch", "no network", retrying=True)
    slot.keep(2)
    assert slot.status()["last_error"] is None


def test_a_rejection_is_not_forgotten_over_an_outage(slot: Slot) -> None:
    slot.failed(2, "load", "it crashed", retrying=False)
    slot.failed(None, "registry", "nobody answers", retrying=True)
    assert slot.status()["last_error"]["message"] == "nobody answers"
    slot.settled()
    assert slot.status()["last_error"]["message"] == "it crashed"
    assert slot.tried


def test_a_rejection_stays_on_the_status_page_until_the_next_swap(slot: Slot) -> None:
    slot.swap(snapshot(1), 1)
    slot.failed(2, "load", "it crashed", retrying=False)
    slot.keep(3)
    assert slot.status()["last_error"]["message"] == "it crashed"
    slot.swap(snapshot(3), 4)
    assert slot.status()["last_error"] is None


def test_named_models_must_all_be_loaded_before_the_adapter_is_ready() -> None:
    slots = Slots(follow_all=False)
    a, b = Slot("a", "a@production"), Slot("b", "b@production")
    slots.add(a)
    slots.add(b)
    a.swap(snapshot(1), 1)
    assert "'b' has no version loaded" in str(slots.why_not_ready())
    b.failed(1, "load", "it crashed", retrying=False)
    assert "it crashed" in str(slots.why_not_ready())
    b.swap(snapshot(1), 1)
    assert slots.why_not_ready() is None


def test_following_all_is_ready_when_all_were_tried_and_one_is_served() -> None:
    slots = Slots(follow_all=True)
    assert "not listed" in str(slots.why_not_ready())
    slots.listed()
    assert "no model in production" in str(slots.why_not_ready())
    a, b = Slot("a", "a@production"), Slot("b", "b@production")
    slots.add(a)
    slots.add(b)
    a.swap(snapshot(1), 1)
    assert "'b'" in str(slots.why_not_ready())
    b.failed(1, "load", "it crashed", retrying=False)
    assert slots.why_not_ready() is None


def test_a_stopping_adapter_is_not_ready() -> None:
    slots = Slots(follow_all=False)
    slot = Slot("a", "a@production")
    slots.add(slot)
    slot.swap(snapshot(1), 1)
    slots.stop()
    assert slots.why_not_ready() == "the adapter is stopping"


def test_an_unknown_model_is_told_in_tritons_words() -> None:
    with pytest.raises(Unknown, match="Request for unknown model: 'x' is not found"):
        Slots(follow_all=True).get("x")
