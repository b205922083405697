"""The API of webhooks: what it takes, what it shows, and to whom."""

import base64
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.testclient import TestClient

from registry import audit, webhooks
from registry.app import create_app
from registry.deliveries import queue
from registry.settings import Settings
from registry.vault import Vault
from registry.webhook_tables import WebhookRow
from tests.servers.app import ADMIN, BASE, assert_problem
from tests.servers.receiver import Receiver, receiver
from tests.servers.webhooks import HOUR, Hooks, with_webhooks

WEBHOOKS = "/api/v1/webhooks"
URL = "http://127.0.0.1:9/hook"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_webhooks(settings)


@pytest.fixture
def hooks(app: FastAPI, api: TestClient) -> Hooks:
    return Hooks(app, api)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as started:
        yield started


def rows(hooks: Hooks) -> list[WebhookRow]:
    with hooks.database.read() as session:
        return list(session.scalars(sa.select(WebhookRow)))


def test_created_with_nothing_but_a_url_it_hears_everything(hooks: Hooks) -> None:
    created = hooks.create(URL)
    secret = created.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    expected = {
        "url": URL,
        "description": "",
        "events": ["*"],
        "model": "*",
        "active": True,
        "inactive_reason": None,
        "failing_since": None,
        "old_secret_until": None,
        "created_by": "admin",
    }
    assert {name: created[name] for name in expected} == expected
    assert hooks.look(created) == created
    assert hooks.api.get(WEBHOOKS).json() == {"items": [created], "next": None}


def test_what_is_given_is_changed_and_nothing_else(hooks: Hooks) -> None:
    created = hooks.create(URL, description="d", events=["pointer.*"], model="fraud-*")
    created.pop("secret")
    path = f"{WEBHOOKS}/{created['id']}"
    for change in (
        {"url": "http://127.0.0.2:9/other"},
        {"description": ""},
        {"events": ["version.created", "model.*"]},
        {"model": "*"},
        {"active": False},
        {"active": True},
        {},
    ):
        changed = hooks.api.patch(path, json=change)
        assert changed.status_code == 200, changed.text
        created |= change
        assert changed.json() == hooks.look(created) == created


def test_deleted_it_is_gone(hooks: Hooks) -> None:
    created = hooks.create(URL)
    assert hooks.api.delete(f"{WEBHOOKS}/{created['id']}").status_code == 204
    assert_problem(hooks.api.delete(f"{WEBHOOKS}/{created['id']}"), 404, "webhook_not_found")
    assert hooks.api.get(WEBHOOKS).json()["items"] == []


def test_pages_of_webhooks_and_deliveries_neither_repeat_nor_skip(hooks: Hooks) -> None:
    created = [hooks.create(URL) for _ in range(5)]
    assert sorted(page_through(hooks, WEBHOOKS)) == sorted(each["id"] for each in created)
    for number in range(5):
        hooks.event(f"m{number}")
    hooks.dispatch()
    listed = page_through(hooks, f"{WEBHOOKS}/{created[0]['id']}/deliveries")
    assert listed == [each["id"] for each in reversed(hooks.deliveries(created[0]))]


def page_through(hooks: Hooks, path: str) -> list[str]:
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = hooks.api.get(path, params={"limit": "2", **after}).json()
        found += [each["id"] for each in page["items"]]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


