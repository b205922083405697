"""The change feed of one process on both databases: filters, what one may not see, trimming, and streams."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import events, trim
from registry.access import Caller, Right
from registry.app import create_app
from registry.database import Database
from registry.errors import EventsTrimmed
from registry.events import Wanted
from registry.settings import Settings
from registry.tables import EventRow, ModelRow
from tests.integration.test_registry_access import People
from tests.servers.app import ADMIN, BASE, assert_problem, promote, publish
from tests.servers.ports import wait_until
from tests.servers.sse import Frame, frames

EVERYONE = Caller("admin", "default", 1, administrator=True)
YOUNG = 3600


@pytest.fixture
def three(api: TestClient) -> TestClient:
    """Revisions 1 to 5: two models of a team, one of another."""
    for model in ("team-a", "team-b", "other"):
        publish(api, model)
    promote(api, "team-a", 1)
    promote(api, "other", 1, "champion")
    return api


def feed(api: TestClient, query: str, headers: dict[str, str] = ADMIN) -> Any:
    answer = api.get(f"/api/v1/events?{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def revisions(found: Any) -> list[int]:
    return [event["revision"] for event in found["events"]]


def stream(api: TestClient, query: str = "", **headers: str) -> list[Frame]:
    """The first page of a stream: it ends at once here."""
    answer = api.get(f"/api/v1/events/stream?{query}", headers={**ADMIN, **headers})
    assert answer.status_code == 200, answer.text
    return list(frames(answer.text.split("\n")))


def forget(app: FastAPI) -> None:
    """Whatever was in memory has left it: now everybody reads from the database."""
    recent = app.state.feed._recent
    recent.restart(recent.revision)


@contextmanager
def watching(api: TestClient, query: str, headers: dict[str, str] = ADMIN) -> Iterator[Callable[[], Any]]:
    """A watcher that waits; the call returns its answer, once it has come."""
    answers: list[Any] = []
    waiting = api.app.state.feed._watchers  # type: ignore[attr-defined]
    before = len(waiting)
    thread = threading.Thread(
        target=lambda: answers.append(api.get(f"/api/v1/events?{query}", headers=headers))
    )
    thread.start()
    wait_until(lambda: len(waiting) > before, timeout_s=30, what="a watcher to wait")

    def answer() -> Any:
        thread.join(60)
        return answers[0]

    yield answer
    thread.join(60)


@pytest.mark.parametrize("from_memory", [True, False])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("model=team-a", [1, 4]),
        ("model=team-a&model=other", [1, 3, 4, 5]),
        ("model=team-*", [1, 2, 4]),
        ("model=*-b&model=*er", [2, 3, 5]),
        ("model=t*m*a", [1, 4]),
        ("model=Team-*", []),
        ("model=team_*", []),
        ("kind=pointer.moved", [4, 5]),
        ("kind=version.*&kind=nothing", [1, 2, 3]),
        ("kind=pointer.*&model=team-*", [4]),
        ("kind=version.*&limit=2", [1, 2]),
    ],
)
def test_names_and_kinds_choose_in_memory_as_in_the_database(
    three: TestClient, app: FastAPI, query: str, expected: list[int], from_memory: bool
) -> None:
    if not from_memory:
        forget(app)
    found = feed(three, f"since=0&wait=0&{query}")
    assert revisions(found) == expected
    assert found["revision"] == (2 if "limit" in query else 5)
    streamed = stream(three, f"since=0&{query.replace('&limit=2', '')}")
    shown = [frame.id for frame in streamed if frame.data]
    assert shown[: len(expected)] == expected


@pytest.mark.parametrize("query", ["model=te%00am", "model=", "kind=a%20b", "model=" + "a" * 129, "kind=%2F"])
def test_a_pattern_that_nothing_could_match_is_refused(three: TestClient, query: str) -> None:
    for path in ("events", "events/stream"):
        assert_problem(three.get(f"/api/v1/{path}?since=0&{query}"), 400, "invalid_name")


def test_an_event_has_the_same_text_in_every_answer(three: TestClient, app: FastAPI) -> None:
    known = feed(three, "since=0")
    assert [frame.data for frame in stream(three, "since=0") if frame.data] == known["events"]
    forget(app)
    assert feed(three, "since=0") == known


@pytest.mark.parametrize("from_memory", [True, False])
def test_what_one_may_not_see_leaves_no_trace(three: TestClient, app: FastAPI, from_memory: bool) -> None:
    robot = People(three).robot("robot", "reader", "team-*")
    if not from_memory:
        forget(app)
    assert feed(three, "since=0", robot)["revision"] == 4
    assert revisions(feed(three, "since=0", robot)) == [1, 2, 4]
    assert revisions(feed(three, "since=0&model=other", robot)) == []
    assert three.get("/api/v1", headers=robot).json()["revision"] == 4
    assert [frame.id for frame in stream(three, "since=0", **robot)] == [1, 2, 4]
    assert [frame.id for frame in stream(three, **robot)] == [4]
    # Whoever asks from further on cannot find out how far the registry is.
    for since in (5, 6, 1000):
        assert feed(three, f"since={since}&wait=60", robot) == {"revision": 4, "events": []}
        assert_problem(
            three.get(f"/api/v1/events/stream?since={since}", headers=robot), 410, "revision_unknown"
        )


def test_who_waits_is_not_woken_by_what_is_not_for_it(three: TestClient, app: FastAPI) -> None:
    robot = People(three).robot("robot", "reader", "team-*")
    with watching(three, "since=4&wait=60&model=team-a", robot) as answer:
        (watcher,) = app.state.feed._watchers
        promote(three, "other", 1, "staging")  # foreign
        promote(three, "team-b", 1, "staging")  # not asked for
        feed(three, "since=0&wait=0")  # by now everything has come to memory
        assert not watcher._news.is_set()
        promote(three, "team-a", 1, "champion")
    found = answer().json()
    assert (found["revision"], revisions(found)) == (8, [8])


def test_an_empty_answer_tells_nothing_foreign(three: TestClient) -> None:
    robot = People(three).robot("robot", "reader", "team-*")
    with watching(three, "since=4&wait=2", robot) as answer:
        promote(three, "other", 1, "staging")
    assert answer().json() == {"revision": 4, "events": []}
    with watching(three, "since=4&wait=2&model=team-a", robot) as answer:
        promote(three, "team-b", 1, "staging")
    assert answer().json() == {"revision": 7, "events": []}  # one's own, though not asked for


def test_a_right_that_is_taken_ends_the_wait(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.watch.RIGHTS_S", 0.05)
    monkeypatch.setattr("registry.identify.REMEMBERED_S", 0.05)
    people = People(api)
    robot = people.robot("robot", "reader")
    token_id = robot["Authorization"].split("_")[1]
    publish(api, "fraud")
    with watching(api, "since=1&wait=60", robot) as answer:
        people.call("DELETE", f"/tokens/{token_id}")
    assert_problem(answer(), 401, "unauthorized")


def test_a_right_to_one_model_that_is_taken_hides_it_from_who_waits(
    api: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.watch.RIGHTS_S", 0.05)
    monkeypatch.setattr("registry.identify.REMEMBERED_S", 0.05)
    people = People(api)
    robot = people.robot("robot", "reader", "kept")
    taken = people.grant("reader", "taken", principal="robot")
    publish(api, "kept")
    publish(api, "taken")
    with watching(api, "since=2&wait=60", robot) as answer:
        (watcher,) = app.state.feed._watchers
        people.call("DELETE", f"/grants/{taken}")
        wait_until(lambda: len(watcher.wanted.caller.rights) == 1, timeout_s=30, what="the rights to be read")
        promote(api, "taken", 1)
        promote(api, "kept", 1)
    assert revisions(answer().json()) == [4]


def test_rights_are_looked_at_often_enough() -> None:
    from registry import identify, watch

    assert watch.RIGHTS_S + identify.REMEMBERED_S < 5


def test_a_watcher_too_many_is_told_to_come_back(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_watchers": 1}))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        with watching(api, "since=0&wait=60") as answer:
            refused = api.get("/api/v1/events?since=0&wait=60")
            assert_problem(refused, 503, "too_many_watchers")
            assert refused.headers["retry-after"]
            assert_problem(api.get("/api/v1/events/stream"), 503, "too_many_watchers")
            assert feed(api, "since=0") == {"revision": 0, "events": []}  # who does not wait takes no place
            publish(api, "fraud")
        assert revisions(answer().json()) == [1]
        assert stream(api) != []


def test_a_stream_says_where_to_go_on(three: TestClient) -> None:
    first, *rest = stream(three, "since=3")
    assert first.retry is not None
    assert 1000 <= first.retry <= 3000
    assert (first.id, first.event, first.data["model"]) == (4, "pointer.moved", "team-a")
    assert [frame.id for frame in rest] == [5]
    (only,) = stream(three, "since=3&model=team-b")
    assert (only.id, only.data, only.comment) == (5, None, True)
    assert [frame.id for frame in stream(three)] == [5]  # from now on
    assert [frame.id for frame in stream(three, "since=1", **{"Last-Event-ID": "4"})] == [5]
    for header in ("four", "-1", "99999999999999999999"):
        answer = three.get("/api/v1/events/stream", headers={"Last-Event-ID": header})
        assert_problem(answer, 422, "invalid_request")


def test_a_stream_sends_no_more_than_a_page_at_a_time(
    three: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.watch.PAGE", 2)
    assert [frame.id for frame in stream(three, "since=0") if frame.data] == [1, 2]


def old(app: FastAPI) -> None:
    """All events are too old, and left memory."""
    trim.trim(app.state.database, 0)
    forget(app)


def test_trimmed_events_are_gone_and_watchers_that_miss_them_are_told(
    three: TestClient, app: FastAPI
) -> None:
    old(app)
    promote(three, "team-a", 1, "champion")
    for since in (0, 3):
        body = assert_problem(three.get(f"/api/v1/events?since={since}&wait=60"), 410, "events_trimmed")
        assert body["oldest"] == 5
        answer = three.get("/api/v1/events/stream", headers={"Last-Event-ID": str(since)})
        assert assert_problem(answer, 410, "events_trimmed")["oldest"] == 5
    assert revisions(feed(three, "since=5")) == [6]
    assert [frame.id for frame in stream(three, "since=5")] == [6]


def test_who_has_missed_nothing_is_not_bothered(three: TestClient, app: FastAPI) -> None:
    """Others have been busy for weeks; that is no reason for these to look at everything again."""
    robot = People(three).robot("robot", "reader", "team-b")
    old(app)
    assert feed(three, "since=2", robot) == {"revision": 2, "events": []}
    assert feed(three, "since=2&model=team-b") == {"revision": 5, "events": []}
    assert (
        assert_problem(three.get("/api/v1/events?since=1", headers=robot), 410, "events_trimmed")["oldest"]
        == 2
    )
    promote(three, "team-b", 1)
    assert revisions(feed(three, "since=2", robot)) == [6]


def test_what_is_young_stays(three: TestClient, app: FastAPI) -> None:
    database = app.state.database
    assert trim.removable(database, YOUNG) == trim.trim(database, YOUNG) == 0
    forget(app)
    assert revisions(feed(three, "since=0")) == [1, 2, 3, 4, 5]


def test_the_newest_old_event_of_each_model_stays_until_another_is_as_old(
    three: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "BATCH", 1)
    database = app.state.database
    assert trim.removable(database, 0) == 2
    assert trim.trim(database, 0) == 2
    assert kept(database) == [2, 4, 5]
    promote(three, "team-a", 1, "champion")
    assert trim.trim(database, YOUNG) == 0
    assert kept(database) == [2, 4, 5, 6]
    assert trim.trim(database, 0) == 1
    assert kept(database) == [2, 5, 6]


def kept(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.scalars(sa.select(EventRow.revision).order_by(EventRow.revision)))


def test_an_event_that_a_delivery_needs_stays_with_it(three: TestClient, app: FastAPI) -> None:
    database = app.state.database
    webhook = three.post("/api/v1/webhooks", json={"url": "https://1.1.1.1/hook"}).json()
    with database.write() as session:
        session.execute(
            sa.text(
                "INSERT INTO deliveries (id, webhook_id, revision, event, state, ended_at, give_up_at, created_at)"
                " VALUES ('d', :webhook, 1, 'version.created', 'dead', :now, :now, :now)"
            ),
            {"webhook": webhook["id"], "now": "2026-11-22T00:00:00.000000Z"},
        )
    assert trim.trim(database, 0) == 1
    assert kept(database) == [1, 2, 4, 5]
    with database.write() as session:
        session.execute(sa.text("DELETE FROM deliveries"))
    assert trim.trim(database, 0) == 1
    assert kept(database) == [2, 4, 5]


@pytest.mark.usefixtures("three")
def test_an_event_that_is_trimmed_while_it_is_looked_for_is_not_lost_in_silence(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL each statement sees what was committed before it: trimming may come between any two."""
    database = app.state.database
    if database.is_sqlite:
        return
    newest_seen = events.newest_seen

    def trim_meanwhile(*given: Any) -> int:
        found = newest_seen(*given)
        trim.trim(database, 0)
        return found

    monkeypatch.setattr(events, "newest_seen", trim_meanwhile)
    with database.read() as session, pytest.raises(EventsTrimmed):
        events.look(session, 0, Wanted(EVERYONE), 1000)


