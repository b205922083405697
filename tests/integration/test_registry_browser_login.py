"""Logging in with an identity provider: the whole way as a browser goes it, and every way that is another; on each database."""

import base64
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import attempts, expired
from registry.app import create_app
from registry.database import Database
from registry.login import SESSION_S
from registry.login_tables import BrowserLoginRow, LoginCodeRow
from registry.settings import Issuer as Configured
from registry.settings import Settings
from tests.servers.app import ADMIN, BASE, NewDatabase, assert_problem
from tests.servers.browser import Browser
from tests.servers.canaille import GROUP, PERSON, Canaille
from tests.servers.issuer import CLIENT, Issuer, public_jwk
from tests.servers.people import (
    add_groups,
    add_person,
    add_robot,
    groups_of,
    issued,
    people_of,
    shut_out,
)

CALLBACK = "http://127.0.0.1:7070/api/v1/auth/oidc/callback"
LOOPBACK = "http://127.0.0.1:50123/modelyard/login"
STATE = "the-state-of-the-command-line"
VERIFIER = secrets.token_urlsafe(48)


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@dataclass
class Person:
    """Somebody at a command line, with a browser whose cookies are those of `api`."""

    api: TestClient
    name: str = "ours"

    def start(self, **changes: str) -> Any:
        """What the registry answers to the browser that the command line has opened."""
        asked = {"redirect_uri": LOOPBACK, "state": STATE, "code_challenge": challenge_of(VERIFIER)}
        url = f"/api/v1/auth/oidc/{self.name}/start"
        return self.api.get(url, params=asked | changes, follow_redirects=False)

    def authorize(self) -> str:
        """Where the identity provider sends the browser back to."""
        begun = self.start()
        assert begun.status_code == 303, begun.text
        answer = httpx2.get(begun.headers["location"])
        assert answer.status_code == 302, answer.text
        return str(answer.headers["location"])

    def come_back(self, url: str, api: TestClient | None = None) -> Any:
        """What the registry answers to the browser that comes back from the provider."""
        assert url.startswith(CALLBACK + "?")
        path = url.removeprefix("http://127.0.0.1:7070")
        return (api or self.api).get(path, follow_redirects=False)

    def told(self) -> dict[str, str]:
        """What arrives at the command line."""
        return told_by(self.come_back(self.authorize()))

    def redeem(self, code: str, **changes: str) -> Any:
        body = {"code": code, "code_verifier": VERIFIER, "redirect_uri": LOOPBACK}
        return self.api.post("/api/v1/auth/oidc/token", json=body | changes)


def told_by(answer: Any) -> dict[str, str]:
    assert answer.status_code == 303, answer.text
    location = answer.headers["location"]
    assert location.startswith(LOOPBACK + "?")
    assert answer.headers["referrer-policy"] == "no-referrer"
    return query_of(location)


@pytest.fixture
def configured(issuer: Issuer) -> list[Configured]:
    """The identity providers that the registry knows."""
    return [Configured(**issuer.settings, groups_claim="groups")]


@pytest.fixture
def app(settings: Settings, configured: list[Configured]) -> FastAPI:
    return create_app(settings.model_copy(update={"oidc": tuple(configured)}))


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture
def person(api: TestClient) -> Person:
    return Person(api)


@pytest.fixture
def here(new_database: NewDatabase, configured: list[Configured], tmp_path: Path) -> Iterator[Person]:
    """A person at a registry on SQLite, for what no table has a part in."""
    settings = Settings(
        home=tmp_path, database_url=new_database("sqlite", tmp_path), storage_url="memory://", oidc=configured
    )
    with TestClient(create_app(settings), base_url=BASE) as client:
        yield Person(client)


def test_a_person_logs_in_with_a_real_identity_provider(
    settings: Settings, canaille: Canaille, database: Database
) -> None:
    """Canaille: a password, consent, PKCE, a nonce, and the issuer named in its answer."""
    known = (Configured(**canaille.register(CALLBACK)),)
    add_groups(database, GROUP)
    with TestClient(create_app(settings.model_copy(update={"oidc": known})), base_url=BASE) as api:
        person = Person(api, "canaille")
        browser = Browser()
        back = browser.log_in(person.start().headers["location"], until=CALLBACK)
        told = told_by(person.come_back(back.headers["location"]))
        browser.close()
        assert told["state"] == STATE
        answer = person.redeem(told["code"])
        assert answer.status_code == 200, answer.text
        assert answer.json()["principal"] == PERSON
        assert issued(database) == [(PERSON, "session", SESSION_S, None)]
        assert groups_of(database, PERSON) == {GROUP}


