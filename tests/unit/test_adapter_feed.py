"""The feed wakes whom an event concerns, misses nothing, and survives whatever the registry does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard import ServerInfo, parse_ref

from serving_adapter.cache import Cache
from serving_adapter.feed import FeedReader, Followers
from serving_adapter.follower import Follower
from serving_adapter.prepare import Workshop
from serving_adapter.settings import Following, Settings
from serving_adapter.slots import Slots
from serving_adapter.upstream import Upstream
from tests.servers.adapter_runtime import FORMATS
from tests.servers.ports import wait_until
from tests.unit.adapter_fakes import FakeClient
from tests.unit.test_adapter_follower import FakeLoader


class Bench:
    """A feed, stepped by the test; its followers run in their own threads."""

    def __init__(self, root: Path, *, follow_all: bool) -> None:
        self.client = FakeClient()
        upstream = Upstream(self.client, "http://registry")
        cache = Cache(root, upstream)
        cache.prepare()
        self.slots = Slots(follow_all=follow_all)
        workshop = Workshop(Settings(cache_dir=root, formats=FORMATS), cache, FakeLoader())
        self.followers = Followers(self.slots, upstream, workshop)
        self.feed = FeedReader(upstream, self.followers, self.slots, follow_all=follow_all)

    def promote(self, model: str, number: int, generation: int) -> None:
        self.client.add(model, number, {"answer": number})
        self.client.point(model, number, generation)

    def wait_for(self, model: str, number: int) -> None:
        def serves() -> bool:
            current = {slot.name: slot.current for slot in self.slots.all()}.get(model)
            return current is not None and current.version == number

        wait_until(serves, timeout_s=10, what=f"{model} {number} to be served")


@pytest.fixture
def all_models(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "cache", follow_all=True)
    yield bench
    bench.followers.stop()
    bench.followers.each(lambda follower: follower.join(10))


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "cache", follow_all=False)
    bench.followers.follow(Following("m", parse_ref("m@production")))
    yield bench
    bench.followers.stop()
    bench.followers.each(lambda follower: follower.join(10))


def test_the_first_step_follows_every_model_in_production(all_models: Bench) -> None:
    all_models.promote("a", 1, 1)
    all_models.client.add("b", 1, {"answer": 1})
    all_models.feed.step()
    all_models.wait_for("a", 1)
    assert [slot.name for slot in all_models.slots.all()] == ["a"]


def test_a_model_that_reaches_production_later_is_followed_too(all_models: Bench) -> None:
    all_models.feed.step()
    all_models.promote("new", 1, 1)
    all_models.feed.step()
    all_models.wait_for("new", 1)


def test_a_move_wakes_its_follower(named: Bench) -> None:
    named.promote("m", 1, 1)
    named.feed.step()
    named.wait_for("m", 1)
    named.promote("m", 2, 2)
    named.feed.step()
    named.wait_for("m", 2)


def test_a_move_of_another_pointer_or_model_wakes_nobody(
    named: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    named.feed.step()
    woken: list[str] = []
    monkeypatch.setattr(Follower, "wake", lambda follower: woken.append(follower.slot.name))
    named.client.point("m", 1, 1, "champion")
    named.client.point("other", 1, 1)
    named.feed.step()
    assert woken == []
    named.client.point("m", 1, 1)
    named.feed.step()
    assert woken == ["m"]


@pytest.mark.parametrize(
    "kind",
    [f"version.{what}" for what in ("verified", "damaged", "deleted", "restored", "held", "released")]
    + ["invented.later"],
)
def test_what_happens_to_versions_wakes_nobody_and_breaks_nothing(
    named: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    named.feed.step()
    woken: list[str] = []
    monkeypatch.setattr(Follower, "wake", lambda follower: woken.append(follower.slot.name))
    named.client.tell(kind, "m", {"number": 1, "actor": "test"})
    assert named.feed.step() == 0
    assert woken == []
    named.client.point("m", 1, 1)
    named.feed.step()
    assert named.client.asked[-2:] == ["events 0", "events 1"]
    assert woken == ["m"]


def test_two_names_may_follow_one_pointer(named: Bench) -> None:
    named.followers.follow(Following("alias", parse_ref("m@production")))
    named.promote("m", 1, 1)
    named.feed.step()
    named.wait_for("m", 1)
    named.wait_for("alias", 1)


def test_the_revision_is_noted_before_the_pointers_are_read(
    named: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a promotion between the two would be heard of only at the next slow poll."""
    order: list[str] = []
    info = named.client.info

    def note() -> ServerInfo:
        order.append("revision")
        return info()

    monkeypatch.setattr(named.client, "info", note)
    monkeypatch.setattr(Follower, "wake", lambda _: order.append("pointers"))
    named.feed.step()
    assert order == ["revision", "pointers"]


