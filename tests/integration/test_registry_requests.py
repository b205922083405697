"""Promotion requests: four eyes, what approvals are bound to, how requests end, freezing, times; on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import identify, schedule
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.integration.test_registry_access import People, _As
from tests.integration.test_registry_policy import edge, metric, preview, rule
from tests.servers.app import ADMIN, BASE, assert_problem, promote, publish

LONG_AGO, LATER = "2026-01-01T00:00:00Z", "2199-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "REMEMBERED_S", 0.0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The tests look themselves for what is due."""
    return settings.model_copy(update={"schedule_poll_s": 0.0})


class Team:
    """A model with three versions, whose promotions need two approvals, and four who may promote."""

    def __init__(self, api: TestClient) -> None:
        self.people = People(api)
        self.admin = api
        for number in (1, 2, 3):
            publish(api, "fraud", {"m": b"%d" % number}, metrics={"auc": 0.9 + number / 100})
        rule(api, "fraud", edge("*", "production", approvals=2), edge("*", "*"))
        names = ("ann", "bob", "cat", "dan")
        self.ann, self.bob, self.cat, self.dan = (
            _As(api, self.people.robot(name, "promoter")) for name in names
        )

    def ask(self, who: Any, number: int, to: str = "production", **more: Any) -> int:
        answer = promote(who, "fraud", number, to, **more)
        assert answer.status_code == 202, answer.text
        assert answer.json()["moved"] is False
        return int(answer.json()["request"])

    def do(self, who: Any, verb: str, request: int, **body: Any) -> Any:
        return who.post(f"/api/v1/models/fraud/requests/{request}/{verb}", json=body)

    def approve(self, who: Any, request: int, **body: Any) -> Any:
        return self.do(who, "approve", request, **body)

    def look(self, request: int) -> dict[str, Any]:
        return dict(self.admin.get(f"/api/v1/models/fraud/requests/{request}").json())

    def production(self) -> int | None:
        answer = self.admin.get("/api/v1/models/fraud/pointers/production")
        return None if answer.status_code == 404 else answer.json()["number"]

    def say(self, number: int, text: str) -> None:
        """Something about a version that was not said before."""
        body = {"tags": {"note": text}}
        answer = self.admin.patch(f"/api/v1/models/fraud/versions/{number}/facts", json=body)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def team(api: TestClient) -> Team:
    return Team(api)


def test_the_last_approval_promotes(team: Team) -> None:
    request = team.ask(team.ann, 1, reason="better")
    first = team.approve(team.bob, request, text="fine").json()
    assert (first["state"], first["approved_by"], team.production()) == ("open", ["bob"], None)
    assert team.approve(team.bob, request).json() == first  # once is once
    done = team.approve(team.cat, request).json()
    assert (done["state"], done["approved_by"], team.production()) == ("done", ["bob", "cat"], 1)
    assert [(entry["kind"], entry["author"], entry["text"]) for entry in done["entries"]] == [
        ("asked", "ann", "better"),
        ("approved", "bob", "fine"),
        ("approved", "cat", ""),
        ("done", "cat", ""),
    ]
    [move] = team.admin.get("/api/v1/models/fraud/history").json()["items"]
    assert (move["actor"], move["reason"]) == ("cat", "better")
    grounds = team.admin.get("/api/v1/models/fraud/decisions").json()["items"]
    assert [(g["outcome"], g["request"], g["approved_by"], g["approvals"]) for g in grounds] == [
        ("done", request, ["bob", "cat"], 2),
        ("asked", request, [], 2),
    ]
    assert_problem(team.approve(team.dan, request), 409, "request_closed")


def test_nobody_approves_what_they_have_asked_for(team: Team, database: Database) -> None:
    request = team.ask(team.ann, 1)
    assert_problem(team.approve(team.ann, request), 403, "four_eyes")
    another_token = _As(team.admin, team.people.headers("ann"))
    assert_problem(team.approve(another_token, request), 403, "four_eyes")
    own = (
        "UPDATE request_entries SET kind = 'approved'",
        (
            "INSERT INTO request_entries (model_id, request_id, position, requested_by, kind, author, text,"
            " manifest_digest, fact_revision) SELECT model_id, request_id, 2, requested_by, 'approved', author, '',"
            " manifest_digest, fact_revision FROM request_entries"
        ),
    )
    for statement in own:
        with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
            connection.execute(sa.text(statement))
    assert team.look(request)["approved_by"] == []