def test_what_the_browser_is_sent_to_ask(here: Person, issuer: Issuer) -> None:
    begun = here.start()
    location = begun.headers["location"]
    assert location.startswith(f"{issuer.url}/authorize?")
    asked = query_of(location)
    assert asked == {
        "response_type": "code",
        "client_id": CLIENT["client_id"],
        "redirect_uri": CALLBACK,
        "scope": "openid profile email",
        "state": asked["state"],
        "nonce": asked["nonce"],
        "code_challenge": asked["code_challenge"],
        "code_challenge_method": "S256",
    }
    others = query_of(here.start().headers["location"])
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) >= 43
        assert asked[name] not in (others[name], STATE, challenge_of(VERIFIER))
    cookie = begun.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=lax", "max-age=600", f"path={urlsplit(CALLBACK).path}"):
        assert word in cookie
    assert "secure" not in cookie  # on loopback there is no TLS


def test_behind_tls_the_cookie_stays_behind_tls(settings: Settings, configured: list[Configured]) -> None:
    public = {"oidc": tuple(configured), "public_url": "https://models.example/registry"}
    with TestClient(create_app(settings.model_copy(update=public)), base_url=BASE) as api:
        begun = Person(api).start()
        assert "secure" in begun.headers["set-cookie"].lower()
        assert "path=/registry/api/v1/auth/oidc/callback" in begun.headers["set-cookie"].lower()
        redirect = query_of(begun.headers["location"])["redirect_uri"]
        assert redirect == "https://models.example/registry/api/v1/auth/oidc/callback"


def test_a_new_person_is_made_once_and_recognised_by_issuer_and_subject(
    person: Person, issuer: Issuer, database: Database
) -> None:
    first = person.redeem(person.told()["code"]).json()
    assert first["principal"] == "alice"
    issuer.person["preferred_username"] = "alice.married"
    assert person.redeem(person.told()["code"]).json()["principal"] == "alice"
    issuer.person["sub"] = "another-subject"
    assert person.redeem(person.told()["code"]).json()["principal"] == "alice.married"
    assert people_of(database) == {
        "alice": (issuer.url, "248289761001"),
        "alice.married": (issuer.url, "another-subject"),
    }


def test_a_name_that_somebody_has_is_not_given_again(person: Person, database: Database) -> None:
    """Names at the provider can be chosen; whoever calls themselves as somebody here is somebody else."""
    add_person(database, "alice")
    name = person.redeem(person.told()["code"]).json()["principal"]
    assert name.startswith("alice-")
    assert person.redeem(person.told()["code"]).json()["principal"] == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("bob@example.com", "bob"),
        ("Bob Smith/Jr", "Bob-Smith-Jr"),
        ("-..bob_", "bob"),
        ("modelyard", "modelyard-"),
        ("Admin", "Admin-"),
        ("local", "local-"),
        ("", "person-"),
        ("@", "person-"),
        ("Ольга", "person-"),
        ("\0\ud800", "person-"),
        (None, "person-"),
        (["root"], "person-"),
        ("x" * 1000, "x" * 100),
    ],
    ids=ascii,
)
def test_names_are_made_of_what_the_provider_says(here: Person, issuer: Issuer, said: Any, name: str) -> None:
    issuer.person["preferred_username"] = said
    assert here.redeem(here.told()["code"]).json()["principal"].startswith(name)


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        (["ml", "ops"], ["ml", "ops"]),
        (["default/ml", "acme/team", "acme/ml", "unknown"], ["ml", "team"]),
        ("ml", ["ml"]),
        ([], []),
        (None, []),
        (7, []),
        (["ml", 7, None, ["x"], "", "x" * 9999, "nul\0", "half \ud800"], ["ml"]),
        ([f"g{n}" for n in range(1000)], ["g199"]),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_groups_are_those_of_the_last_login(
    person: Person, issuer: Issuer, database: Database, said: Any, groups: list[str]
) -> None:
    person.api.post("/api/v1/workspaces", json={"name": "acme"}, headers=ADMIN)
    add_groups(database, "former", "ml", "ops", "g199", "g200")
    add_groups(database, "team", workspace_id=2)
    issuer.person["groups"] = ["former"]
    person.told()
    assert groups_of(database, "alice") == {"former"}
    issuer.person["groups"] = said
    assert "code" in person.told()
    assert groups_of(database, "alice") == set(groups)