def test_deliveries_are_found_by_state_and_event(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    hooks.event("n")
    hooks.dispatch()
    hooks.api.post(f"{WEBHOOKS}/{created['id']}/test")
    assert [d["model"] for d in hooks.deliveries(created, state="delivered")] == ["m"]
    assert [d["model"] for d in hooks.deliveries(created, event="model.created")] == ["m", "n"]
    assert [d["model"] for d in hooks.deliveries(created, event="model.created", state="pending")] == ["n"]
    assert [d["event"] for d in hooks.deliveries(created, event="webhook.ping")] == ["webhook.ping"]
    for query in ({"state": "lost"}, {"event": "x\x00"}, {"event": "'; --"}, {"limit": "0"}):
        answer = hooks.api.get(f"{WEBHOOKS}/{created['id']}/deliveries", params=query)
        assert_problem(answer, 422, "invalid_request")


REFUSED_URLS = [
    "https://127.0.0.1/",
    "https://localhost/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://0.0.0.0/",
    "https://224.0.0.1/",
    "https://2130706433/",
    "http://93.184.215.14/",
    "http://user@127.0.0.1/",
    "ftp://127.0.0.1/",
    "file:///etc/passwd",
    "http://127.0.0.1/#x",
    "not a url",
    "s3cret-value",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_urls_that_lead_inside_are_refused_when_saved(settings: Settings, url: str) -> None:
    strict = create_app(settings.model_copy(update={"webhook_allow": ("http://127.0.0.2",)}))
    with TestClient(strict, base_url=BASE, headers=ADMIN) as api:
        hooks = Hooks(strict, api)
        answer = api.post(WEBHOOKS, json={"url": url})
        assert_problem(answer, 400, "invalid_url")
        assert url not in answer.text
        created = hooks.create("http://127.0.0.2/")
        assert_problem(api.patch(f"{WEBHOOKS}/{created['id']}", json={"url": url}), 400, "invalid_url")
        assert [row.url for row in rows(hooks)] == ["http://127.0.0.2/"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"url": None}, 422, "invalid_request"),
        ({"url": URL, "secret": "mine"}, 422, "invalid_request"),
        ({"url": URL, "workspace_id": 2}, 422, "invalid_request"),
        ({"url": URL, "events": []}, 422, "invalid_request"),
        ({"url": URL, "events": "*"}, 422, "invalid_request"),
        ({"url": URL, "events": ["*"] * 51}, 422, "invalid_request"),
        ({"url": URL, "events": ["Version Created"]}, 400, "invalid_name"),
        ({"url": URL, "events": ["a\x00"]}, 400, "invalid_name"),
        ({"url": URL, "events": ["[a-z]+"]}, 400, "invalid_name"),
        ({"url": URL, "model": ""}, 422, "invalid_request"),
        ({"url": URL, "model": "a?"}, 400, "invalid_name"),
        ({"url": URL, "model": "a/b"}, 400, "invalid_name"),
        ({"url": URL, "model": "é*"}, 400, "invalid_name"),
        ({"url": URL, "description": "nul \x00"}, 422, "invalid_request"),
        ({"url": URL, "active": "yes"}, 422, "invalid_request"),
        ({"url": URL + "x" * 2048}, 422, "invalid_request"),
    ],
    ids=repr,
)
def test_bad_input_changes_nothing(hooks: Hooks, body: dict[str, Any], status: int, code: str) -> None:
    assert_problem(hooks.api.post(WEBHOOKS, json=body), status, code)
    assert rows(hooks) == []


@pytest.mark.parametrize("webhook", [NOBODY, "x", "%00", "%c3%a9", "'%20or%201=1", "1", "a" * 500])
def test_what_is_not_there_is_not_found(hooks: Hooks, webhook: str) -> None:
    one = f"{WEBHOOKS}/{webhook}"
    for method, path, body in (
        ("GET", one, None),
        ("PATCH", one, {}),
        ("DELETE", one, None),
        ("POST", one + "/rotate", {}),
        ("POST", one + "/test", None),
        ("GET", one + "/deliveries", None),
        ("GET", f"{one}/deliveries/{NOBODY}", None),
        ("POST", f"{one}/deliveries/{NOBODY}/redeliver", None),
    ):
        assert_problem(hooks.api.request(method, path, json=body), 404, "webhook_not_found")
    owner = hooks.create(URL)
    for path in (f"{WEBHOOKS}/{owner['id']}/deliveries/{webhook}",):
        assert_problem(hooks.api.get(path), 404, "delivery_not_found")
        assert_problem(hooks.api.post(path + "/redeliver"), 404, "delivery_not_found")


def test_a_delivery_is_found_under_its_own_webhook_only(hooks: Hooks, hook: Receiver) -> None:
    one, other = hooks.create(hook.url), hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    (sent,) = hooks.deliveries(one)
    path = f"{WEBHOOKS}/{other['id']}/deliveries/{sent['id']}"
    assert_problem(hooks.api.get(path), 404, "delivery_not_found")
    assert_problem(hooks.api.post(path + "/redeliver"), 404, "delivery_not_found")
    assert len(hook.received) == 2


