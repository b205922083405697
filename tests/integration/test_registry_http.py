"""Tokens, host names, health, headers, and the change feed."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient

from registry.app import create_app
from registry.bootstrap import NotConfigured
from registry.settings import Settings
from tests.servers.app import ADMIN, BASE, TOKEN, assert_problem, promote, publish

KEY = SecretStr("a-key-of-thirty-two-characters-or-more")


@pytest.fixture
def without_token(settings: Settings) -> FastAPI:
    """As on the machine of somebody who has set nothing."""
    return create_app(settings.model_copy(update={"token": None}))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer " + "x" * 9999,
    ],
)
def test_a_wrong_token_is_no_token(api: TestClient, header: str) -> None:
    answer = api.get("/api/v1/models", headers={"Authorization": header})
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert_problem(api.get("/api/v1/models", headers={b"Authorization": b"Bearer \xff"}), 401, "unauthorized")


def test_a_stranger_is_refused_before_the_body_is_read(api: TestClient) -> None:
    answer = api.post("/api/v1/models", content=b"{not json", headers={"Authorization": ""})
    assert_problem(answer, 401, "unauthorized")


def test_the_right_token_opens_and_is_recorded_as_actor(api: TestClient) -> None:
    assert publish(api, "fraud")["created_by"] == "admin"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "registry.example"])  # noqa: S104 - refusing it is the point
def test_an_open_address_without_a_key_is_refused(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELYARD_REGISTRY_SECRET_KEY")
    with pytest.raises(ValidationError, match="without a secret key"):
        Settings(home=tmp_path, host=host)
    assert Settings(home=tmp_path, host=host, secret_key=KEY).host == host


def test_an_open_address_where_nobody_could_log_in_is_refused(settings: Settings) -> None:
    changes = {"host": "192.0.2.1", "token": None}
    app = create_app(settings.model_copy(update=changes))
    with pytest.raises(NotConfigured, match="MODELYARD_REGISTRY_TOKEN"), TestClient(app):
        pass


@pytest.mark.usefixtures("api")
def test_another_secret_key_is_refused(settings: Settings) -> None:
    """None of the tokens that are out there would be recognised."""
    app = create_app(settings.model_copy(update={"secret_key": KEY}))
    with pytest.raises(NotConfigured, match="SECRET_KEY"), TestClient(app):
        pass


def test_the_user_of_this_machine_finds_a_token(without_token: FastAPI, settings: Settings) -> None:
    path = settings.home / "local.json"
    for _ in range(2):  # a good one stays
        with TestClient(without_token, base_url=BASE) as api:
            assert_problem(api.get("/api/v1/models"), 401, "unauthorized")
            local = json.loads(path.read_text())
            headers = {"Authorization": f"Bearer {local['token']}"}
            me = api.get("/api/v1/me", headers=headers).json()
            assert (me["name"], me["administrator"]) == ("local", True)
            assert len(api.get("/api/v1/tokens", headers=headers).json()["items"]) == 1
    assert local["url"] == "http://127.0.0.1:7070"
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("{}")
    with TestClient(without_token, base_url=BASE) as api:  # a lost one is revoked
        assert api.get("/api/v1/me", headers=headers).status_code == 401
        assert json.loads(path.read_text())["token"] != local["token"]


def test_a_short_token_is_refused_and_never_shown(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(home=tmp_path, token=SecretStr("short"))
    shown = repr(Settings(home=tmp_path, token=SecretStr(TOKEN), secret_key=KEY))
    assert TOKEN not in shown
    assert KEY.get_secret_value() not in shown


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7070", "", "127.0.0.1.evil.example", "[::2]:7070"]
)
def test_without_a_token_only_loopback_names_are_answered(without_token: FastAPI, host: str) -> None:
    """A web page that makes its own name resolve to 127.0.0.1 sends its name."""
    with TestClient(without_token, base_url=BASE) as api:
        assert_problem(api.get("/api/v1/models", headers={"host": host}), 421, "wrong_host")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7070", "127.0.0.1:1", "127.0.0.5", "[::1]:7070", "[::1]"]
)
def test_loopback_names_are_answered(without_token: FastAPI, host: str) -> None:
    with TestClient(without_token, base_url=BASE) as api:
        assert_problem(api.get("/api/v1/models", headers={"host": host}), 401, "unauthorized")


def test_health_and_readiness(api: TestClient, app: FastAPI, monkeypatch: Any) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"status": "ok"}
    monkeypatch.setattr("registry.http.health.head_revision", lambda: "9999")
    assert_problem(api.get("/readyz"), 503, "not_migrated")
    monkeypatch.undo()

    from storage.errors import StoreUnavailable

    def fail(_: Any) -> None:
        raise StoreUnavailable("secret bucket name")

    monkeypatch.setattr(type(app.state.store), "check", fail)
    answer = api.get("/readyz")
    assert_problem(answer, 503, "store_unavailable")
    assert "secret" not in answer.text
    assert api.get("/healthz").status_code == 200


def test_a_database_that_is_gone_is_a_503_not_a_500(tmp_path: Path) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    app = create_app(Settings(home=tmp_path, database_url=nowhere, storage_url="memory://"))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        answer = api.get("/api/v1/models")
        assert_problem(answer, 503, "database_unavailable")
        assert "nobody" not in answer.text
        assert_problem(api.get("/readyz"), 503, "database_unavailable")
        assert api.get("/healthz").status_code == 200


def test_every_answer_has_a_request_id_and_safe_headers(api: TestClient) -> None:
    for url in ("/healthz", "/api/v1/models", "/api/v1/nothing"):
        headers = api.get(url).headers
        assert len(headers["x-request-id"]) == 32
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")


def test_the_feed_answers_at_once_with_what_came_before(api: TestClient) -> None:
    publish(api, "fraud")
    promote(api, "fraud", 1)
    publish(api, "other")
    feed = api.get("/api/v1/events?since=0&wait=60").json()
    assert [(e["kind"], e["model"]) for e in feed["events"]] == [
        ("version.created", "fraud"),
        ("pointer.moved", "fraud"),
        ("version.created", "other"),
    ]
    assert [e["revision"] for e in feed["events"]] == [1, 2, 3]
    assert feed["revision"] == 3
    only = api.get("/api/v1/events?since=0&model=other&model=nobody").json()
    assert [e["model"] for e in only["events"]] == ["other"]
    page = api.get("/api/v1/events?since=0&limit=1").json()
    assert (page["revision"], len(page["events"])) == (1, 1)
    assert api.get("/api/v1/events?since=3").json() == {"revision": 3, "events": []}


def test_a_waiting_watcher_is_woken_by_a_promotion(api: TestClient) -> None:
    publish(api, "fraud")
    answers = []

    def watch() -> None:
        answers.append(api.get("/api/v1/events?since=1&wait=30").json())

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not api.app.state.feed._watchers:  # type: ignore[attr-defined]
        time.sleep(0.005)
    promote(api, "fraud", 1)
    watcher.join(timeout=20)
    assert answers[0]["events"][0]["kind"] == "pointer.moved"


def test_a_watcher_hears_of_other_processes(api: TestClient, settings: Settings) -> None:
    """A second application on the same database stands for a second process."""
    answers = []
    watcher = threading.Thread(
        target=lambda: answers.append(api.get("/api/v1/events?since=0&wait=30").json())
    )
    watcher.start()
    while not api.app.state.feed._watchers:  # type: ignore[attr-defined]
        time.sleep(0.005)
    with TestClient(create_app(settings), base_url=BASE, headers=ADMIN) as other:
        publish(other, "fraud")
    watcher.join(timeout=20)
    assert answers[0]["events"][0]["kind"] == "version.created"


def test_a_watcher_from_the_future_is_told_where_we_are(api: TestClient) -> None:
    publish(api, "fraud")
    assert api.get("/api/v1/events?since=99&wait=60").json() == {"revision": 1, "events": []}


def test_an_unfulfilled_wait_ends_empty(api: TestClient) -> None:
    assert api.get("/api/v1/events?since=0&wait=0.05").json() == {"revision": 0, "events": []}