def test_a_commit_between_two_statements_is_shown_once(
    three: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = app.state.database
    newest_seen = events.newest_seen

    def promote_meanwhile(*given: Any) -> int:
        found = newest_seen(*given)
        promote(three, "team-b", 1)
        return found

    with monkeypatch.context() as patch, database.read() as session:
        patch.setattr(events, "newest_seen", promote_meanwhile)
        found = events.look(session, 4, Wanted(EVERYONE), 1000)
    assert (found.revision, [event.revision for event in found.events]) == (5, [5])


@pytest.mark.usefixtures("three")
def test_rules_in_sql_are_those_in_memory(app: FastAPI) -> None:
    rights: list[tuple[Right, ...]] = [
        (),
        (Right("reader", "*"),),
        (Right("reader", "team-*"),),
        (Right("owner", "team-a"), Right("reader", "o*")),
    ]
    callers = [EVERYONE] + [
        Caller("one", "default", workspace, each, scope)
        for workspace in (1, 2)
        for each in rights
        for scope in (None, Right("reader", "*"), Right("publisher", "*-a"))
    ]
    with app.state.database.read() as session:
        everything = session.scalars(sa.select(EventRow).order_by(EventRow.revision)).all()
        for caller in callers:
            for models in ((), ("team-a",), ("t*", "other")):
                for kinds in ((), ("pointer.*",)):
                    wanted = Wanted(caller, models, kinds)
                    in_sql = session.scalars(sa.select(EventRow).where(wanted.condition())).all()
                    assert {e.revision for e in in_sql} == {
                        e.revision for e in everything if wanted.includes(e)
                    }


def test_a_restored_database_lets_its_watchers_go(api: TestClient, app: FastAPI) -> None:
    """Its counter is below what was seen: nobody can go on from there as if nothing had happened."""
    for model in ("a", "b", "c"):
        publish(api, model)
    with watching(api, "since=3&wait=60") as answer:
        restore(app.state.database, 1)
        app.state.feed._tail.ring()
    assert answer().json() == {"revision": 1, "events": []}
    assert feed(api, "since=3&wait=60") == {"revision": 1, "events": []}
    assert_problem(api.get("/api/v1/events/stream?since=3"), 410, "revision_unknown")
    promote(api, "a", 1)
    assert revisions(feed(api, "since=1")) == [2]


def restore(database: Database, revision: int) -> None:
    with database.engine.begin() as connection:
        on = "" if database.is_sqlite else "ON {}"
        for trigger in ("events_refuse_delete", "feed_refuse_back"):
            connection.execute(sa.text(f"DROP TRIGGER tr_{trigger} {on.format(trigger.split('_')[0])}"))
        connection.execute(sa.text(f"DELETE FROM events WHERE revision > {revision}"))
        connection.execute(sa.text(f"UPDATE feed SET revision = {revision}"))


@pytest.fixture
def outage(settings: Settings) -> Callable[[], Any]:
    """Nobody can connect to the database any more, nor is; the call that is returned ends that."""
    url = sa.make_url(settings.database_url)
    name = url.database
    maintenance = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)

    def let_in(*, all_: bool) -> None:
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {all_}')
            if not all_:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
                )

    def begin() -> Any:
        let_in(all_=False)
        return lambda: let_in(all_=True)

    return begin


