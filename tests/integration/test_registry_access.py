"""Who may do what: every route, method and identity; what one may not read; tokens, grants, groups, workspaces, limits."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.testclient import TestClient

from registry import identify, tokens
from registry.access import Permission, matches, name_matches
from registry.database import Database
from registry.http import models
from registry.http.strict import guard_of
from registry.settings import Settings
from tests.servers.app import ADMIN, assert_problem, begin, create, digest_of, promote, publish, send

OPEN_TO_ALL = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
BEYOND_READING = {Permission.PUBLISH, Permission.PROMOTE, Permission.OWN}
V = "/api/v1/models/{model}/versions/{number}"
W = "/api/v1/webhooks/{webhook}"
R = "/api/v1/models/{model}/requests"
NEEDED = {
    "none": {
        "GET /api/v1/auth/methods",
        "POST /api/v1/auth/password",
        "PUT /api/v1/auth/password",
        "POST /api/v1/auth/exchange",
        "GET /api/v1/auth/oidc/{name}/start",
        "GET /api/v1/auth/oidc/callback",
        "POST /api/v1/auth/oidc/token",
    },
    "identified": {"GET /api/v1", "GET /api/v1/me", "POST /api/v1/tokens", "GET /api/v1/tokens"}
    | {"DELETE /api/v1/tokens/{token}"},
    "read": {
        "GET /api/v1/models",
        "GET /api/v1/models/{model}",
        "GET /api/v1/events",
        "GET /api/v1/events/stream",
        "GET /api/v1/search",
        "GET /api/v1/workspace",
    }
    | {"GET /api/v1/models/{model}/versions", f"GET {V}", f"GET {V}/downloads", f"GET {V}/blobs/{{digest}}"}
    | {f"GET {V}/files/{{path:path}}", "GET /api/v1/models/{model}/pointers"}
    | {"GET /api/v1/models/{model}/pointers/{pointer}", "GET /api/v1/models/{model}/history"}
    | {f"GET {V}/facts", f"GET {V}/card", f"GET {V}/lineage", "GET /api/v1/compare"}
    | {"GET /api/v1/models/{model}/deployments"}
    | {"GET /api/v1/policies", "GET /api/v1/policies/{pattern}", "GET /api/v1/models/{model}/policies"}
    | {"GET /api/v1/models/{model}/promotions", "GET /api/v1/models/{model}/decisions", f"GET {R}"}
    | {f"GET {R}/{{request}}"},
    "report": {"PUT /api/v1/adapters/{adapter}/deployments"},
    "publish": {"POST /api/v1/models", "POST /api/v1/models/{model}/uploads"}
    | {"POST /api/v1/models/{model}/versions", "POST /api/v1/uploads/{upload}/files"}
    | {f"PATCH {V}/facts", f"PUT {V}/card", f"PUT {V}/lineage"}
    | {"POST /api/v1/uploads/{upload}/blobs", "PUT /api/v1/uploads/{upload}/blobs/{digest}"},
    "promote": {"POST /api/v1/models/{model}/promotions", "POST /api/v1/models/{model}/rollbacks"}
    | {"DELETE /api/v1/models/{model}/pointers/{pointer}"}
    | {f"POST {R}/{{request}}/{verb}" for verb in ("comments", "approve", "reject", "withdraw")},
    "own": {f"DELETE {V}", f"POST {V}/restore", f"PUT {V}/hold", f"DELETE {V}/hold"}
    | {"PUT /api/v1/policies/{pattern}", "DELETE /api/v1/policies/{pattern}"}
    | {"PUT /api/v1/models/{model}/freeze", "DELETE /api/v1/models/{model}/freeze"},
    "admin": {
        f"{method} /api/v1/{noun}"
        for method in ("GET", "POST")
        for noun in ("principals", "groups", "grants")
    }
    | {
        "PATCH /api/v1/principals/{principal}",
        "DELETE /api/v1/groups/{group}",
        "DELETE /api/v1/grants/{grant}",
    }
    | {f"{method} /api/v1/groups/{{group}}/members/{{principal}}" for method in ("PUT", "DELETE")}
    | {f"{method} /api/v1/webhooks" for method in ("GET", "POST")}
    | {f"{method} {W}" for method in ("GET", "PATCH", "DELETE")}
    | {f"POST {W}/rotate", f"POST {W}/test", f"GET {W}/deliveries", f"GET {W}/deliveries/{{delivery}}"}
    | {f"POST {W}/deliveries/{{delivery}}/redeliver"}
    | {"GET /api/v1/trusted-publishers", "POST /api/v1/trusted-publishers"}
    | {"DELETE /api/v1/trusted-publishers/{publisher}"},
    "administer": {"GET /api/v1/workspaces", "POST /api/v1/workspaces"}
    | {"PUT /api/v1/workspaces/{workspace}/limits"},
}
"""What each route needs, written down a second time: a route that is new or asks for less has to be entered here."""

MAY = {
    "reader": {"identified", "read", "report"},
    "publisher": {"identified", "read", "report", "publish"},
    "promoter": {"identified", "read", "report", "promote"},
    "owner": {"identified", "read", "report", "publish", "promote", "own"},
    "admin": {"identified", "read", "report", "publish", "promote", "own", "admin"},
    "administrator": {"identified", "read", "report", "publish", "promote", "own", "admin", "administer"},
    "without rights": {"identified"},
    "of another workspace": {"identified"},
}
NOBODY = ["no token", "not a token", "expired", "revoked", "disabled"]


@dataclass
class People:
    """Makes principals with tokens, by the API; the headers of each."""

    api: TestClient
    workspace: str = "default"

    def headers(self, name: str, **wanted: Any) -> dict[str, str]:
        body = {"name": "test", "principal": name, **wanted}
        made = self.call("POST", "/tokens", json=body)
        return {"Authorization": f"Bearer {made['token']}"}

    def robot(self, name: str, role: str | None = None, pattern: str = "*") -> dict[str, str]:
        self.call("POST", "/principals", json={"name": name})
        if role is not None:
            self.grant(role, pattern, principal=name)
        return self.headers(name)

    def grant(self, role: str, pattern: str = "*", **whom: str) -> int:
        return int(self.call("POST", "/grants", json={"role": role, "pattern": pattern, **whom})["id"])

    def call(self, method: str, path: str, **request: Any) -> Any:
        answer = self.api.request(method, f"/w/{self.workspace}/api/v1{path}", headers=ADMIN, **request)
        assert answer.status_code in (200, 201, 204), answer.text
        return answer.json() if answer.content else None


@pytest.fixture
def people(api: TestClient) -> People:
    return People(api)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are looked up each time."""
    monkeypatch.setattr(identify, "REMEMBERED_S", 0.0)