def test_asking_again_is_not_asking_anew(team: Team) -> None:
    """So that whoever repeats a request whose answer was lost, or asks for what somebody else has asked for, changes nothing."""
    request = team.ask(team.ann, 1)
    assert team.ask(team.ann, 1) == request
    assert team.ask(team.bob, 1) == request
    assert team.approve(team.bob, request).status_code == 200
    other = team.ask(team.ann, 2)
    assert other != request
    items = team.admin.get("/api/v1/models/fraud/requests?state=open").json()["items"]
    assert [each["id"] for each in items] == [other, request]
    page = team.admin.get("/api/v1/models/fraud/requests?limit=1").json()
    rest = team.admin.get("/api/v1/models/fraud/requests", params={"limit": 1, "after": page["next"]}).json()
    assert [each["id"] for each in page["items"] + rest["items"]] == [other, request]
    assert rest["next"] is None


def test_approvals_count_for_the_version_as_it_was(team: Team) -> None:
    request = team.ask(team.ann, 1)
    team.approve(team.bob, request)
    team.say(1, "never mind")
    assert team.look(request)["approved_by"] == []
    assert_problem(team.approve(team.cat, request, fact_revision=0), 409, "version_changed")
    assert team.approve(team.cat, request, fact_revision=1).json()["state"] == "open"
    assert team.approve(team.bob, request).json()["state"] == "done"
    assert team.production() == 1


def test_a_request_is_for_the_holder_that_was_seen(team: Team) -> None:
    """Two are asked for at once: when the first is done, the approvals of the second are worth nothing."""
    first, second = team.ask(team.ann, 1), team.ask(team.ann, 2)
    team.approve(team.bob, second)
    for who in (team.bob, team.cat):
        team.approve(who, first)
    assert (team.look(second)["state"], team.production()) == ("outdated", 1)
    assert_problem(team.approve(team.cat, second), 409, "request_closed")
    again = team.ask(team.ann, 2)
    assert again != second
    assert team.look(again)["approved_by"] == []
    assert team.look(second)["entries"][-1]["kind"] == "outdated"
    stale = promote(team.ann, "fraud", 3, expected_generation=0)
    assert_problem(stale, 409, "generation_conflict")


def test_no_approval_is_used_twice(team: Team) -> None:
    request = team.ask(team.ann, 1)
    for who in (team.bob, team.cat):
        team.approve(who, request)
    again = team.ask(team.ann, 2)
    for who in (team.bob, team.cat):
        team.approve(who, again)
    assert team.production() == 2
    team.ask(team.ann, 1)
    assert team.production() == 2
    assert team.ann.post("/api/v1/models/fraud/rollbacks", json={}).json()["number"] == 1


def test_only_the_right_people_approve(team: Team) -> None:
    team.people.call("POST", "/groups", json={"name": "risk"})
    team.people.call("PUT", "/groups/risk/members/bob")
    team.people.call("PUT", "/groups/risk/members/cat")
    rule(team.admin, "fraud", edge("*", "*", approvals=2, approvers=["group:risk"]))
    request = team.ask(team.ann, 1)
    assert_problem(team.approve(team.dan, request), 403, "not_by_policy")
    reader = _As(team.admin, team.people.robot("eve", "reader"))
    assert_problem(team.approve(reader, request), 403, "forbidden")
    team.approve(team.bob, request)
    # Whoever may not approve any more does not count any more.
    team.people.call("DELETE", "/groups/risk/members/bob")
    assert team.approve(team.cat, request).json()["state"] == "open"
    team.people.call("PUT", "/groups/risk/members/bob")
    team.people.call("PUT", "/groups/risk/members/dan")
    assert team.approve(team.dan, request).json()["state"] == "done"


def test_an_approval_counts_while_its_author_may_promote(team: Team) -> None:
    request = team.ask(team.ann, 1)
    team.approve(team.bob, request)
    [grant] = [g for g in team.people.call("GET", "/grants")["items"] if g["principal"] == "bob"]
    team.people.call("DELETE", f"/grants/{grant['id']}")
    assert team.approve(team.cat, request).json()["state"] == "open"
    team.people.call("PATCH", "/principals/cat", json={"disabled": True})
    assert team.approve(team.dan, request).json()["state"] == "open"
    team.people.grant("promoter", principal="bob")
    # Bob's counts again, and with Dan's it is enough: whoever says so once more has it carried out.
    again = team.approve(team.bob, request).json()
    assert (again["state"], team.production()) == ("done", 1)
    assert [entry["kind"] for entry in again["entries"]].count("approved") == 3