def test_an_outage_of_the_database_is_not_mistaken_for_quiet(
    api: TestClient, app: FastAPI, outage: Callable[[], Any]
) -> None:
    """An empty answer says: nothing has happened. Who cannot know must not say so."""
    if app.state.database.is_sqlite:
        return
    publish(api, "fraud")
    with watching(api, "since=1&wait=1") as answer:
        over = outage()
    assert_problem(answer(), 503, "database_unavailable")
    over()
    wait_until(
        lambda: api.get("/api/v1/events?since=1").status_code == 200, timeout_s=30, what="the feed to recover"
    )
    promote(api, "fraud", 1)
    assert revisions(feed(api, "since=1")) == [2]


def test_who_wrote_finds_it_in_the_feed_of_the_same_process(api: TestClient) -> None:
    publish(api, "fraud")
    for generation in range(1, 20):
        revision = promote(api, "fraud", 1, f"alias-{generation}").json()["revision"]
        assert revisions(feed(api, f"since={revision - 1}&wait=60")) == [revision]


def test_many_events_of_one_transaction_are_all_heard(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud")
    with watching(api, "since=1&wait=60") as answer, app.state.database.write() as session:
        model = session.scalars(sa.select(ModelRow)).one()
        for number in range(1500):  # more than one read takes
            events.record(session, model, "test.made", {"number": number})
    heard = revisions(answer().json())
    while heard[-1] < 1501:
        heard += revisions(feed(api, f"since={heard[-1]}&wait=60"))
    assert heard == list(range(2, 1502))