def test_groups_that_an_admin_gave_stay(person: Person, issuer: Issuer, database: Database) -> None:
    add_groups(database, "ml", "ops")
    issuer.person["groups"] = ["ml"]
    person.told()
    for group in ("ml", "ops"):
        url = f"/api/v1/groups/{group}/members/alice"
        assert person.api.put(url, headers=ADMIN).status_code == 200
    issuer.person["groups"] = []
    person.told()
    assert groups_of(database, "alice") == {"ml", "ops"}


def test_only_groups_that_are_translated_count(
    settings: Settings, issuer: Issuer, database: Database
) -> None:
    issuer.person["groups"] = ["9f3c-ml", "admins"]
    add_groups(database, "ml", "admins", "9f3c-ml")
    translated = Configured(**issuer.settings, groups_claim="groups", groups={"9f3c-ml": "ml"})
    app = create_app(settings.model_copy(update={"oidc": (translated,)}))
    with TestClient(app, base_url=BASE) as api:
        assert "code" in Person(api).told()
    assert groups_of(database, "alice") == {"ml"}


def test_whoever_logged_in_may_what_their_groups_may(
    person: Person, issuer: Issuer, database: Database
) -> None:
    add_groups(database, "ml")
    for path, body in (
        ("models", {"name": "fraud"}),
        ("grants", {"group": "ml", "role": "reader", "pattern": "fraud"}),
    ):
        assert person.api.post(f"/api/v1/{path}", json=body, headers=ADMIN).status_code == 201
    for groups, status in (([], 404), (["ml"], 200)):
        issuer.person["groups"] = groups
        token = person.redeem(person.told()["code"]).json()["token"]
        mine = {"Authorization": f"Bearer {token}"}
        assert person.api.get("/api/v1/models/fraud", headers=mine).status_code == status


def test_a_robot_does_not_log_in(person: Person, issuer: Issuer, database: Database) -> None:
    add_robot(database, "robot", issuer=issuer.url, subject=issuer.person["sub"])
    assert person.told()["error"] == "name_taken"
    identity = {"issuer": issuer.url, "subject": "x"}
    body = {"name": "r2", "kind": "robot", "identity": identity}
    made = person.api.post("/api/v1/principals", json=body, headers=ADMIN)
    assert_problem(made, 400, "invalid_name")


def test_two_first_logins_at_once_make_one_person(person: Person, database: Database) -> None:
    backs = [person.authorize() for _ in range(4)]
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda b=back: answers.append(person.come_back(b))) for back in backs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("code" in told_by(answer) for answer in answers)
    assert list(people_of(database)) == ["alice"]


def test_without_being_asked_to_a_registry_makes_nobody(
    settings: Settings, issuer: Issuer, database: Database
) -> None:
    closed = Configured(**{**issuer.settings, "create_people": False})
    app = create_app(settings.model_copy(update={"oidc": (closed,)}))
    with TestClient(app, base_url=BASE) as api:
        told = Person(api).told()
        assert (told["error"], told["state"]) == ("unknown_identity", STATE)
        assert people_of(database) == {}
        identity = {"issuer": issuer.url, "subject": issuer.person["sub"]}
        known = {"name": "carol", "kind": "person", "identity": identity}
        made = api.post("/api/v1/principals", json=known, headers=ADMIN)
        assert made.status_code == 201, made.text
        again = api.post("/api/v1/principals", json=known | {"name": "eve"}, headers=ADMIN)
        assert_problem(again, 409, "name_taken")
        assert Person(api).redeem(Person(api).told()["code"]).json()["principal"] == "carol"