def routes(app: FastAPI) -> Iterator[tuple[str, APIRoute]]:
    for route in _flat(app.routes):
        if isinstance(route, APIRoute) and route.path not in OPEN_TO_ALL:
            for method in sorted(route.methods):
                yield f"{method} {route.path}", route


def _flat(found: Any) -> Iterator[Any]:
    for route in found:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if isinstance(route, APIRoute) or not hasattr(inner, "routes"):
            yield route
        else:
            yield from _flat(inner.routes)


def test_every_route_declares_what_it_needs(app: FastAPI) -> None:
    declared = {name: guard_of(route).permission.value for name, route in routes(app)}
    assert declared == {name: permission for permission, names in NEEDED.items() for name in names}
    others = {getattr(route, "path", route) for route in _flat(app.routes) if not isinstance(route, APIRoute)}
    assert others <= OPEN_TO_ALL, "mounted applications and websockets need guards of their own"
    assert all(isinstance(r, Route) for r in _flat(app.routes))


def test_a_route_that_declares_nothing_cannot_be_made() -> None:
    with pytest.raises(RuntimeError, match="must name the one permission"):
        models.router.get("/nobody-asked")(lambda: None)


def test_every_route_for_every_identity(
    app: FastAPI, api: TestClient, people: People, database: Database
) -> None:
    """Permission is decided before the body is read, so that each may be asked without a valid one."""
    publish(api, "fraud")
    promote(api, "fraud", 1)
    identities = {role: people.robot(f"the-{role}", role) for role in list(MAY)[:5]}
    identities |= {"administrator": ADMIN, "without rights": people.robot("nobody")}
    people.call("POST", "/workspaces", json={"name": "other"})
    identities["of another workspace"] = People(api, "other").robot("stranger", "admin")
    identities |= _nobodies(people, database)
    upload = begin(_As(api, identities["publisher"]), "fraud", {"m": b"x"})["id"]
    values = {
        "model": "fraud",
        "number": 1,
        "upload": upload,
        "pointer": "champion",
        "path:path": "model.bin",
    }
    values |= {
        "digest": digest_of(b"fraud"),
        "grant": 999,
        "publisher": 999,
        "name": "none",
        "token": "none",
        "group": "none",
        "principal": "none",
        "webhook": "none",
        "delivery": "none",
        "adapter": "none",
        "request": 999,
        "pattern": "none",
    }
    asked = 0
    for (name, route), (who, headers) in itertools.product(routes(app), identities.items()):
        method, path = name.split(" ")
        for parameter, value in {**values, "workspace": "none"}.items():
            path = path.replace(f"{{{parameter}}}", str(value))
        query = "?since=0" if path.endswith("/events") else ""
        answer = api.request(method, path + query, headers=headers)
        permission = guard_of(route).permission.value
        asked += 1
        if permission == "none":
            assert answer.status_code < 500
            assert answer.json().get("code") != "unauthorized", (name, who)
        elif who in NOBODY:
            assert_problem(answer, 401, "unauthorized")
        elif "{upload}" in name and who != "publisher":
            assert_problem(answer, 404, "upload_not_found")
        elif permission in MAY[who]:
            code = answer.json().get("code") if answer.status_code >= 400 else None
            assert code not in ("unauthorized", "forbidden", "workspace_not_found", "model_not_found"), (
                name,
                who,
            )
            assert answer.status_code < 500
        elif "read" not in MAY[who]:
            assert_problem(answer, 404, "workspace_not_found")
        else:
            assert_problem(answer, 403, "forbidden")
    assert asked == len(identities) * sum(map(len, NEEDED.values()))