def test_who_asked_must_still_have_the_right(team: Team) -> None:
    request = team.ask(team.ann, 1)
    team.approve(team.bob, request)
    team.people.call("PATCH", "/principals/ann", json={"disabled": True})
    assert_problem(team.approve(team.cat, request), 403, "forbidden")
    assert (team.look(request)["approved_by"], team.production()) == (["bob"], None)
    team.people.call("PATCH", "/principals/ann", json={"disabled": False})
    assert team.approve(team.cat, request).json()["state"] == "done"


def test_checks_are_looked_at_again_when_it_is_done(team: Team) -> None:
    """Refused, the last approval has not happened: it can be given when the version is as policy demands."""
    request = team.ask(team.ann, 1)
    team.approve(team.bob, request)
    rule(team.admin, "fraud", edge("*", "production", metric("auc > 0.99"), approvals=2))
    assert_problem(promote(team.ann, "fraud", 2), 409, "checks_failed")
    assert_problem(team.approve(team.cat, request), 409, "checks_failed")
    assert (team.look(request)["state"], team.look(request)["approved_by"]) == ("open", ["bob"])
    rule(team.admin, "fraud", edge("*", "production", metric("auc > 0.9"), approvals=3))
    assert team.approve(team.cat, request).json()["state"] == "open"
    assert team.approve(team.dan, request).json()["state"] == "done"


def test_requests_are_commented_rejected_and_withdrawn(team: Team) -> None:
    request = team.ask(team.ann, 1)
    assert team.do(team.bob, "comments", request, text="why?").json()["entries"][-1]["text"] == "why?"
    assert_problem(team.do(team.bob, "comments", request, text=""), 422, "invalid_request")
    assert_problem(team.do(team.bob, "withdraw", request), 403, "forbidden")
    assert team.do(team.ann, "withdraw", request).json()["state"] == "withdrawn"
    other = team.ask(team.ann, 1)
    assert team.do(team.bob, "reject", other, text="no").json()["state"] == "rejected"
    for verb, body in (("approve", {}), ("reject", {}), ("comments", {"text": "x"}), ("withdraw", {})):
        assert_problem(team.do(team.ann, verb, other, **body), 409, "request_closed")
    assert_problem(team.approve(team.bob, 99), 404, "request_not_found")
    kinds = {event["kind"] for event in team.admin.get("/api/v1/events?since=0").json()["events"]}
    assert {"request.opened", "request.commented", "request.rejected", "request.withdrawn"} <= kinds


def test_what_somebody_else_has_done_cannot_be_done_for_a_request(team: Team, app: FastAPI) -> None:
    rule(team.admin, "fraud", edge("*", "archived", approvals=1))
    asked = team.ask(team.ann, 1, "archived")
    due = team.ask(team.ann, 2, "archived", at=LONG_AGO)
    rule(team.admin, "fraud", edge("*", "*"))
    for number in (1, 2):
        assert promote(team.admin, "fraud", number, "archived").json()["moved"] is True
    assert_problem(team.approve(team.bob, asked), 409, "generation_conflict")
    assert team.look(asked)["approved_by"] == []
    schedule.carry_out_due(app.state.database)
    assert team.look(due)["state"] == "outdated"


def test_a_request_expires(team: Team, database: Database) -> None:
    request = team.ask(team.ann, 1)
    with database.engine.begin() as connection:
        _past(connection, "expires_at")
    assert team.look(request)["state"] == "expired"
    assert_problem(team.approve(team.bob, request), 409, "request_closed")
    assert schedule.carry_out_due(database) == 1
    entry = team.look(request)["entries"][-1]
    assert (entry["kind"], entry["author"]) == ("expired", "modelyard")
    assert schedule.carry_out_due(database) == 0
    assert team.ask(team.ann, 1) != request


def test_of_several_policies_that_which_waits_least_says_when_a_request_expires(team: Team) -> None:
    rule(team.admin, "*", edge("*", "production", expires_s=3600), edge("*", "*"))
    rule(team.admin, "f*", edge("*", "production", expires_s=7200), edge("*", "*"))
    asked = team.look(team.ask(team.ann, 1))
    begun, ends = (datetime.fromisoformat(asked[name]) for name in ("requested_at", "expires_at"))
    assert timedelta(minutes=59) < ends - begun < timedelta(minutes=61)


