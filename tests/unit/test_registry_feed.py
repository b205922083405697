"""What is kept of the feed in memory, and which events a watcher is for."""

import pytest

from registry.access import Caller, Right
from registry.events import Wanted
from registry.feed import Recent, Told, Watcher

ADMIN = Caller("admin", "default", 1, administrator=True)


def told(revision: int, model: str = "m", kind: str = "pointer.moved", workspace: int = 1) -> Told:
    return Told(revision, kind, workspace, model, b"." * 10)


def recent(*events: Told, after: int = 0, most_events: int = 100, most_bytes: int = 1000) -> Recent:
    kept = Recent(most_events, most_bytes)
    kept.restart(after)
    kept.add(events[-1].revision if events else after, events)
    return kept


def revisions(found: list[Told] | None) -> list[int] | None:
    return found if found is None else [each.revision for each in found]


def test_what_came_after_a_revision_is_oldest_first() -> None:
    kept = recent(*map(told, range(1, 6)))
    assert revisions(kept.since(3)) == [4, 5]
    assert revisions(kept.since(0)) == [1, 2, 3, 4, 5]
    assert revisions(kept.since(5)) == revisions(kept.since(9)) == []


def test_what_is_not_here_is_not_guessed() -> None:
    kept = recent(*map(told, range(8, 11)), after=7)
    assert kept.since(6) is None
    assert revisions(kept.since(7)) == [8, 9, 10]


@pytest.mark.parametrize("bounds", [{"most_events": 3}, {"most_bytes": 39}])
def test_the_oldest_leave_when_there_are_too_many(bounds: dict[str, int]) -> None:
    kept = recent(*map(told, range(1, 6)), **bounds)
    assert kept.since(1) is None
    assert (kept.after, revisions(kept.since(2))) == (2, [3, 4, 5])


def test_one_that_is_too_large_is_not_kept_at_all() -> None:
    kept = recent(told(1), most_bytes=9)
    assert (kept.after, kept.revision, kept.since(0)) == (1, 1, None)


def test_the_newest_that_one_may_see_may_not_be_the_newest() -> None:
    kept = recent(told(1), told(2, workspace=2))
    assert kept.newest_seen(Wanted(ADMIN)) == 1
    nobody = Caller("nobody", "default", 1)
    assert kept.newest_seen(Wanted(nobody)) is None


@pytest.mark.parametrize(
    ("models", "kinds", "included"),
    [
        ([], [], True),
        (["team-a"], [], True),
        (["other", "team-*"], [], True),
        (["team"], [], False),
        (["Team-a"], [], False),
        (["*-a", "x"], ["pointer.*"], True),
        ([], ["pointer.moved"], True),
        ([], ["version.*"], False),
        (["other"], ["*"], False),
    ],
)
def test_a_watcher_names_models_and_kinds(models: list[str], kinds: list[str], included: bool) -> None:
    assert Wanted(ADMIN, models, kinds).includes(told(1, "team-a")) is included


@pytest.mark.parametrize(
    ("rights", "scope", "sees"),
    [
        ((), None, False),
        ((Right("reader", "team-*"),), None, True),
        ((Right("promoter", "other"), Right("owner", "team-a")), None, True),
        ((Right("reader", "other"),), None, False),
        ((Right("reader", "*"),), Right("reader", "other"), False),
        ((Right("reader", "*"),), Right("publisher", "team-*"), True),
    ],
)
def test_a_watcher_is_for_what_its_caller_may_read(
    rights: tuple[Right, ...], scope: Right | None, sees: bool
) -> None:
    wanted = Wanted(Caller("one", "default", 1, rights, scope))
    assert wanted.sees(told(1, "team-a")) is sees
    assert not wanted.sees(told(1, "team-a", workspace=2))


async def _woken(*events: Told) -> bool:
    watcher = Watcher(Wanted(ADMIN, ["m"], ["pointer.*"]))
    watcher.tell(events)
    return watcher._news.is_set()


def test_who_is_not_concerned_is_not_woken() -> None:
    import asyncio

    assert asyncio.run(_woken(told(1, "n"), told(2, kind="version.created"), told(3, workspace=2))) is False
    assert asyncio.run(_woken(told(1, "n"), told(2))) is True