def test_a_right_for_some_models_is_none_for_others(app: FastAPI, api: TestClient, people: People) -> None:
    publish(api, "other")
    mine = _As(api, people.robot("robot", "owner", "mine-*"))
    people.grant("reader", principal="robot")
    asked = [name.split(" ") for name, route in routes(app) if guard_of(route).permission in BEYOND_READING]
    for method, path in asked:
        if "{model}" in path:
            url = re.sub(r"{\w+}", "1", path.replace("{model}", "other"))
            assert_problem(mine.request(method, url), 403, "forbidden")
    assert len(asked) > 10
    publish(mine, "mine-1")
    assert promote(mine, "mine-1", 1).status_code == 200


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", {"fraud", "Fraud", "a_b", "axb", "a-b.c"}),
        ("fraud", {"fraud"}),
        ("fraud*", {"fraud"}),
        ("a*b", {"a_b", "axb"}),
        ("a_b", {"a_b"}),
        ("*.c", {"a-b.c"}),
        ("*b*", {"a_b", "axb", "a-b.c"}),
        ("F*", {"Fraud"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pattern_means_the_same_in_memory_and_in_the_database(
    database: Database, pattern: str, names: set[str]
) -> None:
    all_names = ("fraud", "Fraud", "a_b", "axb", "a-b.c")
    assert {name for name in all_names if matches(name, pattern)} == names
    with database.read() as session:
        found = {name for name in all_names if session.scalar(sa.select(name_matches(name, pattern)))}
    assert found == names


def _nobodies(people: People, database: Database) -> dict[str, dict[str, str]]:
    found = {"no token": {"Authorization": ""}, "not a token": {"Authorization": "Bearer myd_x"}}
    for state in ("expired", "revoked", "disabled"):
        found[state] = people.robot(state, "admin")
    people.call("PATCH", "/principals/disabled", json={"disabled": True})
    token_id = found["revoked"]["Authorization"].split("_")[1]
    people.call("DELETE", f"/tokens/{token_id}")
    token_id = found["expired"]["Authorization"].split("_")[1]
    with database.write() as session:
        session.execute(
            sa.text("UPDATE tokens SET expires_at = created_at WHERE id = :id").bindparams(id=token_id)
        )
    return found


class _As:
    """An API as one caller sees it."""

    def __init__(self, api: TestClient, headers: dict[str, str], prefix: str = "") -> None:
        self._api = api
        self._headers = headers
        self._prefix = prefix

    def get(self, path: str, **more: Any) -> Any:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self.request("POST", path, **more)

    def put(self, path: str, **more: Any) -> Any:
        return self.request("PUT", path, **more)

    def delete(self, path: str, **more: Any) -> Any:
        return self.request("DELETE", path, **more)

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        return self._api.request(
            method, self._prefix + path, headers={**(headers or {}), **self._headers}, **more
        )


def test_what_one_may_not_read_is_like_what_is_not_there(api: TestClient, people: People) -> None:
    publish(api, "secret", {"m": b"bytes of a secret"})
    mine = _As(api, people.robot("robot", "owner", "fraud*"))
    publish(mine, "fraud")
    for path in ("", "/versions", "/versions/1", "/versions/1/downloads", "/pointers", "/history"):
        answers = []
        for name in ("secret", "absent"):
            body = mine.get(f"/api/v1/models/{name}{path}").json()
            answers.append({**body, "request_id": "", "detail": body["detail"].replace(name, "")})
        assert answers[0] == answers[1]
        assert answers[0]["status"] == 404
    digest = digest_of(b"bytes of a secret")
    assert mine.get(f"/api/v1/models/fraud/versions/1/blobs/{digest}").status_code == 404


def test_lists_and_events_show_nothing_foreign(api: TestClient, people: People) -> None:
    for name in ("a-1", "axb", "a_b", "b-1", "fraud"):
        publish(api, name)
    mine = _As(api, people.robot("robot", "reader", "a_*"))
    assert [each["name"] for each in mine.get("/api/v1/models").json()["items"]] == ["a_b"]
    assert mine.get("/api/v1/models?search=fraud").json() == {"items": [], "next": None}
    assert {event["model"] for event in mine.get("/api/v1/events?since=0").json()["events"]} == {"a_b"}
    people.grant("publisher", "b-*", principal="robot")
    page = _As(api, people.headers("robot")).get("/api/v1/models?limit=1").json()
    assert [each["name"] for each in page["items"]] == ["a_b"]
    rest = _As(api, people.headers("robot")).get("/api/v1/models", params={"after": page["next"]}).json()
    assert [each["name"] for each in rest["items"]] == ["b-1"]


def test_bytes_of_somebody_else_are_sent_again(api: TestClient, people: People) -> None:
    """To know their digest is not to have them, and the answer does not tell that they are there."""
    files = {"m": b"bytes of a secret"}
    publish(api, "secret", files)
    mine = _As(api, people.robot("robot", "publisher", "fraud*"))
    upload = begin(mine, "fraud", files)
    assert upload["have"] == []
    assert [need["digest"] for need in upload["needs"]] == [digest_of(files["m"])]
    assert_problem(create(mine, "fraud", upload, files), 409, "upload_incomplete")
    send(mine, upload, files)
    assert create(mine, "fraud", upload, files).status_code == 201
    assert begin(mine, "fraud", files)["needs"] == []


def test_a_name_is_granted_whether_or_not_it_is_there_yet(api: TestClient, people: People) -> None:
    mine = _As(api, people.robot("robot", "publisher", "fraud-*"))
    publish(mine, "fraud-new")
    assert_problem(mine.post("/api/v1/models", json={"name": "other"}), 404, "model_not_found")
    assert mine.post("/api/v1/models", json={"name": "fraud-other"}).status_code == 201
    assert_problem(promote(mine, "fraud-new", 1), 403, "forbidden")
    assert_problem(promote(mine, "fraud-new", 1, to="champion"), 403, "forbidden")


def test_a_token_may_at_most_what_it_is_limited_to(api: TestClient, people: People) -> None:
    people.robot("robot", "owner")
    publish(api, "fraud")
    publish(api, "other")
    reading = _As(api, people.headers("robot", role="reader", pattern="fraud"))
    assert [each["name"] for each in reading.get("/api/v1/models").json()["items"]] == ["fraud"]
    assert_problem(reading.get("/api/v1/models/other"), 404, "model_not_found")
    assert_problem(promote(reading, "fraud", 1), 403, "forbidden")
    assert_problem(reading.post("/api/v1/tokens", json={"name": "more"}), 403, "forbidden")
    me = reading.get("/api/v1/me").json()
    assert (me["scope"], me["rights"]) == (
        {"role": "reader", "pattern": "fraud"},
        [{"role": "owner", "pattern": "*"}],
    )


def test_an_administrators_limited_token_is_limited(api: TestClient, people: People) -> None:
    people.call("POST", "/principals", json={"name": "root2", "kind": "person", "administrator": True})
    limited = _As(api, people.headers("root2", role="reader"))
    assert_problem(limited.get("/api/v1/workspaces"), 403, "forbidden")
    assert_problem(limited.post("/api/v1/grants", json={}), 403, "forbidden")
    assert limited.get("/api/v1/models").status_code == 200


def test_an_admin_for_some_models_is_not_the_workspaces(api: TestClient, people: People) -> None:
    people.robot("whole", "admin")
    for headers in (people.robot("some", "admin", "fraud-*"), people.headers("whole", pattern="fraud-*")):
        admin = _As(api, headers)
        assert_problem(admin.get("/api/v1/grants"), 403, "forbidden")
        assert_problem(admin.post("/api/v1/principals", json={"name": "more"}), 403, "forbidden")
        assert_problem(admin.get("/api/v1/models/other"), 404, "model_not_found")
        publish(admin, "fraud-new")


@pytest.mark.usefixtures("forgetful")
def test_groups_give_and_take(api: TestClient, people: People) -> None:
    publish(api, "fraud")
    mine = _As(api, people.robot("robot"))
    people.call("POST", "/groups", json={"name": "team"})
    people.grant("promoter", group="team")
    assert_problem(promote(mine, "fraud", 1), 404, "workspace_not_found")
    assert people.call("PUT", "/groups/team/members/robot")["members"] == ["robot"]
    assert promote(mine, "fraud", 1).status_code == 200
    people.call("DELETE", "/groups/team/members/robot")
    assert_problem(promote(mine, "fraud", 1), 404, "workspace_not_found")
    people.call("PUT", "/groups/team/members/robot")
    people.call("DELETE", "/groups/team")
    assert_problem(promote(mine, "fraud", 1), 404, "workspace_not_found")
    assert people.call("GET", "/grants")["items"] == []


@pytest.mark.usefixtures("forgetful")
def test_a_right_that_is_taken_ends_an_upload_half_way(api: TestClient, people: People) -> None:
    files = {"m": b"x", "n": b"y"}
    headers = people.robot("robot", "reader")
    grant = people.grant("publisher", principal="robot")
    mine = _As(api, headers)
    upload = begin(mine, "fraud", files)
    people.call("DELETE", f"/grants/{grant}")
    assert mine.put(upload["needs"][0]["url"], content=b"x").status_code == 403
    assert create(mine, "fraud", upload, files).status_code == 403
    grant = people.grant("publisher", principal="robot")
    send(mine, upload, files)
    people.call("PATCH", "/principals/robot", json={"disabled": True})
    assert_problem(create(mine, "fraud", upload, files), 401, "unauthorized")
    people.call("PATCH", "/principals/robot", json={"disabled": False})
    assert create(mine, "fraud", upload, files).status_code == 201


def test_every_process_has_heard_of_a_revocation_within_seconds(
    app: FastAPI, api: TestClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each remembers callers for itself, and for no longer than this."""
    assert 0 < identify.REMEMBERED_S <= 5
    now = [1000.0]
    monkeypatch.setattr(app.state.identities, "_clock", lambda: now[0])
    headers = people.robot("robot", "reader")
    looked_up = []
    look_up = app.state.identities._look_up
    monkeypatch.setattr(app.state.identities, "_look_up", lambda *key: looked_up.append(key) or look_up(*key))
    for _ in range(3):
        assert api.get("/api/v1/models", headers=headers).status_code == 200
    assert len(looked_up) == 1
    people.call("PATCH", "/principals/robot", json={"disabled": True})
    now[0] += identify.REMEMBERED_S
    assert_problem(api.get("/api/v1/models", headers=headers), 401, "unauthorized")


def test_an_upload_is_its_creators(api: TestClient, people: People) -> None:
    upload = begin(_As(api, people.robot("one", "publisher")), "fraud", {"m": b"x"})
    other = _As(api, people.robot("two", "owner"))
    assert_problem(other.put(upload["needs"][0]["url"], content=b"x"), 404, "upload_not_found")
    assert_problem(create(other, "fraud", upload, {"m": b"x"}), 404, "upload_not_found")


def test_an_idempotency_key_is_its_callers(api: TestClient, people: People) -> None:
    ids = set()
    for name in ("one", "two"):
        mine = _As(api, people.robot(name, "publisher"))
        body = {"files": [{"path": name, "size": 1, "digest": digest_of(b"x")}]}
        answer = mine.post("/api/v1/models/fraud/uploads", json=body, headers={"Idempotency-Key": "k"})
        ids.add(answer.json()["id"])
    assert len(ids) == 2


# tokens


def test_a_mistyped_token_is_refused_without_asking_the_database(
    app: FastAPI, api: TestClient, people: People
) -> None:
    token = people.robot("robot", "reader")["Authorization"].removeprefix("Bearer ")
    identities = app.state.identities
    identities._look_up = None  # whoever asks fails
    for at in range(len(token)):
        wrong = token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :]
        answer = api.get("/api/v1/me", headers={"Authorization": f"Bearer {wrong}"})
        assert_problem(answer, 401, "unauthorized")


def test_a_token_with_another_secret_is_refused(api: TestClient, people: People) -> None:
    token = people.robot("robot", "reader")["Authorization"].removeprefix("Bearer ")
    body = token[:-47] + "a" * 40
    forged = body + tokens._checksum(body)
    assert tokens.parse(forged)
    assert_problem(api.get("/api/v1/me", headers={"Authorization": f"Bearer {forged}"}), 401, "unauthorized")


def test_the_database_holds_nothing_that_opens(api: TestClient, people: People, database: Database) -> None:
    token = people.robot("robot", "reader")["Authorization"].removeprefix("Bearer ")
    _, secret = tokens.parse(token) or ("", "")
    assert len(secret) * 5 >= 190
    with database.engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f"SELECT * FROM {table}")).all()
            assert secret not in repr(rows)
            assert secret[:20] not in repr(rows)
    listed = api.get("/api/v1/tokens?everybody=true").json()["items"]
    assert [(each["principal"], each["last4"]) for each in listed] == [("robot", secret[-4:])]
    assert "digest" not in listed[0]


def test_tokens_expire_unless_told_otherwise(api: TestClient, people: People) -> None:
    people.robot("robot")
    made = people.call("POST", "/tokens", json={"name": "n", "principal": "robot"})
    assert made["expires_at"] is not None
    made = people.call("POST", "/tokens", json={"name": "n", "principal": "robot", "lifetime_s": None})
    assert made["expires_at"] is None
    answer = api.post("/api/v1/tokens", json={"name": "n", "principal": "robot", "lifetime_s": 1})
    assert_problem(answer, 422, "invalid_request")


def test_one_lists_and_revokes_ones_own_tokens_only(api: TestClient, people: People) -> None:
    one, two = (_As(api, people.robot(name, "owner")) for name in ("one", "two"))
    [of_one] = one.get("/api/v1/tokens").json()["items"]
    assert_problem(two.delete(f"/api/v1/tokens/{of_one['id']}"), 404, "token_not_found")
    assert_problem(two.get("/api/v1/tokens?everybody=true"), 403, "forbidden")
    assert_problem(two.post("/api/v1/tokens", json={"name": "n", "principal": "one"}), 403, "forbidden")
    assert one.delete(f"/api/v1/tokens/{of_one['id']}").json()["revoked_at"] is not None


def test_an_admin_of_a_workspace_gets_no_further(api: TestClient, people: People) -> None:
    """Neither to other workspaces, nor to people, nor to administrators."""
    people.call("POST", "/workspaces", json={"name": "acme"})
    people.call("POST", "/principals", json={"name": "ann", "kind": "person"})
    people.robot("elsewhere")
    acme = People(api, "acme")
    admin = _As(api, acme.robot("chief", "admin"), "/w/acme")
    assert admin.post("/api/v1/principals", json={"name": "worker"}).json()["workspace"] == "acme"
    for body in ({"name": "p", "kind": "person"}, {"name": "p", "administrator": True}):
        assert_problem(admin.post("/api/v1/principals", json=body), 403, "forbidden")
    for name in ("ann", "elsewhere", "nobody"):
        body = {"name": "n", "principal": name}
        assert_problem(admin.post("/api/v1/tokens", json=body), 404, "principal_not_found")
        answer = admin.request("PATCH", f"/api/v1/principals/{name}", json={"disabled": True})
        assert_problem(answer, 404, "principal_not_found")
    assert_problem(
        admin.post("/api/v1/grants", json={"role": "admin", "principal": "elsewhere"}),
        404,
        "principal_not_found",
    )
    assert admin.post("/api/v1/grants", json={"role": "reader", "principal": "ann"}).status_code == 201
    for answer in (admin.get("/api/v1/workspaces"), admin.post("/api/v1/workspaces", json={"name": "x"})):
        assert_problem(answer, 403, "forbidden")
    default = _As(api, admin._headers)
    assert_problem(default.get("/api/v1/grants"), 404, "workspace_not_found")


# workspaces


def test_a_name_is_another_model_in_another_workspace(api: TestClient, people: People) -> None:
    people.call("POST", "/workspaces", json={"name": "acme"})
    acme = _As(api, ADMIN, "/w/acme")
    publish(api, "fraud", {"m": b"here"})
    assert acme.get("/api/v1/models").json()["items"] == []
    version = publish(acme, "fraud", {"m": b"there"})
    assert version["number"] == 1
    assert promote(acme, "fraud", 1).status_code == 200
    assert api.get("/api/v1/models/fraud").json()["pointers"] == []
    assert api.get("/api/v1/models/fraud/versions/1/files/m").content == b"here"
    assert acme.get("/api/v1/models/fraud/versions/1/files/m").content == b"there"
    kinds = [event["kind"] for event in api.get("/api/v1/events?since=0").json()["events"]]
    assert kinds == ["version.created"]


@pytest.mark.parametrize("name", ["nothing", "Default", "a.b", "%2e%2e", "default%2f", "x" * 65])
def test_a_workspace_that_is_not_there_is_not_found(api: TestClient, name: str) -> None:
    assert api.get(f"/w/{name}/api/v1/models").status_code == 404


def test_a_token_of_one_workspace_opens_no_other(api: TestClient, people: People) -> None:
    people.call("POST", "/workspaces", json={"name": "acme"})
    people.call("POST", "/principals", json={"name": "ann", "kind": "person"})
    for workspace in ("default", "acme"):
        People(api, workspace).grant("reader", principal="ann")
    here, everywhere = people.headers("ann"), people.headers("ann", everywhere=True)
    there = "/w/acme/api/v1/models"
    assert_problem(api.get(there, headers=here), 404, "workspace_not_found")
    assert api.get(there, headers=everywhere).status_code == 200
    assert api.get("/api/v1/models", headers=here).status_code == 200


def test_a_workspace_that_is_full_takes_no_more(api: TestClient, people: People) -> None:
    publish(api, "fraud", {"m": b"12345"})
    limits = people.call("PUT", "/workspaces/default/limits", json={"max_versions": 2, "max_bytes": 10})
    assert (limits["versions"], limits["bytes"]) == (1, 5)
    files = {"m": b"123456"}
    upload = begin(api, "fraud", files)
    send(api, upload, files)
    assert_problem(create(api, "fraud", upload, files), 409, "quota_exceeded")
    publish(api, "fraud", {"m": b"1234"})
    upload = begin(api, "fraud", {"n": b""})
    send(api, upload, {"n": b""})
    assert_problem(create(api, "fraud", upload, {"n": b""}), 409, "quota_exceeded")
    people.call("PUT", "/workspaces/default/limits", json={})
    assert create(api, "fraud", upload, {"n": b""}).json()["number"] == 3
    have = people.call("GET", "/workspace")
    assert (have["versions"], have["bytes"]) == (3, 9)


def test_who_asks_too_much_waits_and_others_do_not(
    app: FastAPI, api: TestClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(app.state.identities, "_clock", lambda: now[0])
    people.call("PUT", "/workspaces/default/limits", json={"max_requests_per_minute": 3})
    one, two = (_As(api, people.robot(name, "reader")) for name in ("one", "two"))
    now[0] += 10
    for _ in range(3):
        assert one.get("/api/v1/models").status_code == 200
    answer = one.get("/api/v1/models")
    assert_problem(answer, 429, "too_many_requests")
    assert answer.headers["retry-after"] == "61"
    assert two.get("/api/v1/models").status_code == 200
    now[0] += 60
    assert one.get("/api/v1/models").status_code == 200


def test_names_of_people_and_patterns_have_rules(api: TestClient, people: People) -> None:
    for name in ("", "a b", "-x", "a/b", "a\x00", "x" * 129, "ä"):
        assert api.post("/api/v1/principals", json={"name": name}).status_code in (400, 422)
    for name in ("admin", "Modelyard"):
        assert_problem(api.post("/api/v1/principals", json={"name": name}), 409, "name_taken")
    people.robot("robot")
    assert_problem(api.post("/api/v1/principals", json={"name": "robot"}), 409, "name_taken")
    for pattern in ("[a]", "a?", "%", "a b", "\\*"):
        body = {"principal": "robot", "role": "reader", "pattern": pattern}
        assert_problem(api.post("/api/v1/grants", json=body), 400, "invalid_name")
    both = {"principal": "robot", "group": "team", "role": "reader"}
    assert_problem(api.post("/api/v1/grants", json=both), 400, "invalid_name")


def test_the_same_grant_is_given_once(people: People) -> None:
    people.robot("robot")
    assert people.grant("reader", principal="robot") == people.grant("reader", principal="robot")
    people.call("DELETE", f"/grants/{people.grant('reader', principal='robot')}")
    assert people.call("GET", "/grants")["items"] == []


def test_permissions_are_all_used() -> None:
    assert {permission.value for permission in Permission} == NEEDED.keys()


def test_settings_never_show_the_key(settings: Settings) -> None:
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() not in repr(settings)