def _past(connection: sa.Connection, column: str) -> None:
    """Make it so long ago: nobody but the database's owner can, against its triggers."""
    sqlite = connection.dialect.name == "sqlite"
    trigger = "tr_promotion_requests_refuse_update"
    kept = (
        connection.execute(
            sa.text("SELECT sql FROM sqlite_master WHERE name = :name").bindparams(name=trigger)
        ).scalar()
        if sqlite
        else None
    )
    table = "promotion_requests"
    connection.execute(
        sa.text(f"DROP TRIGGER {trigger}" if sqlite else f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
    )
    connection.execute(
        sa.text(
            f"UPDATE {table} SET {column} = '2026-01-01T00:00:00.000000Z', due_at = '2026-01-01T00:00:00.000000Z'"
        )
    )
    connection.execute(sa.text(kept or f"ALTER TABLE {table} ENABLE TRIGGER {trigger}"))


def test_a_scheduled_promotion_is_done_once_by_however_many_processes(team: Team, settings: Settings) -> None:
    rule(team.admin, "fraud", edge("*", "*"))
    request = team.ask(team.ann, 1, at=LONG_AGO, reason="at night")
    others = [Database(settings.database_url) for _ in range(4)]
    start = threading.Barrier(len(others))

    def look(database: Database) -> int:
        start.wait()
        return schedule.carry_out_due(database)

    with ThreadPoolExecutor(len(others)) as pool:
        assert sum(pool.map(look, others)) == 1
    for each in others:
        each.close()
    assert (team.look(request)["state"], team.production()) == ("done", 1)
    [move] = team.admin.get("/api/v1/models/fraud/history").json()["items"]
    assert (move["actor"], move["reason"]) == ("modelyard", "at night")


def test_a_scheduled_promotion_waits_for_its_time_and_its_approvals(team: Team, database: Database) -> None:
    early = team.ask(team.ann, 1, at=LATER)
    for who in (team.bob, team.cat):
        assert team.approve(who, early).json()["state"] == "open"
    assert schedule.carry_out_due(database) == 0
    assert team.production() is None
    late = team.ask(team.ann, 2, at=LONG_AGO)
    assert schedule.carry_out_due(database) == 0
    team.approve(team.bob, late)
    assert team.approve(team.cat, late).json()["state"] == "done"
    assert team.production() == 2


@pytest.mark.parametrize(
    ("spoiled", "state", "code"),
    [
        ("moved", "outdated", "generation_conflict"),
        ("frozen", "failed", "model_frozen"),
        ("deleted", "failed", "version_deleted"),
        ("disabled", "failed", "forbidden"),
        ("checks", "failed", "checks_failed"),
    ],
)
def test_what_cannot_be_done_when_its_time_comes_is_told(
    team: Team, database: Database, spoiled: str, state: str, code: str
) -> None:
    rule(team.admin, "fraud", edge("*", "*"))
    request = team.ask(team.ann, 1, at=LONG_AGO)
    if spoiled == "moved":
        promote(team.admin, "fraud", 2)
    elif spoiled == "frozen":
        team.admin.put("/api/v1/models/fraud/freeze", json={"reason": "audit"})
    elif spoiled == "deleted":
        team.admin.delete("/api/v1/models/fraud/versions/1")
    elif spoiled == "disabled":
        team.people.call("PATCH", "/principals/ann", json={"disabled": True})
    else:
        rule(team.admin, "fraud", edge("*", "*", {"kind": "example"}))
    held = team.production()
    assert schedule.carry_out_due(database) == 1
    entry = team.look(request)["entries"][-1]
    assert (entry["kind"], entry["text"].partition(":")[0]) == (state, code)
    assert (team.look(request)["state"], team.production()) == (state, held)
    assert schedule.carry_out_due(database) == 0


def test_the_application_carries_out_what_is_due(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"schedule_poll_s": 0.05}))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish(api, "fraud")
        since = api.get("/api/v1").json()["revision"]
        promote(api, "fraud", 1, at=LONG_AGO)
        for _ in range(20):
            feed = api.get(f"/api/v1/events?since={since}&wait=5").json()
            since = feed["revision"]
            if any(event["kind"] == "pointer.moved" for event in feed["events"]):
                break
        assert api.get("/api/v1/models/fraud/pointers/production").json()["number"] == 1


def test_a_time_is_a_time(api: TestClient) -> None:
    publish(api, "fraud")
    for at in ("2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", 5e18):
        assert_problem(promote(api, "fraud", 1, at=at), 422, "invalid_request")


