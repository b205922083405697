"""What leaves an entry in the audit trail: every change one, every refusal one, nothing else any."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import denials
from registry.audit import Entry, entries
from registry.audit_verify import verify
from registry.database import Database
from tests.integration.test_registry_access import NEEDED, People, _As
from tests.servers.app import assert_problem, begin, create, promote, publish, send

# What an upload brings is nobody's before it is a version, which is audited.
NOT_AUDITED = {name for name in NEEDED["publish"] if "upload" in name}
# What an adapter says that it runs is no decision of anybody's, and said every 30 seconds.
NOT_AUDITED |= NEEDED["report"]
# Whoever logs in is not yet anybody.
LOGIN = NEEDED["none"] | {name for name in NEEDED["admin"] if "trusted-publishers" in name}
# Their own tests count what they leave: test_registry_webhooks.py, test_registry_login_audited.py.
ELSEWHERE = LOGIN | {name for names in NEEDED.values() for name in names if "/webhooks" in name}
CHANGES = {name for names in NEEDED.values() for name in names if not name.startswith("GET")}
UNSAFE = CHANGES - NOT_AUDITED - ELSEWHERE


@pytest.fixture
def people(api: TestClient) -> People:
    return People(api)


class Trail:
    """What was added to the trail since one looked last, oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen = 0

    def news(self) -> list[Entry]:
        with self._database.read() as session:
            found = [e for e in entries(session, limit=1000).items if e.sequence > self._seen]
        self._seen = max((entry.sequence for entry in found), default=self._seen)
        return found[::-1]


@pytest.fixture
def trail(database: Database, api: TestClient) -> Trail:  # noqa: ARG001 - the application has made what it makes by itself
    found = Trail(database)
    found.news()
    return found


def test_every_change_leaves_one_entry(
    api: TestClient, people: People, trail: Trail, database: Database
) -> None:
    """All of them, one after the other; what changes nothing leaves none."""
    steps = _Steps(api, people, trail)
    steps.model_and_versions()
    steps.access()
    steps.governance()
    assert steps.walked == UNSAFE
    with database.read() as session:
        report = verify(session, [], [])
        assert report.clean, report


