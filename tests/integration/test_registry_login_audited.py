"""What logging in leaves in the audit trail: whoever came in, one entry; whoever did not, none; and no secret ever."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import passwords
from registry.app import create_app
from registry.audit import Entry
from registry.database import Database
from registry.settings import Issuer as Configured
from registry.settings import Settings
from tests.integration.test_registry_audited import LOGIN, Trail
from tests.integration.test_registry_browser_login import Person
from tests.servers.app import ADMIN, BASE
from tests.servers.issuer import Issuer
from tests.servers.people import add_groups, add_person, add_robot

PASSWORD, NEW = "a horse of another colour", "yet another colour"


@pytest.fixture
def app(settings: Settings, issuer: Issuer) -> FastAPI:
    known = (Configured(**issuer.settings, groups_claim="groups"),)
    return create_app(settings.model_copy(update={"oidc": known}))


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture
def trail(database: Database, api: TestClient) -> Trail:  # noqa: ARG001 - the application has made what it makes by itself
    found = Trail(database)
    found.news()
    return found


def told(entries: list[Entry]) -> list[tuple[str, str, str]]:
    assert all(entry.outcome == "done" and len(entry.request_id) == 32 for entry in entries)
    return [(entry.actor, entry.action, entry.workspace) for entry in entries]


def test_every_way_in_leaves_one_entry(
    api: TestClient, issuer: Issuer, database: Database, trail: Trail
) -> None:
    walked = {"GET /api/v1/auth/methods"}

    def leaves(route: str, *expected: tuple[str, str, str]) -> None:
        assert told(trail.news()) == list(expected), route
        walked.add(route)

    add_person(database, "bob", passwords.hash_password(PASSWORD, "bob"))
    given = {"name": "bob", "password": PASSWORD}
    assert api.post("/api/v1/auth/password", json=given).status_code == 200
    leaves("POST /api/v1/auth/password", ("bob", "session.created", ""))
    assert api.put("/api/v1/auth/password", json=given | {"new_password": NEW}).status_code == 204
    leaves("PUT /api/v1/auth/password", ("bob", "password.changed", ""))

    add_robot(database, "ci")
    publisher = {"issuer": issuer.url, "claims": {"repository": "acme/fraud"}, "principal": "ci"}
    made = api.post("/api/v1/trusted-publishers", json=publisher, headers=ADMIN)
    leaves("POST /api/v1/trusted-publishers", ("admin", "publisher.trusted", "default"))
    assert api.post("/api/v1/auth/exchange", json={"token": issuer.token()}).status_code == 200
    leaves("POST /api/v1/auth/exchange", ("ci", "token.exchanged", "default"))
    api.delete(f"/api/v1/trusted-publishers/{made.json()['id']}", headers=ADMIN)
    leaves("DELETE /api/v1/trusted-publishers/{publisher}", ("admin", "publisher.distrusted", "default"))
    api.get("/api/v1/trusted-publishers", headers=ADMIN)
    leaves("GET /api/v1/trusted-publishers")

    person = Person(api)
    add_groups(database, "ml")
    for groups, expected in (
        ([], [("alice", "principal.created", "")]),
        ([], []),
        (["ml"], [("alice", "principal.groups_changed", "")]),
    ):
        issuer.person["groups"] = groups
        back = person.authorize()
        leaves("GET /api/v1/auth/oidc/{name}/start")
        code = person.come_back(back).headers["location"].partition("code=")[2].partition("&")[0]
        leaves("GET /api/v1/auth/oidc/callback", *expected)
        assert person.redeem(code).status_code == 200
        leaves("POST /api/v1/auth/oidc/token", ("alice", "session.created", ""))
    assert walked == LOGIN


def test_whoever_does_not_come_in_leaves_none(
    api: TestClient, issuer: Issuer, database: Database, trail: Trail
) -> None:
    """Strangers could fill the trail, and a name may be a password that went into the wrong field."""
    add_person(database, "bob", passwords.hash_password(PASSWORD, "bob"))
    for name in ("bob", "hunter2 hunter2"):
        api.post("/api/v1/auth/password", json={"name": name, "password": "wrong"})
        api.put("/api/v1/auth/password", json={"name": name, "password": "wrong", "new_password": NEW})
    api.post("/api/v1/auth/exchange", json={"token": issuer.token()})
    person = Person(api)
    issuer.changes = {"nonce": "another"}
    assert "error" in person.told()
    person.redeem("made-up")
    assert trail.news() == []


def test_no_entry_holds_a_secret(api: TestClient, issuer: Issuer, database: Database, trail: Trail) -> None:
    add_person(database, "bob", passwords.hash_password(PASSWORD, "bob"))
    add_robot(database, "ci")
    publisher = {"issuer": issuer.url, "claims": {"repository": "acme/fraud"}, "principal": "ci"}
    api.post("/api/v1/trusted-publishers", json=publisher, headers=ADMIN)
    identity_token = issuer.token()
    secrets = [
        api.post("/api/v1/auth/password", json={"name": "bob", "password": PASSWORD}).json()["token"],
        api.post("/api/v1/auth/exchange", json={"token": identity_token}).json()["token"],
        Person(api).told()["code"],
    ]
    kept = repr(trail.news())
    for secret in (*secrets, PASSWORD, identity_token, *(each.rpartition("_")[2] for each in secrets[:2])):
        assert secret not in kept