def test_the_same_subject_of_another_provider_is_somebody_else(
    settings: Settings, issuer: Issuer, new_issuer: Callable[..., Issuer]
) -> None:
    other = new_issuer()
    both = (Configured(**issuer.settings), Configured(**other.settings | {"name": "other"}))
    with TestClient(create_app(settings.model_copy(update={"oidc": both})), base_url=BASE) as api:
        ours, theirs = Person(api), Person(api, "other")
        first = ours.redeem(ours.told()["code"]).json()["principal"]
        second = theirs.redeem(theirs.told()["code"]).json()["principal"]
        assert first == "alice"
        assert second not in ("alice", "")


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/modelyard/login",
        "http://evil.example:50123/modelyard/login",
        "http://127.0.0.1.evil.example:50123/modelyard/login",
        "http://127.0.0.1@evil.example:50123/modelyard/login",
        "http://127.0.0.1:50123@evil.example/modelyard/login",
        "http://127.0.0.1:50123/modelyard/login/../../x",
        "http://127.0.0.1:50123/modelyard/login?x=1",
        "http://127.0.0.1:50123/modelyard/login#x",
        "http://127.0.0.1:50123/modelyard/login\n",
        "http://127.0.0.1:50123/modelyard/login\r\nSet-Cookie: x=1",
        "http://127.0.0.1:50123/other",
        "http://127.0.0.1:50123",
        "http://127.0.0.1/modelyard/login",
        "http://127.0.0.1:80/modelyard/login",
        "http://127.0.0.1:99999/modelyard/login",
        "http://127.0.0.1:050123/modelyard/login",
        "http://127.0.0.2:50123/modelyard/login",
        "http://localhost:50123/modelyard/login",
        "http://[::2]:50123/modelyard/login",
        "https://127.0.0.1:50123/modelyard/login",
        "javascript:alert(1)//http://127.0.0.1:50123/modelyard/login",
        "//127.0.0.1:50123/modelyard/login",
        "",
    ],
)
def test_codes_go_to_this_machine_only(here: Person, uri: str) -> None:
    assert_problem(here.start(redirect_uri=uri), 400, "invalid_request")


def test_loopback_may_be_version_six(here: Person) -> None:
    assert here.start(redirect_uri="http://[::1]:50123/modelyard/login").status_code == 303


@pytest.mark.parametrize(
    "changes",
    [
        {"state": ""},
        {"state": "short"},
        {"state": "with a space in the state"},
        {"state": "x" * 129},
        {"state": "\0" * 20},
        {"code_challenge": ""},
        {"code_challenge": VERIFIER},
        {"code_challenge": "=" * 43},
    ],
)
def test_logins_that_cannot_begin(here: Person, changes: dict[str, str]) -> None:
    assert_problem(here.start(**changes), 400, "invalid_request")


def test_parameters_that_are_missing_or_endless(here: Person) -> None:
    assert_problem(here.start(state="x" * 257), 422, "invalid_request")
    answer = here.api.get("/api/v1/auth/oidc/ours/start", follow_redirects=False)
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("name", ["other", "OURS", "%00", "a" * 1000, "..%2f"])
def test_providers_that_there_are_not(here: Person, name: str) -> None:
    here.name = name
    assert here.start().status_code == 404