def test_a_frozen_model_moves_no_pointer(api: TestClient, database: Database) -> None:
    publish(api, "fraud")
    publish(api, "fraud", {"m": b"2"})
    promote(api, "fraud", 1)
    promote(api, "fraud", 2)
    frozen = api.put("/api/v1/models/fraud/freeze", json={"reason": "audit of 2026"})
    assert frozen.json()["frozen"] == "audit of 2026"
    for answer in (
        promote(api, "fraud", 1),
        promote(api, "fraud", 1, "champion"),
        promote(api, "fraud", 2, "archived"),
        api.post("/api/v1/models/fraud/rollbacks", json={}),
        api.delete("/api/v1/models/fraud/pointers/production"),
    ):
        assert assert_problem(answer, 409, "model_frozen")["reason"] == "audit of 2026"
    assert (preview(api, 1)["outcome"], preview(api, 1)["frozen"]) == ("refused", "audit of 2026")
    with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO moves SELECT model_id, pointer, 9, from_number, to_number, kind, actor, reason, at,"
                " digest, digest FROM moves WHERE generation = 2"
            )
        )
    assert publish(api, "fraud", {"m": b"3"})["number"] == 3
    assert api.delete("/api/v1/models/fraud/freeze").json()["frozen"] is None
    assert promote(api, "fraud", 3).status_code == 200


def test_who_held_a_pointer_at_any_time(api: TestClient) -> None:
    publish(api, "fraud")
    publish(api, "fraud", {"m": b"2"})
    before = datetime.now(UTC) - timedelta(days=1)
    path = "/api/v1/models/fraud/pointers/production"
    promote(api, "fraud", 1)
    promote(api, "fraud", 1, "champion")
    promote(api, "fraud", 2)
    api.delete(path)
    moves = api.get("/api/v1/models/fraud/history?pointer=production").json()["items"][::-1]
    for move in moves:
        then = api.get(path, params={"at": move["at"]}).json()
        told = (then["number"], then["generation"], then["moved_at"], then["moved_by"])
        # SQLite's clock has milliseconds: of two moves in one of them the last one counts.
        last = [each for each in moves if each["at"] == move["at"]][-1]
        assert told == (last["to"], last["generation"], last["at"], "admin")
    between = datetime.fromisoformat(moves[1]["at"]) - timedelta(microseconds=1)
    assert api.get(path, params={"at": between.isoformat()}).json()["number"] == 1
    in_force = api.get("/api/v1/models/fraud/history", params={"at": LATER}).json()["items"]
    assert {(each["pointer"], each["to"]) for each in in_force} == {("production", None), ("champion", 1)}
    of_one = {"at": LATER, "pointer": "champion"}
    assert len(api.get("/api/v1/models/fraud/history", params=of_one).json()["items"]) == 1
    assert api.get("/api/v1/models/fraud/history", params={"at": before.isoformat()}).json()["items"] == []
    assert_problem(api.get(path, params={"at": before.isoformat()}), 404, "pointer_not_found")


def test_history_does_not_go_back_when_the_clock_does(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud")
    publish(api, "fraud", {"m": b"2"})
    promote(api, "fraud", 1)
    with app.state.database.engine.begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        trigger = "tr_moves_refuse_update"
        connection.execute(
            sa.text(f"DROP TRIGGER {trigger}" if sqlite else f"ALTER TABLE moves DISABLE TRIGGER {trigger}")
        )
        connection.execute(sa.text("UPDATE moves SET at = '2100-01-01T00:00:00.000000Z'"))
    promote(api, "fraud", 2)
    newest, first = api.get("/api/v1/models/fraud/history").json()["items"]
    assert newest["at"] == first["at"] == "2100-01-01T00:00:00.000000Z"


def test_an_etag_is_a_generation(api: TestClient) -> None:
    publish(api, "fraud")
    publish(api, "fraud", {"m": b"2"})
    promote(api, "fraud", 1)
    path = "/api/v1/models/fraud"
    tag = api.get(f"{path}/pointers/production").headers["ETag"]
    assert tag == '"1"'
    body, stale = {"number": 2, "to": "production"}, {"If-Match": '"0"'}
    assert_problem(api.post(f"{path}/promotions", json=body, headers=stale), 409, "generation_conflict")
    assert api.post(f"{path}/promotions", json=body, headers={"If-Match": tag}).status_code == 200
    assert_problem(api.post(f"{path}/rollbacks", json={}, headers=stale), 409, "generation_conflict")
    assert_problem(api.delete(f"{path}/pointers/production", headers=stale), 409, "generation_conflict")
    both = {**body, "expected_generation": 2}
    assert_problem(
        api.post(f"{path}/promotions", json=both, headers={"If-Match": '"1"'}), 400, "invalid_request"
    )
    for bad in ("2", "*", '"x"', 'W/"2"'):
        answer = api.post(f"{path}/promotions", json=body, headers={"If-Match": bad})
        assert_problem(answer, 422, "invalid_request")
