"""CI jobs that exchange their identity for a token: trusted ones, once each, and nobody else; on each database."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import expired
from registry.app import create_app
from registry.database import Database
from registry.exchange import LIFETIME_S
from registry.login_tables import SpentTokenRow
from registry.settings import Issuer as Configured
from registry.settings import Settings
from tests.servers.app import ADMIN, BASE, assert_problem
from tests.servers.issuer import AUDIENCE, Issuer, other_signature, public_jwk
from tests.servers.people import add_person, add_robot, issued, shut_out

ROBOT = "fraud-ci"
CLAIMS = {"repository": "acme/fraud", "ref": "refs/heads/*"}


@pytest.fixture
def other(new_issuer: Callable[..., Issuer]) -> Issuer:
    """Another identity provider that the registry knows."""
    return new_issuer()


@pytest.fixture
def app(settings: Settings, issuer: Issuer, other: Issuer) -> FastAPI:
    both = (Configured(**issuer.settings), Configured(**other.settings | {"name": "other"}))
    return create_app(settings.model_copy(update={"oidc": both}))


@pytest.fixture
def api(app: FastAPI, database: Database) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE) as client:
        for name in (ROBOT, "other-ci"):
            add_robot(database, name)
        yield client


def trust(api: TestClient, issuer: Issuer, principal: str = ROBOT, **claims: str) -> dict[str, Any]:
    body = {"issuer": issuer.url, "claims": claims or CLAIMS, "principal": principal}
    answer = api.post("/api/v1/trusted-publishers", json=body, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def exchange(api: TestClient, token: Any, **more: Any) -> Any:
    return api.post("/api/v1/auth/exchange", json={"token": token, **more})


def test_a_trusted_job_gets_a_token_of_its_principal_for_a_short_time(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    trust(api, issuer)
    answer = exchange(api, issuer.token())
    assert answer.status_code == 200
    body = answer.json()
    assert body == {"token": body["token"], "principal": ROBOT, "expires_in": 15 * 60}
    assert issued(database) == [(ROBOT, "token", LIFETIME_S, 1)]


def test_a_token_is_exchanged_once(api: TestClient, issuer: Issuer, database: Database) -> None:
    trust(api, issuer)
    token = issuer.token()
    assert exchange(api, token).status_code == 200
    body = assert_problem(exchange(api, token), 401, "invalid_token")
    assert "exchanged before" in body["detail"]
    again = issuer.token("ec", jti="the-same")
    assert exchange(api, again).status_code == 200
    assert_problem(exchange(api, issuer.token("ed", jti="the-same")), 401, "invalid_token")
    assert len(issued(database)) == 2


def test_a_token_without_an_id_is_exchanged_once_too(api: TestClient, issuer: Issuer) -> None:
    """Whatever is done to its signature: anybody can make another valid one of the same ECDSA signature."""
    trust(api, issuer)
    token = issuer.token("ec", jti=None)
    twin = other_signature(token)
    assert twin != token
    assert exchange(api, token).status_code == 200
    for each in (token, twin):
        body = assert_problem(exchange(api, each), 401, "invalid_token")
        assert "exchanged before" in body["detail"]


def test_the_twin_is_valid_by_itself(api: TestClient, issuer: Issuer) -> None:
    """Else the refusal above could be for another reason."""
    trust(api, issuer)
    assert exchange(api, other_signature(issuer.token("ec", jti=None))).status_code == 200


def test_of_many_that_bring_the_same_token_one_gets_something(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    trust(api, issuer)
    token, answers = issuer.token(), []
    threads = [
        threading.Thread(target=lambda: answers.append(exchange(api, token).status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [401] * 7
    assert len(issued(database)) == 1


def test_ids_of_two_issuers_do_not_clash(api: TestClient, issuer: Issuer, other: Issuer) -> None:
    for each in (issuer, other):
        trust(api, each)
        assert exchange(api, each.token(jti="1")).status_code == 200


def test_another_issuer_with_the_same_claims_is_nobody(
    api: TestClient, issuer: Issuer, other: Issuer, database: Database
) -> None:
    trust(api, issuer)
    assert_problem(exchange(api, other.token()), 401, "no_trusted_publisher")
    other.keys.append(public_jwk("rsa-other"))
    assert_problem(exchange(api, other.token("rsa-other", iss=issuer.url)), 401, "invalid_token")
    assert issued(database) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "acme/other"},
        {"repository": "acme/fraud-2"},
        {"repository": None},
        {"ref": "refs/pull/7/merge"},
        {"repository": ["acme/fraud"]},
    ],
)
def test_a_job_with_other_claims_is_nobody(
    api: TestClient, issuer: Issuer, database: Database, changes: dict[str, Any]
) -> None:
    trust(api, issuer)
    assert_problem(exchange(api, issuer.token(**changes)), 401, "no_trusted_publisher")
    assert issued(database) == []


def test_a_refused_job_may_come_again(api: TestClient, issuer: Issuer) -> None:
    token = issuer.token()
    assert_problem(exchange(api, token), 401, "no_trusted_publisher")
    trust(api, issuer)
    assert exchange(api, token).status_code == 200


def test_a_job_that_may_be_several_says_which(api: TestClient, issuer: Issuer, database: Database) -> None:
    trust(api, issuer)
    trust(api, issuer, repository="acme/fraud")
    assert exchange(api, issuer.token()).status_code == 200  # two ways to be the same
    trust(api, issuer, "other-ci", repository="acme/fraud")
    body = assert_problem(exchange(api, issuer.token()), 409, "ambiguous_publisher")
    assert body["principals"] == [ROBOT, "other-ci"]
    assert exchange(api, issuer.token(), principal="other-ci").json()["principal"] == "other-ci"
    assert_problem(exchange(api, issuer.token(), principal="nobody"), 401, "no_trusted_publisher")
    assert sorted(row[0] for row in issued(database)) == [ROBOT, "other-ci"]


def test_trust_ends_when_it_is_taken_back(api: TestClient, issuer: Issuer) -> None:
    made = trust(api, issuer)
    assert made["claims"] == CLAIMS
    assert (made["principal"], made["created_by"]) == (ROBOT, "admin")
    assert api.get("/api/v1/trusted-publishers", headers=ADMIN).json() == {"items": [made]}
    assert api.delete(f"/api/v1/trusted-publishers/{made['id']}", headers=ADMIN).status_code == 204
    assert api.get("/api/v1/trusted-publishers", headers=ADMIN).json() == {"items": []}
    answer = api.delete(f"/api/v1/trusted-publishers/{made['id']}", headers=ADMIN)
    assert_problem(answer, 404, "publisher_not_found")
    assert_problem(exchange(api, issuer.token()), 401, "no_trusted_publisher")


def test_a_workspace_trusts_for_itself_only(api: TestClient, issuer: Issuer, database: Database) -> None:
    made = trust(api, issuer)
    created = api.post("/api/v1/workspaces", json={"name": "acme"}, headers=ADMIN)
    assert created.status_code == 201
    for workspace in ("acme", "there-is-none"):
        answer = api.post(f"/w/{workspace}/api/v1/auth/exchange", json={"token": issuer.token()})
        assert_problem(answer, 401, "no_trusted_publisher")
    assert api.get("/w/acme/api/v1/trusted-publishers", headers=ADMIN).json() == {"items": []}
    answer = api.delete(f"/w/acme/api/v1/trusted-publishers/{made['id']}", headers=ADMIN)
    assert_problem(answer, 404, "publisher_not_found")
    add_robot(database, "acme-ci", workspace_id=2)
    body = {"issuer": issuer.url, "claims": CLAIMS, "principal": "acme-ci"}
    answer = api.post("/w/acme/api/v1/trusted-publishers", json=body, headers=ADMIN)
    assert answer.status_code == 201
    answer = api.post("/w/acme/api/v1/auth/exchange", json={"token": issuer.token()})
    assert answer.json()["principal"] == "acme-ci"
    assert issued(database) == [("acme-ci", "token", LIFETIME_S, 2)]


def test_the_token_is_good_for_what_the_robot_may_in_that_workspace(api: TestClient, issuer: Issuer) -> None:
    trust(api, issuer)
    grant = {"principal": ROBOT, "role": "publisher", "pattern": "fraud*"}
    assert api.post("/api/v1/grants", json=grant, headers=ADMIN).status_code == 201
    token = exchange(api, issuer.token()).json()["token"]
    mine = {"Authorization": f"Bearer {token}"}
    assert api.get("/api/v1/me", headers=mine).json()["name"] == ROBOT
    assert api.post("/api/v1/models", json={"name": "fraud"}, headers=mine).status_code == 201
    assert api.post("/api/v1/models", json={"name": "other"}, headers=mine).status_code in (403, 404)


def admin_of(api: TestClient, workspace: str) -> dict[str, str]:
    """The headers of somebody who is an admin of that workspace, and no more."""
    base = f"/w/{workspace}/api/v1"
    for path, body in (
        ("principals", {"name": f"admin-of-{workspace}"}),
        ("grants", {"principal": f"admin-of-{workspace}", "role": "admin"}),
    ):
        assert api.post(f"{base}/{path}", json=body, headers=ADMIN).status_code == 201
    body = {"name": "test", "principal": f"admin-of-{workspace}"}
    made = api.post(f"{base}/tokens", json=body, headers=ADMIN).json()
    return {"Authorization": f"Bearer {made['token']}"}


def test_an_admin_trusts_nobody_to_be_somebody_out_of_reach(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    """Else an admin of one workspace could become an administrator of the registry, or a robot of another workspace."""
    assert api.post("/api/v1/workspaces", json={"name": "acme"}, headers=ADMIN).status_code == 201
    add_robot(database, "root", administrator=True)
    add_robot(database, "acme-ci", workspace_id=2)
    add_person(database, "alice")
    mine = admin_of(api, "default")
    body = {"issuer": issuer.url, "claims": CLAIMS}
    for name in ("root", "acme-ci", "alice", "there-is-none"):
        answer = api.post("/api/v1/trusted-publishers", json={**body, "principal": name}, headers=mine)
        assert_problem(answer, 404, "principal_not_found")
    answer = api.post("/api/v1/trusted-publishers", json={**body, "principal": ROBOT}, headers=mine)
    assert answer.status_code == 201
    answer = api.post("/api/v1/trusted-publishers", json={**body, "principal": "alice"}, headers=ADMIN)
    assert_problem(answer, 400, "invalid_publisher")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"claims": {"ref": "refs/heads/main"}}, 400, "invalid_publisher"),
        ({"claims": {"repository": "*"}}, 400, "invalid_publisher"),
        ({"claims": {"repository": "acme\0"}}, 400, "invalid_publisher"),
        ({"claims": {}}, 400, "invalid_publisher"),
        ({"claims": {"repository": 5}}, 422, "invalid_request"),
        ({"claims": {"repository": ["acme/fraud"]}}, 422, "invalid_request"),
        ({"claims": {f"c{n}": "x" for n in range(17)}}, 422, "invalid_request"),
        ({"claims": None}, 422, "invalid_request"),
        ({"issuer": ""}, 422, "invalid_request"),
        ({"issuer": "https://unknown.example"}, 400, "invalid_publisher"),
        ({"issuer": "\0"}, 400, "invalid_publisher"),
        ({"workspace": 2}, 422, "invalid_request"),
        ({"principal": "\0"}, 422, "invalid_request"),
    ],
)
def test_publishers_that_cannot_be_trusted(
    api: TestClient, issuer: Issuer, changes: dict[str, Any], status: int, code: str
) -> None:
    body = {"issuer": issuer.url, "claims": CLAIMS, "principal": ROBOT, **changes}
    assert_problem(api.post("/api/v1/trusted-publishers", json=body, headers=ADMIN), status, code)


@pytest.mark.parametrize("publisher", ["0", "-1", "x", str(2**63), "1%00"])
def test_publishers_that_cannot_be(api: TestClient, publisher: str) -> None:
    answer = api.delete(f"/api/v1/trusted-publishers/{publisher}", headers=ADMIN)
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "token",
    ["", " ", "x", "a.b.c", "\0", "é", "x" * 900_000, "myd_aaaaaaaaaaaaaaaa_bbbb", "a.b." + "c" * 20_000],
)
def test_what_is_no_identity_token(api: TestClient, token: str) -> None:
    body = assert_problem(exchange(api, token), 401, "invalid_token")
    assert len(token) < 3 or token not in body["detail"]


@pytest.mark.parametrize("token", [None, 5, ["x"], {}])
def test_what_is_no_text(api: TestClient, token: Any) -> None:
    assert_problem(exchange(api, token), 422, "invalid_request")


def test_an_issuer_that_is_down_is_no_reason_to_believe(api: TestClient, issuer: Issuer) -> None:
    trust(api, issuer)
    issuer.says("/keys", {}, 500)
    answer = exchange(api, issuer.token())
    assert_problem(answer, 503, "issuer_unavailable")
    assert answer.headers["retry-after"]


def test_a_disabled_principal_gets_nothing_and_the_token_stays_good(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    trust(api, issuer)
    token = issuer.token()
    shut_out(database)
    assert_problem(exchange(api, token), 401, "unauthorized")
    shut_out(database, disabled=False)
    assert exchange(api, token).status_code == 200


def test_what_was_exchanged_is_remembered_for_as_long_as_it_is_valid(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    trust(api, issuer)
    assert exchange(api, issuer.token(exp=int(time.time()) + 60)).status_code == 200
    assert expired.remove_expired(database) == 0
    with database.write() as session:
        [row] = session.scalars(sa.select(SpentTokenRow))
        assert row.expires_at.timestamp() > time.time() + 90
        row.expires_at = row.expires_at.replace(year=2020)
    assert expired.remove_expired(database) == 1


def test_how_one_can_log_in_is_told_to_strangers(api: TestClient, issuer: Issuer, other: Issuer) -> None:
    offers = [
        {
            "name": name,
            "issuer": each.url,
            "start": f"http://127.0.0.1:7070/api/v1/auth/oidc/{name}/start",
            "audience": AUDIENCE,
        }
        for name, each in (("ours", issuer), ("other", other))
    ]
    for path in ("/api/v1/auth/methods", "/w/there-is-none/api/v1/auth/methods"):
        assert api.get(path).json() == {"password": True, "issuers": offers}
    assert_problem(api.get("/api/v1/trusted-publishers"), 401, "unauthorized")


def test_the_database_refuses_a_publisher_without_claims(
    api: TestClient, issuer: Issuer, database: Database
) -> None:
    trust(api, issuer)
    with pytest.raises(sa.exc.IntegrityError), database.write() as session:
        session.execute(sa.text("UPDATE trusted_publishers SET claims = '{}'"))