def test_the_number_of_logins_that_begin_is_limited(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEGINNINGS", attempts.Limit(3, timedelta(hours=1)))
    for _ in range(3):
        assert person.start().status_code == 303
    answer = person.start()
    assert_problem(answer, 429, "too_many_attempts")
    assert int(answer.headers["retry-after"]) > 60


def test_another_browser_cannot_end_a_login(person: Person, app: FastAPI, database: Database) -> None:
    """Or somebody could have another's login end at their own command line."""
    back = person.authorize()
    assert_problem(person.come_back(back, TestClient(app, base_url=BASE)), 400, "login_expired")
    assert_problem(person.come_back(back), 400, "login_expired")
    assert issued(database) == []


def test_a_cookie_of_another_login_is_not_enough(person: Person, app: FastAPI) -> None:
    back = person.authorize()
    other = TestClient(app, base_url=BASE)
    Person(other).authorize()
    [cookie] = other.cookies.jar
    [ours] = person.api.cookies.jar
    other.cookies.set(ours.name, cookie.value or "", path=ours.path)
    assert_problem(person.come_back(back, other), 400, "login_expired")


def test_two_logins_can_be_under_way_in_one_browser(person: Person) -> None:
    first, second = person.authorize(), person.authorize()
    assert "code" in told_by(person.come_back(first))
    assert "code" in told_by(person.come_back(second))
    assert list(person.api.cookies.jar) == []


def test_an_answer_comes_once(person: Person) -> None:
    back = person.authorize()
    cookies = dict(person.api.cookies)
    assert "code" in told_by(person.come_back(back))
    person.api.cookies.update(cookies)
    assert_problem(person.come_back(back), 400, "login_expired")


@pytest.mark.parametrize(
    "query",
    ["", "code=x", "state=", "state=x&code=y", "state=%00", "state=%ff&code=x", "error=access_denied"],
)
def test_answers_to_nothing(here: Person, query: str) -> None:
    here.authorize()
    assert_problem(here.come_back(f"{CALLBACK}?{query}"), 400, "login_expired")


def test_a_login_must_end_in_time(person: Person, database: Database) -> None:
    back = person.authorize()
    with database.write() as session:
        [row] = session.scalars(sa.select(BrowserLoginRow))
        row.expires_at -= timedelta(seconds=601)
    assert_problem(person.come_back(back), 400, "login_expired")


def test_what_nobody_finished_is_removed(person: Person, database: Database) -> None:
    person.start()
    person.told()
    with database.write() as session:
        for table in (BrowserLoginRow, LoginCodeRow):
            [row] = session.scalars(sa.select(table))
            row.expires_at -= timedelta(hours=1)
    assert expired.remove_expired(database) == 2


def replaced(url: str, **changes: str | None) -> str:
    query = {name: value for name, value in (query_of(url) | changes).items() if value is not None}
    return str(httpx2.URL(url.partition("?")[0], params=query))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": "guessed"}, "login_refused"),
        ({"code": None}, "login_refused"),
        ({"code": ""}, "login_refused"),
        ({"iss": "https://issuer.example"}, "login_refused"),
        ({"iss": None}, "login_refused"),
        ({"code": None, "error": "access_denied"}, "login_refused"),
        ({"error": "<script>alert(1)</script>"}, "login_refused"),
    ],
)
def test_answers_that_are_none_are_told_to_the_command_line(
    person: Person, database: Database, changes: dict[str, str | None], error: str
) -> None:
    told = told_by(person.come_back(replaced(person.authorize(), **changes)))
    assert (told["error"], told["state"]) == (error, STATE)
    assert "script" not in told["error_description"]
    assert "code" not in told
    assert people_of(database) == {}


def test_a_refusal_says_what_the_provider_said(here: Person) -> None:
    refused = replaced(here.authorize(), code=None, error="access_denied")
    assert "access_denied" in told_by(here.come_back(refused))["error_description"]


def test_a_provider_that_does_not_name_itself_need_not(settings: Settings, issuer: Issuer) -> None:
    issuer.says(
        "/.well-known/openid-configuration",
        issuer.discovery(authorization_response_iss_parameter_supported=None),
    )
    app = create_app(settings.model_copy(update={"oidc": (Configured(**issuer.settings),)}))
    with TestClient(app, base_url=BASE) as api:
        person = Person(api)
        assert "code" in told_by(person.come_back(replaced(person.authorize(), iss=None)))
        named = replaced(person.authorize(), iss="https://issuer.example")
        assert told_by(person.come_back(named))["error"] == "login_refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "of-another-login"},
        {"nonce": None},
        {"nonce": ["x"]},
        {"nonce": "half \ud800"},
        {"aud": "another-client"},
        {"aud": ["modelyard", "another-client"]},
        {"iss": "https://issuer.example"},
        {"exp": 1},
        {"sub": None},
        {"sub": "nul\0"},
    ],
    ids=ascii,
)
def test_an_id_token_that_is_not_for_this_login(
    person: Person, issuer: Issuer, database: Database, changes: dict[str, Any]
) -> None:
    assert "code" in person.told()
    issuer.changes = changes
    told = person.told()
    assert (told["error"], told.get("code")) == ("invalid_token", None)
    assert list(people_of(database)) == ["alice"]