def test_the_webhooks_of_another_workspace_are_not_there(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    (sent,) = hooks.deliveries(created)
    before = hooks.look(created)
    assert hooks.api.post("/api/v1/workspaces", json={"name": "other"}).status_code == 201
    there = "/w/other" + WEBHOOKS
    one = f"{there}/{created['id']}"
    assert hooks.api.get(there).json()["items"] == []
    for method, path in (
        ("GET", one),
        ("PATCH", one),
        ("DELETE", one),
        ("POST", one + "/rotate"),
        ("POST", one + "/test"),
        ("GET", one + "/deliveries"),
        ("GET", f"{one}/deliveries/{sent['id']}"),
        ("POST", f"{one}/deliveries/{sent['id']}/redeliver"),
    ):
        body = {} if method == "PATCH" or path.endswith("rotate") else None
        assert_problem(hooks.api.request(method, path, json=body), 404, "webhook_not_found")
    foreign = hooks.api.post(there, json={"url": hook.url}).json()
    assert hooks.look(created) == before
    hooks.event("n")
    hooks.api.post("/w/other/api/v1/models", json={"name": "o"})
    hooks.send()
    assert [each["model"] for each in hooks.deliveries(created)] == ["m", "n"]
    theirs = hooks.api.get(f"{there}/{foreign['id']}/deliveries").json()["items"]
    assert [each["model"] for each in theirs] == ["o"]


def test_what_is_done_is_in_the_audit_trail_once_and_without_the_url(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url + "/s3cret-path")
    one = f"{WEBHOOKS}/{created['id']}"
    hooks.event("m")
    hooks.send()
    (sent,) = hooks.deliveries(created)
    for method, path, body, action in (
        ("PATCH", one, {"model": "a*", "description": "d"}, "webhook.updated"),
        ("POST", one + "/rotate", {"overlap_s": 9}, "webhook.rotated"),
        ("POST", one + "/test", None, "webhook.tested"),
        ("POST", f"{one}/deliveries/{sent['id']}/redeliver", None, "webhook.redelivered"),
        ("DELETE", one, None, "webhook.deleted"),
    ):
        before = trail(hooks)
        assert hooks.api.request(method, path, json=body).status_code < 300
        assert trail(hooks) == [*before, (action, f"webhooks/{created['id']}", "done")]
    with hooks.database.read() as session:
        page = audit.entries(session, resource=f"webhooks/{created['id']}", limit=9)
    said = {entry.action: entry.data for entry in page.items}
    assert said["webhook.created"] == {"host": "127.0.0.1", "events": ["*"], "model": "*"}
    assert said["webhook.updated"] == {"changed": ["description", "model"]}
    assert "s3cret-path" not in str(page)


def test_what_changes_nothing_is_not_in_the_audit_trail(hooks: Hooks) -> None:
    created = hooks.create(URL)
    before = trail(hooks)
    hooks.api.patch(f"{WEBHOOKS}/{created['id']}", json={"url": URL, "active": True})
    assert trail(hooks) == before


def trail(hooks: Hooks) -> list[tuple[str, str, str]]:
    """What was done with webhooks, oldest first."""
    with hooks.database.read() as session:
        page = audit.entries(session, resource="webhooks", limit=99)
    return [(entry.action, entry.resource, entry.outcome) for entry in reversed(page.items)]


def test_a_workspace_has_a_limit(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 2)
    for _ in range(2):
        hooks.create(URL)
    assert_problem(hooks.api.post(WEBHOOKS, json={"url": URL}), 409, "too_many_webhooks")


def test_nothing_is_sent_to_an_inactive_one_by_hand_either(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    (sent,) = hooks.deliveries(created)
    one = f"{WEBHOOKS}/{created['id']}"
    hooks.api.patch(one, json={"active": False})
    assert_problem(hooks.api.post(one + "/test"), 409, "webhook_inactive")
    again = hooks.api.post(f"{one}/deliveries/{sent['id']}/redeliver")
    assert_problem(again, 409, "webhook_inactive")


def test_after_a_rotation_both_secrets_sign_until_the_overlap_is_over(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    rotated = hooks.api.post(f"{WEBHOOKS}/{created['id']}/rotate", json={"overlap_s": HOUR}).json()
    assert rotated["secret"] != created["secret"]
    assert rotated["old_secret_until"] is not None
    hooks.event("m")
    hooks.send()
    for secret in (created["secret"], rotated["secret"]):
        Webhook(secret).verify(hook.received[0].body, hook.received[0].headers)
    hooks.pass_time(HOUR)
    hooks.event("n")
    hooks.send()
    Webhook(rotated["secret"]).verify(hook.received[1].body, hook.received[1].headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(created["secret"]).verify(hook.received[1].body, hook.received[1].headers)


def test_a_secret_that_has_leaked_signs_no_more_at_once(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    path = f"{WEBHOOKS}/{created['id']}/rotate"
    hooks.api.post(path, json={})
    rotated = hooks.api.post(path, json={"overlap_s": 0}).json()
    assert rotated["old_secret_until"] is None
    hooks.event("m")
    hooks.send()
    assert " " not in hook.received[0].headers["webhook-signature"]
    Webhook(rotated["secret"]).verify(hook.received[0].body, hook.received[0].headers)
    for overlap in (-1, 7 * 24 * HOUR + 1, "1", 1.5):
        assert_problem(hooks.api.post(path, json={"overlap_s": overlap}), 422, "invalid_request")


def test_secrets_are_told_once_and_stand_nowhere_else(
    hooks: Hooks, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    created = hooks.create(hook.url)
    rotated = hooks.api.post(f"{WEBHOOKS}/{created['id']}/rotate", json={}).json()
    hooks.event("m")
    hooks.dispatch()
    claim = queue.claim(hooks.database, slow=True)
    assert claim is not None
    hooks.sender().deliver(claim)
    one = f"{WEBHOOKS}/{created['id']}"
    (sent,) = hooks.deliveries(created)
    said = [
        caplog.text,
        repr(claim),
        repr(hooks.service),
        repr(Vault(hooks.app.state.key, "webhooks")),
    ]
    said += [
        hooks.api.request(method, path, json=body).text
        for method, path, body in (
            ("GET", WEBHOOKS, None),
            ("GET", one, None),
            ("PATCH", one, {"description": "x"}),
            ("GET", one + "/deliveries", None),
            ("GET", f"{one}/deliveries/{sent['id']}", None),
            ("POST", f"{one}/deliveries/{sent['id']}/redeliver", None),
            ("POST", one + "/test", None),
        )
    ]
    (row,) = rows(hooks)
    stored = row.secret + (row.old_secret or b"")
    for secret in (created["secret"], rotated["secret"]):
        text = secret.removeprefix("whsec_")
        raw = base64.b64decode(text)
        assert not [each for each in said if text in each or raw.hex() in each or repr(raw) in each]
        assert raw not in stored
        assert text.encode() not in stored


def test_the_query_of_a_url_is_sent_but_not_shown(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url + "?token=t0ken")
    shown = hook.url + "?…"
    assert (created["url"], hooks.look(created)["url"]) == (shown, shown)
    assert "t0ken" not in hooks.api.get(WEBHOOKS).text
    hooks.event("m")
    hooks.send()
    assert hook.received[0].path == "/hook?token=t0ken"
    answer = hooks.api.patch(f"{WEBHOOKS}/{created['id']}", json={"url": shown})
    assert_problem(answer, 400, "invalid_url")


REFUSED = {
    "a cursor that goes back": "UPDATE webhooks SET cursor = cursor - 1",
    "a webhook that moves to another workspace": "UPDATE webhooks SET workspace_id = workspace_id",
    "a reason that is none": "UPDATE webhooks SET active = (1 > 2), inactive_reason = 'mood'",
    "an active webhook with a reason not to be": "UPDATE webhooks SET inactive_reason = 'gone'",
    "an old secret for ever": "UPDATE webhooks SET old_secret = secret",
    "an event that is delivered as two": "INSERT INTO deliveries"
    " (id, webhook_id, revision, event, state, next_at, give_up_at)"
    " SELECT 'x', webhook_id, revision, event, 'pending', created_at, created_at FROM deliveries WHERE revision = 1",
    "a delivery of nothing": "UPDATE deliveries SET event = 'other'",
    "a delivery to another webhook": "UPDATE deliveries SET webhook_id = id",
    "a delivery that is done but due": "UPDATE deliveries SET state = 'dead' WHERE state = 'pending'",
    "a delivery in a state of its own": "UPDATE deliveries SET state = 'lost'",
    "an attempt that is rewritten": "UPDATE attempts SET status = 200",
    "an attempt that came to nothing": "INSERT INTO attempts (delivery_number, number, at, duration_ms)"
    " SELECT delivery_number, 2, at, 1 FROM attempts",
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_refuses(hooks: Hooks, hook: Receiver, what: str) -> None:
    hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    hooks.event("n")
    hooks.dispatch()
    with pytest.raises(sa.exc.IntegrityError), hooks.database.engine.begin() as connection:
        connection.execute(sa.text(REFUSED[what]))