class _Steps:
    def __init__(self, api: TestClient, people: People, trail: Trail) -> None:
        self._api = api
        self._people = people
        self._trail = trail
        self.walked: set[str] = set()

    def _leaves(self, route: str, action: str | None, call: Any, resource: str | None = None) -> None:
        call()
        news = self._trail.news()
        assert [entry.action for entry in news] == ([action] if action else []), route
        for entry in news:
            assert (entry.actor, entry.workspace, entry.outcome) == ("admin", "default", "done")
            assert len(entry.request_id) == 32
            assert resource in (None, entry.resource)
        self.walked.add(route)

    def model_and_versions(self) -> None:
        api, call, leaves = self._api, self._people.call, self._leaves
        fraud, one = "/models/fraud", "/models/fraud/versions/1"
        name, path = "/api/v1/models/{model}", "/api/v1/models/{model}/versions/{number}"
        leaves(
            "POST /api/v1/models", "model.created", lambda: call("POST", "/models", json={"name": "fraud"})
        )
        files = {"m": b"1"}
        upload = begin(api, "fraud", files)
        send(api, upload, files)
        assert self._trail.news() == []
        resource = "models/fraud/versions/1"
        for action in ("version.created", None):
            leaves(f"POST {name}/versions", action, lambda: create(api, "fraud", upload, files), resource)
        publish(api, "fraud", {"m": b"2"})
        self._trail.news()
        for number, action in ((1, "version.promoted"), (1, None), (2, "version.promoted")):
            leaves(f"POST {name}/promotions", action, lambda n=number: promote(api, "fraud", n))
        leaves(
            f"POST {name}/rollbacks",
            "pointer.rolled_back",
            lambda: call("POST", f"{fraud}/rollbacks", json={"pointer": "production"}),
        )
        gone = f"{fraud}/pointers/production"
        for action in ("pointer.removed", None):
            leaves(f"DELETE {name}/pointers/{{pointer}}", action, lambda: call("DELETE", gone))
        changes: list[tuple[str, str, Any]] = [
            ("PATCH", "facts", {"tags": {"team": "risk"}}),
            ("PUT", "card", {"text": "# Purpose"}),
            ("PUT", "lineage", {"run": "42"}),
        ]
        for method, noun, body in changes:
            for action in ("version.changed", None):
                leaves(
                    f"{method} {path}/{noun}",
                    action,
                    lambda m=method, n=noun, b=body: call(m, f"{one}/{n}", json=b),
                    resource,
                )
        why = {"reason": "case 7"}
        for action in ("version.held", None):
            leaves(f"PUT {path}/hold", action, lambda: call("PUT", f"{one}/hold", json=why))
        for action in ("version.released", None):
            leaves(f"DELETE {path}/hold", action, lambda: call("DELETE", f"{one}/hold"))
        for action in ("version.deleted", None):
            leaves(f"DELETE {path}", action, lambda: call("DELETE", one))
        for action in ("version.restored", None):
            leaves(f"POST {path}/restore", action, lambda: call("POST", f"{one}/restore"))

    def governance(self) -> None:
        api, call, leaves = self._api, self._people.call, self._leaves
        robot = _As(api, self._people.robot("asker", "promoter"))
        rules = {"edges": [{"from": "*", "to": "*", "approvals": 1}]}
        self._trail.news()
        route, fraud = "/api/v1/policies/{pattern}", "/models/fraud"
        for action in ("policy.set", None):
            leaves(f"PUT {route}", action, lambda: call("PUT", "/policies/fraud*", json=rules))
        requests = "/api/v1/models/{model}/requests/{request}"
        steps = (
            ("comments", "request.commented"),
            ("approve", "version.promoted"),
            ("reject", "request.rejected"),
        )
        for at, (verb, action) in enumerate(steps):
            asked = promote(robot, "fraud", 1 + at // 2, "champion").json()["request"]
            opened = [(entry.actor, entry.action) for entry in self._trail.news()]
            # The first one is still open: asking again is not asking anew.
            assert opened == ([] if verb == "approve" else [("asker", "request.opened")])
            path, body = f"{fraud}/requests/{asked}/{verb}", {"text": "why"}
            leaves(f"POST {requests}/{verb}", action, lambda p=path, b=body: call("POST", p, json=b))
        mine = promote(api, "fraud", 1, "staging").json()["request"]
        self._trail.news()
        path = f"{fraud}/requests/{mine}/withdraw"
        leaves(f"POST {requests}/withdraw", "request.withdrawn", lambda: call("POST", path, json={}))
        leaves(f"DELETE {route}", "policy.lifted", lambda: call("DELETE", "/policies/fraud*"))
        why = {"reason": "audit"}
        for action in ("model.frozen", None):
            leaves(
                "PUT /api/v1/models/{model}/freeze",
                action,
                lambda: call("PUT", f"{fraud}/freeze", json=why),
                "models/fraud",
            )
        for action in ("model.thawed", None):
            leaves("DELETE /api/v1/models/{model}/freeze", action, lambda: call("DELETE", f"{fraud}/freeze"))

    def access(self) -> None:
        call, leaves, base = self._people.call, self._leaves, "/api/v1"
        acme = {"name": "acme"}
        leaves(f"POST {base}/workspaces", "workspace.created", lambda: call("POST", "/workspaces", json=acme))
        limits = "/workspaces/acme/limits"
        route = f"PUT {base}/workspaces/{{workspace}}/limits"
        leaves(route, "workspace.limited", lambda: call("PUT", limits, json={"max_bytes": 5}))
        robot = {"name": "robot"}
        leaves(
            f"POST {base}/principals", "principal.created", lambda: call("POST", "/principals", json=robot)
        )
        for disabled, action in ((True, "principal.disabled"), (True, None), (False, "principal.enabled")):
            change = {"disabled": disabled}
            route = f"PATCH {base}/principals/{{principal}}"
            leaves(route, action, lambda c=change: call("PATCH", "/principals/robot", json=c))
        leaves(f"POST {base}/groups", "group.created", lambda: call("POST", "/groups", json={"name": "team"}))
        member, route = "/groups/team/members/robot", f"{base}/groups/{{group}}/members/{{principal}}"
        for action in ("group.joined", None):
            leaves(f"PUT {route}", action, lambda: call("PUT", member))
        for action in ("group.left", None):
            leaves(f"DELETE {route}", action, lambda: call("DELETE", member))
        given: list[int] = []
        for action in ("grant.given", None):
            leaves(
                f"POST {base}/grants",
                action,
                lambda: given.append(self._people.grant("reader", principal="robot")),
            )
        route = f"DELETE {base}/grants/{{grant}}"
        leaves(route, "grant.taken", lambda: call("DELETE", f"/grants/{given[0]}"))
        leaves(f"DELETE {base}/groups/{{group}}", "group.deleted", lambda: call("DELETE", "/groups/team"))
        made: list[dict[str, Any]] = []
        body = {"name": "ci", "principal": "robot"}
        leaves(
            f"POST {base}/tokens",
            "token.created",
            lambda: made.append(call("POST", "/tokens", json=body)),
        )
        route = f"DELETE {base}/tokens/{{token}}"
        for action in ("token.revoked", None):
            leaves(route, action, lambda: call("DELETE", f"/tokens/{made[0]['id']}"))


def test_no_entry_holds_a_secret(api: TestClient, people: People, trail: Trail) -> None:
    secret = people.robot("robot", "reader")["Authorization"].removeprefix("Bearer ").split("_")[2]
    api.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"})
    told = trail.news()
    assert [entry.action for entry in told] == ["principal.created", "grant.given", "token.created"]
    assert secret not in repr(told)


def test_who_is_refused_leaves_an_entry(api: TestClient, people: People, trail: Trail) -> None:
    publish(api, "fraud")
    publish(api, "secret")
    mine = _As(api, people.robot("robot", "reader", "fraud"))
    trail.news()
    assert_problem(promote(mine, "fraud", 1), 403, "forbidden")
    assert_problem(promote(mine, "secret", 1), 404, "model_not_found")
    assert_problem(mine.get("/api/v1/models/secret"), 404, "model_not_found")
    assert_problem(mine.post("/api/v1/tokens", json={"name": "n", "principal": "admin"}), 403, "forbidden")
    told = [(e.actor, e.action, e.outcome, e.resource, e.data["method"]) for e in trail.news()]
    denied = ("robot", "access.denied", "denied")
    assert told == [
        (*denied, "/api/v1/models/fraud/promotions", "POST"),
        (*denied, "/api/v1/models/secret/promotions", "POST"),
        (*denied, "/api/v1/models/secret", "GET"),
        (*denied, "/api/v1/tokens", "POST"),
    ]


def test_who_looks_again_and_again_leaves_one_entry_a_minute(
    api: TestClient, people: People, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = _As(api, people.robot("robot", "reader", "fraud"))
    trail.news()
    for _ in range(3):
        mine.get("/api/v1/grants")
    assert len(trail.news()) == 1
    for _ in range(3):
        mine.post("/api/v1/grants", json={})
    assert len(trail.news()) == 3
    monkeypatch.setattr(denials, "QUIET_S", 0.0)
    mine.get("/api/v1/grants")
    assert len(trail.news()) == 1


def test_a_stranger_leaves_none(api: TestClient, trail: Trail) -> None:
    """Whoever cannot be named could fill the trail: the log has them."""
    api.post("/api/v1/models", json={"name": "x"}, headers={"Authorization": "Bearer nobody"})
    assert trail.news() == []


def test_a_change_that_fails_leaves_none(api: TestClient, people: People, trail: Trail) -> None:
    people.robot("robot")
    trail.news()
    api.post("/api/v1/principals", json={"name": "robot"})
    api.post("/api/v1/grants", json={"principal": "nobody", "role": "reader"})
    promote(api, "absent", 1)
    assert trail.news() == []