def test_an_id_token_of_somebody_else(here: Person, issuer: Issuer) -> None:
    assert "code" in here.told()
    issuer.keys = [public_jwk("rsa-attacker", kid="rsa")]
    token = issuer.token("rsa-attacker", {"kid": "rsa"}, aud=CLIENT["client_id"])
    issuer.says("/token", {"id_token": token})
    assert here.told()["error"] == "invalid_token"


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        ({}, 200, "login_refused"),
        ({"id_token": 7}, 200, "login_refused"),
        ({"id_token": "x" * 20_000}, 200, "login_refused"),
        ({"id_token": "a.b.c"}, 200, "invalid_token"),
        ([], 200, "issuer_unavailable"),
        (b"<html>", 200, "issuer_unavailable"),
        ({"error": "invalid_grant"}, 400, "login_refused"),
        ({"error": "invalid_client"}, 401, "login_refused"),
        ({"error": "server_error"}, 500, "issuer_unavailable"),
        ({"id_token": "x", "padding": "x" * 1_100_000}, 200, "issuer_unavailable"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_the_token_endpoint_may_answer(
    here: Person, issuer: Issuer, content: Any, status: int, error: str
) -> None:
    issuer.says("/token", content, status)
    assert here.told()["error"] == error


def test_a_provider_that_is_down_is_told_at_once(here: Person, issuer: Issuer) -> None:
    issuer.says("/keys", {}, 500)
    assert_problem(here.start(), 503, "issuer_unavailable")


def test_a_provider_for_programs_only_has_no_pages(here: Person, issuer: Issuer) -> None:
    issuer.says("/.well-known/openid-configuration", issuer.discovery(authorization_endpoint=None))
    assert_problem(here.start(), 503, "issuer_unavailable")


@pytest.mark.parametrize("methods", [["client_secret_post"], "client_secret_post", 7, None])
def test_the_provider_chooses_how_the_registry_proves_itself(
    here: Person, issuer: Issuer, methods: Any
) -> None:
    issuer.says(
        "/.well-known/openid-configuration",
        issuer.discovery(token_endpoint_auth_methods_supported=methods),
    )
    told = here.told()
    assert ("code" in told) == (not isinstance(methods, list))  # ours knows Basic credentials only


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": secrets.token_urlsafe(48)},
        {"code_verifier": ""},
        {"code_verifier": "short"},
        {"code_verifier": "\0" * 43},
        {"code_verifier": "é" * 43},
        {"redirect_uri": "http://127.0.0.1:50124/modelyard/login"},
        {"redirect_uri": ""},
    ],
)
def test_a_code_is_worth_nothing_without_its_verifier(
    person: Person, database: Database, changes: dict[str, str]
) -> None:
    code = person.told()["code"]
    assert_problem(person.redeem(code, **changes), 400, "login_expired")
    assert_problem(person.redeem(code), 400, "login_expired")  # somebody else has it, too
    assert issued(database) == []


@pytest.mark.parametrize("code", ["", "x", "\0", "é", "x" * 100_000])
def test_codes_that_are_none(person: Person, code: str) -> None:
    assert_problem(person.redeem(code), 400, "login_expired")


def test_a_code_is_good_once_and_for_a_minute(person: Person, database: Database) -> None:
    code = person.told()["code"]
    assert person.redeem(code).status_code == 200
    assert_problem(person.redeem(code), 400, "login_expired")
    code = person.told()["code"]
    with database.write() as session:
        [row] = session.scalars(sa.select(LoginCodeRow))
        row.expires_at -= timedelta(seconds=61)
    assert_problem(person.redeem(code), 400, "login_expired")


def test_of_many_that_redeem_a_code_one_gets_something(person: Person, database: Database) -> None:
    code, answers = person.told()["code"], []
    threads = [
        threading.Thread(target=lambda: answers.append(person.redeem(code).status_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [400] * 5
    assert len(issued(database)) == 1


def test_a_disabled_person_gets_no_session(person: Person, database: Database) -> None:
    code = person.told()["code"]
    shut_out(database)
    assert_problem(person.redeem(code), 401, "unauthorized")


def test_the_database_keeps_nothing_that_lets_somebody_in(person: Person, database: Database) -> None:
    begun = person.start()
    code = person.told()["code"]
    cookie = begun.headers["set-cookie"].partition("=")[2].partition(";")[0]
    with database.read() as session:
        rows = [
            *session.execute(sa.text("SELECT * FROM browser_logins")),
            *session.execute(sa.text("SELECT * FROM login_codes")),
        ]
    kept = str(rows)
    assert len(rows) == 2
    for secret in (query_of(begun.headers["location"])["state"], cookie, code, VERIFIER):
        assert secret not in kept