def test_after_an_outage_everything_is_looked_at_again(named: Bench) -> None:
    named.promote("m", 1, 1)
    named.feed.step()
    named.wait_for("m", 1)
    named.client.failing = True
    assert named.feed.step() > 0
    named.promote("m", 2, 2)
    named.client.feed.clear()  # even what the feed does not tell any more
    named.client.failing = False
    named.feed.step()
    named.wait_for("m", 2)


def test_after_events_were_trimmed_everything_is_looked_at_again(
    named: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The registry keeps events for weeks, and we were away for longer."""
    caplog.set_level("INFO", "serving_adapter.feed")
    named.promote("m", 1, 1)
    named.feed.step()
    named.wait_for("m", 1)
    named.promote("m", 2, 2)
    named.client.feed.clear()
    named.client.trimmed = named.client.revision
    assert 0 < named.feed.step() < 1
    named.feed.step()
    named.wait_for("m", 2)
    named.promote("m", 3, 3)
    assert named.feed.step() == 0
    named.wait_for("m", 3)
    assert [record.levelname for record in caplog.records if record.name == "serving_adapter.feed"] == [
        "INFO"
    ]


def test_pauses_grow_during_an_outage_and_shrink_after_it(named: Bench) -> None:
    named.client.failing = True
    pauses = [named.feed.step() for _ in range(12)]
    assert pauses[0] < 1 < pauses[-1] <= 15
    named.client.failing = False
    assert named.feed.step() == 0
    named.client.failing = True
    assert named.feed.step() < 1


def test_a_registry_whose_revision_went_back_is_followed_anew(named: Bench) -> None:
    """Restored from a backup: its generations are old, and yet they are what counts now."""
    named.promote("m", 1, 9)
    named.feed.step()
    named.wait_for("m", 1)
    named.client.feed.clear()
    named.client.revision = 0
    named.promote("m", 2, 3)
    named.client.revision = 0
    named.feed.step()
    named.wait_for("m", 2)


def test_an_error_that_nobody_foresaw_does_not_end_the_feed(
    named: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(named.client, "info", lambda: 1 / 0)
    assert named.feed.step() > 0
    assert "ZeroDivisionError" in caplog.text


def test_an_outage_is_logged_once(named: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serving_adapter.feed")
    named.client.failing = True
    for _ in range(5):
        named.feed.step()
    named.client.failing = False
    named.feed.step()
    messages = [record.getMessage() for record in caplog.records if record.name == "serving_adapter.feed"]
    assert messages == [
        "no good answer from the registry, what is loaded stays: nobody answers",
        "the registry answers again",
    ]


def test_staleness_counts_from_the_last_good_answer(named: Bench) -> None:
    upstream = Upstream(named.client, "http://registry")
    upstream.info()
    named.client.failing = True
    with pytest.raises(Exception, match="nobody"):
        upstream.info()
    before = upstream.status()
    assert before["error"] == "nobody answers"
    named.client.failing = False
    upstream.info()
    after = upstream.status()
    assert after["error"] is None
    assert float(str(after["stale_s"])) <= float(str(before["stale_s"])) + 1


def test_the_threads_end_when_they_are_told_to(all_models: Bench) -> None:
    all_models.feed.start()
    all_models.promote("a", 1, 1)
    all_models.wait_for("a", 1)
    all_models.feed.stop()
    assert all_models.feed.join(10)
