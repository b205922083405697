"""Deliveries: no event is lost or delivered twice over, whoever sends and whoever dies; failures are retried, within limits."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from registry import audit
from registry.app import create_app
from registry.deliveries import outbox, queue, sender
from registry.deliveries.outcome import Failure, Outcome
from registry.deliveries.prune import prune
from registry.deliveries.queue import CLAIM_S, Rules
from registry.deliveries.sender import Sender
from registry.settings import Settings
from registry.vault import WEBHOOKS, Vault
from registry.webhook_tables import AttemptRow, DeliveryRow, WebhookRow
from tests.servers.app import ADMIN, BASE, promote, publish
from tests.servers.ports import free_port, wait_until
from tests.servers.receiver import Handler, Receiver, receiver
from tests.servers.webhooks import DAY, HOUR, RULES, Hooks, Steady, with_webhooks


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


def down(handler: Handler) -> None:
    handler.answer(503)


def test_what_happens_is_delivered_as_the_feed_tells_it(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    publish(hooks.api, "fraud")
    promote(hooks.api, "fraud", 1)
    assert hooks.send() == 2
    feed = hooks.api.get("/api/v1/events?since=0").json()["events"]
    told = [Webhook(created["secret"]).verify(got.body, got.headers) for got in hook.received]
    assert [each["data"] for each in told] == feed
    assert [(each["type"], each["timestamp"]) for each in told] == [(e["kind"], e["at"]) for e in feed]
    sent = hooks.deliveries(created)
    assert [got.headers["webhook-id"] for got in hook.received] == [each["id"] for each in sent]
    assert [(d["event"], d["model"], d["revision"], d["state"], d["attempts"]) for d in sent] == [
        (e["kind"], "fraud", e["revision"], "delivered", 1) for e in feed
    ]
    assert hooks.send() == 0


def test_a_webhook_is_told_of_nothing_that_was_before_it(hooks: Hooks, hook: Receiver) -> None:
    older = hooks.create(hook.url)
    hooks.event("before")
    created = hooks.create(hook.url)
    hooks.event("after")
    hooks.send()
    assert [each["model"] for each in hooks.deliveries(created)] == ["after"]
    assert [each["model"] for each in hooks.deliveries(older)] == ["before", "after"]


@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        (["*"], "*", 5),
        (["pointer.*"], "*", 2),
        (["version.created", "model.*"], "*", 3),
        (["*"], "fraud-*", 2),
        (["pointer.*"], "fraud-*", 1),
        (["*"], "fraud", 0),
        (["version"], "*", 0),
    ],
)
def test_patterns_choose_kinds_and_models(
    hooks: Hooks, hook: Receiver, patterns: list[str], model: str, expected: int
) -> None:
    created = hooks.create(hook.url, events=patterns, model=model)
    for name in ("fraud-eu", "churn"):
        publish(hooks.api, name)
        promote(hooks.api, name, 1)
    hooks.event("empty")
    hooks.dispatch()
    assert len(hooks.deliveries(created)) == expected


def test_a_receiver_that_was_down_gets_everything_under_the_ids_it_had(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hook.behave = down
    for number in range(3):
        hooks.event(f"m{number}")
    assert hooks.send() == 3
    assert hooks.states(created) == ["pending"] * 3
    assert hooks.look(created)["failing_since"] is not None
    hook.behave = lambda handler: handler.answer(204)
    assert hooks.send() == 0
    hooks.pass_time(HOUR)
    assert hooks.send() == 3
    assert hooks.states(created) == ["delivered"] * 3
    assert hooks.look(created)["failing_since"] is None
    ids = [got.headers["webhook-id"] for got in hook.received]
    assert set(ids[:3]) == set(ids[3:]) == {each["id"] for each in hooks.deliveries(created)}
    first = hooks.detail(created, hooks.deliveries(created)[0])
    assert [(a["number"], a["status"]) for a in first["made"]] == [(1, 503), (2, 204)]


def test_each_attempt_says_when_it_was_made(hooks: Hooks, hook: Receiver) -> None:
    """A receiver refuses timestamps older than five minutes; the first attempt may be hours ago."""
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.dispatch()
    with hooks.database.write() as session:
        hour_ago = sa.select(DeliveryRow.created_at).scalar_subquery()
        at = session.scalars(sa.select(hour_ago)).one() - timedelta(seconds=HOUR)
        session.execute(sa.update(DeliveryRow).values(created_at=at))
    hooks.send()
    Webhook(created["secret"]).verify(hook.received[0].body, hook.received[0].headers)


def fail_until_dead(hooks: Hooks, rules: Rules = RULES, *, step_s: float = HOUR) -> None:
    hooks.dispatch()
    while any_pending(hooks):
        hooks.send(rules)
        hooks.pass_time(step_s)


def any_pending(hooks: Hooks) -> bool:
    with hooks.database.read() as session:
        return bool(session.scalars(sa.select(DeliveryRow).where(DeliveryRow.state == "pending")).first())


def test_after_a_day_of_failures_a_delivery_is_dead_and_can_be_redelivered(
    hooks: Hooks, hook: Receiver
) -> None:
    created = hooks.create(hook.url)
    hook.behave = down
    hooks.event("m")
    fail_until_dead(hooks)
    (dead,) = hooks.deliveries(created)
    assert (dead["state"], dead["next_at"]) == ("dead", None)
    assert dead["attempts"] == 25
    hooks.pass_time(DAY)
    assert hooks.send() == 0
    url = f"/api/v1/webhooks/{created['id']}/deliveries/{dead['id']}/redeliver"
    assert hooks.api.post(url).json()["state"] == "pending"
    hooks.send()
    hooks.pass_time(2 * HOUR)
    assert hooks.states(created) == ["pending"], "it has a day again"
    hook.behave = lambda handler: handler.answer(200)
    hooks.send()
    (delivered,) = hooks.deliveries(created)
    assert (delivered["id"], delivered["state"]) == (dead["id"], "delivered")
    assert delivered["attempts"] == dead["attempts"] + 2
    assert {got.headers["webhook-id"] for got in hook.received} == {dead["id"]}


def test_after_so_many_tries_it_is_dead_as_well(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hook.behave = down
    hooks.event("m")
    fail_until_dead(hooks, Steady(first_s=1, cap_s=1, tries=3, give_up_s=DAY, deactivate_s=DAY))
    assert [(d["state"], d["attempts"]) for d in hooks.deliveries(created)] == [("dead", 3)]


def test_what_was_delivered_can_be_delivered_again(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.send()
    (sent,) = hooks.deliveries(created)
    hooks.api.post(f"/api/v1/webhooks/{created['id']}/deliveries/{sent['id']}/redeliver")
    assert hooks.send() == 1
    assert hook.received[0].body == hook.received[1].body
    assert hook.received[0].headers["webhook-id"] == hook.received[1].headers["webhook-id"]


def test_what_waits_can_be_sent_at_once(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hook.behave = down
    hooks.event("m")
    hooks.send(Steady(first_s=1e6, cap_s=1e6, tries=9, give_up_s=DAY, deactivate_s=DAY))
    hook.behave = lambda handler: handler.answer(200)
    (waiting,) = hooks.deliveries(created)
    hooks.api.post(f"/api/v1/webhooks/{created['id']}/deliveries/{waiting['id']}/redeliver")
    hooks.send()
    assert hooks.states(created) == ["delivered"]


def test_a_webhook_that_nothing_reaches_for_days_is_deactivated(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hook.behave = down
    for day in range(3):
        hooks.event(f"m{day}")
        fail_until_dead(hooks, step_s=DAY)
    found = hooks.look(created)
    assert (found["active"], found["inactive_reason"]) == (False, "failing")
    with hooks.database.read() as session:
        (told,) = audit.entries(session, action="webhook.deactivated", limit=9).items
    assert (told.actor, told.workspace, told.resource) == (
        "modelyard",
        "default",
        f"webhooks/{created['id']}",
    )
    hooks.event("unheard")
    assert hooks.dispatch() == 0


def test_one_success_starts_the_days_anew(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    for day in range(3):
        hook.behave = down
        hooks.event(f"m{day}")
        fail_until_dead(hooks, step_s=DAY)
        hook.behave = lambda handler: handler.answer(200)
        hooks.event(f"n{day}")
        hooks.send()
    assert hooks.look(created)["active"]


def test_a_receiver_that_says_gone_hears_no_more(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hook.behave = lambda handler: handler.answer(410)
    hooks.event("m")
    hooks.send()
    assert hooks.states(created) == ["dead"]
    found = hooks.look(created)
    assert (found["active"], found["inactive_reason"]) == (False, "gone")


def test_an_inactive_webhook_is_told_of_nothing_and_starts_anew(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("waiting")
    hooks.dispatch()
    url = f"/api/v1/webhooks/{created['id']}"
    assert hooks.api.patch(url, json={"active": False}).json()["active"] is False
    hooks.event("unheard")
    assert hooks.send() == 0
    hooks.api.patch(url, json={"active": True})
    hooks.event("heard")
    assert hooks.send() == 2
    assert [each["model"] for each in hooks.deliveries(created)] == ["waiting", "heard"]


def test_a_ping_is_tried_once(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url, events=["version.created"])
    url = f"/api/v1/webhooks/{created['id']}/test"
    first = hooks.api.post(url)
    assert (first.status_code, first.json()["event"], first.json()["revision"]) == (202, "webhook.ping", None)
    assert hooks.api.post(url).json()["id"] == first.json()["id"], "one ping at a time"
    hook.behave = down
    hooks.send()
    assert hooks.states(created) == ["dead"]
    hook.behave = lambda handler: handler.answer(200)
    hooks.api.post(url)
    hooks.send()
    assert hooks.states(created) == ["dead", "delivered"]
    told = Webhook(created["secret"]).verify(hook.received[1].body, hook.received[1].headers)
    assert (told["type"], told["data"]) == ("webhook.ping", {"webhook": created["id"]})


def test_failures_are_told_by_class_and_nothing_of_the_answer_is_kept(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(f"http://127.0.0.1:{free_port()}/")
    hooks.event("m")
    hooks.send()
    (failed,) = hooks.detail(created, hooks.deliveries(created)[0])["made"]
    assert (failed["status"], failed["failure"]) == (None, "unreachable")
    hooks.api.patch(f"/api/v1/webhooks/{created['id']}", json={"url": hook.url})
    hook.behave = lambda handler: handler.answer(500, b"the-body-of-the-answer", X="a-header-of-it")
    hooks.pass_time(HOUR)
    hooks.send()
    answer = hooks.detail(created, hooks.deliveries(created)[0])
    assert answer["made"][1]["status"] == 500
    assert not {"the-body-of-the-answer", "a-header-of-it"} & set(str(answer).split("'"))


def test_many_dispatchers_at_once_neither_lose_nor_double(
    hooks: Hooks, hook: Receiver, settings: Settings
) -> None:
    """Four of them, each in an application of its own as in processes of their own, while events happen."""
    created = [hooks.create(hook.url, description=str(number)) for number in range(3)]
    over = threading.Event()
    others = [create_app(settings) for _ in range(4)]

    def dispatch(app: FastAPI) -> int:
        made = 0
        while not over.is_set():
            made += outbox.dispatch(app.state.database, give_up_s=DAY)
        return made + outbox.dispatch(app.state.database, give_up_s=DAY)

    with ThreadPoolExecutor(8) as pool:
        dispatching = [pool.submit(dispatch, app) for app in others]
        list(pool.map(hooks.event, [f"m{number}" for number in range(40)]))
        over.set()
        made = sum(each.result() for each in dispatching)
    assert made == 3 * 40
    for webhook in created:
        assert sorted(d["revision"] for d in hooks.deliveries(webhook)) == list(range(1, 41))
    for app in others:
        app.state.database.close()


def test_many_senders_at_once_send_each_delivery_once_and_one_at_a_time(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    for number in range(20):
        hooks.event(f"m{number}")
    hooks.dispatch()
    free, overlap = threading.Lock(), threading.Event()

    def watch(handler: Handler) -> None:
        if free.acquire(blocking=False):
            overlap.wait(0.02)  # room for another to come, if one can
            free.release()
        else:
            overlap.set()
        handler.answer(204)

    hook.behave = watch

    def send_all(_: int) -> None:
        sender = hooks.sender()
        while any_pending(hooks):
            if (claim := queue.claim(hooks.database, slow=True)) is not None:
                sender.deliver(claim)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send_all, range(4)))
    assert hooks.states(created) == ["delivered"] * 20
    ids = [got.headers["webhook-id"] for got in hook.received]
    assert (len(ids), len(set(ids)), overlap.is_set()) == (20, 20, False)


def test_a_webhook_has_one_delivery_under_way_in_all_processes(hooks: Hooks, hook: Receiver) -> None:
    hooks.create(hook.url)
    hooks.event("m")
    hooks.event("n")
    hooks.dispatch()
    assert queue.claim(hooks.database, slow=True) is not None
    assert queue.claim(hooks.database, slow=True) is None


def test_what_the_first_look_could_not_see_yet_the_look_under_the_lock_does(
    hooks: Hooks, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL, a statement that waited for nobody may still have looked before another sender's commit."""
    hooks.create(hook.url)
    hooks.event("m")
    hooks.event("n")
    hooks.dispatch()
    assert queue.claim(hooks.database, slow=True) is not None
    monkeypatch.setattr(queue, "_waiting", lambda **_: sa.select(WebhookRow))
    assert queue.claim(hooks.database, slow=True) is None


def test_what_a_dead_sender_had_claimed_is_anothers_when_the_claim_lapses(
    hooks: Hooks, hook: Receiver
) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.dispatch()
    claimed = queue.claim(hooks.database, slow=True)
    assert claimed is not None
    assert hooks.send() == 0
    hooks.pass_time(CLAIM_S)
    assert hooks.send() == 1
    assert hooks.states(created) == ["delivered"]
    late = queue.settle(hooks.database, claimed, Outcome(None, Failure.TIMEOUT, 1), RULES)
    assert late is None, "who has lost the claim has no say"
    assert hooks.states(created) == ["delivered"]


def test_a_webhook_that_is_deleted_meanwhile_takes_all_with_it(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.event("n")
    hooks.dispatch()
    claimed = queue.claim(hooks.database, slow=True)
    assert claimed is not None
    assert hooks.api.delete(f"/api/v1/webhooks/{created['id']}").status_code == 204
    hooks.sender().deliver(claimed)
    assert hooks.send() == 0
    with hooks.database.read() as session:
        left = [session.scalars(sa.select(table)).all() for table in (WebhookRow, DeliveryRow, AttemptRow)]
    assert left == [[], [], []]


def test_webhooks_take_turns(hooks: Hooks, hook: Receiver) -> None:
    """The one with the longest queue does not come first every time."""
    long, short = hooks.create(hook.url, model="a*"), hooks.create(hook.url, model="b*")
    for name in ("a1", "a2", "a3", "b1"):
        hooks.event(name)
    hooks.dispatch()
    order = []
    while (claim := queue.claim(hooks.database, slow=True)) is not None:
        order.append({long["id"]: "long", short["id"]: "short"}[claim.webhook_id])
        hooks.sender().deliver(claim)
    assert sorted(order[:2]) == ["long", "short"]


@pytest.mark.parametrize(("status", "duration_ms"), [(503, 1), (204, 2000)])
def test_who_is_not_known_to_be_quick_waits_behind_those_who_are(
    hooks: Hooks, hook: Receiver, status: int, duration_ms: int
) -> None:
    hooks.create(hook.url)
    hooks.event("first")
    hooks.dispatch()
    assert queue.claim(hooks.database, slow=False) is None, "nobody knows yet whether it is quick"
    hooks.send()
    hooks.event("m")
    hooks.event("n")
    hooks.dispatch()
    claimed = queue.claim(hooks.database, slow=False)
    assert claimed is not None
    queue.settle(hooks.database, claimed, Outcome(status, None, duration_ms), RULES)
    assert queue.claim(hooks.database, slow=False) is None
    again = queue.claim(hooks.database, slow=True)
    assert again is not None
    assert again.slow
    queue.settle(hooks.database, again, Outcome(204, None, 1), RULES)
    hooks.pass_time(HOUR)
    hooks.event("o")
    hooks.dispatch()
    assert queue.claim(hooks.database, slow=False) is not None


def test_deliveries_that_ended_long_ago_are_forgotten(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("old")
    hooks.send()
    hook.behave = down
    hooks.event("waiting")
    hooks.send(Steady(first_s=1e9, cap_s=1e9, tries=99, give_up_s=1e9, deactivate_s=1e9))
    hooks.pass_time(31 * DAY)
    hook.behave = lambda handler: handler.answer(204)
    hooks.event("new")
    hooks.send()
    kept: Any = {"keep_s": 30 * DAY, "stopping": threading.Event()}
    assert prune(hooks.database, **kept) == 1
    assert prune(hooks.database, **kept) == 0
    assert [each["model"] for each in hooks.deliveries(created)] == ["waiting", "new"]
    with hooks.database.read() as session:
        assert len(session.scalars(sa.select(AttemptRow)).all()) == 2


def test_a_secret_that_cannot_be_read_is_a_failure_and_not_a_crash(hooks: Hooks, hook: Receiver) -> None:
    created = hooks.create(hook.url)
    hooks.event("m")
    hooks.dispatch()
    claimed = queue.claim(hooks.database, slow=True)
    assert claimed is not None
    Sender(hooks.database, Vault(b"another key", WEBHOOKS), hooks.service.reach, RULES).deliver(claimed)
    assert hook.received == []
    (failed,) = hooks.detail(created, hooks.deliveries(created)[0])["made"]
    assert failed["failure"] == "secret_unreadable"
    hooks.pass_time(HOUR)
    hooks.send()
    assert hooks.states(created) == ["delivered"]


@pytest.fixture
def running(settings: Settings) -> Iterator[Hooks]:
    """A registry that sends by itself, when it is told and never else."""
    app = create_app(with_webhooks(settings, webhook_poll_s=3600, webhook_senders=4))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        yield Hooks(app, api)


def test_an_event_is_sent_without_anybody_looking(running: Hooks, hook: Receiver) -> None:
    created = running.create(hook.url)
    publish(running.api, "fraud")
    hook.wait_for(1)
    wait_until(
        lambda: running.states(created) == ["delivered"], timeout_s=30, what="the delivery to be settled"
    )


def test_pings_and_redeliveries_are_sent_at_once(running: Hooks, hook: Receiver) -> None:
    created = running.create(hook.url)
    running.api.post(f"/api/v1/webhooks/{created['id']}/test")
    hook.wait_for(1)
    wait_until(lambda: running.states(created) == ["delivered"], timeout_s=30, what="the ping to be settled")
    (sent,) = running.deliveries(created)
    running.api.post(f"/api/v1/webhooks/{created['id']}/deliveries/{sent['id']}/redeliver")
    hook.wait_for(2)


def test_receivers_that_hang_do_not_delay_the_others(
    running: Hooks, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are senders: two of these leave alone who is not known to be quick."""
    monkeypatch.setattr(sender, "TIMEOUT_S", 120)  # nobody is given up before the test is over
    over = threading.Event()

    def hang(handler: Handler) -> None:
        over.wait(120)
        handler.answer(204)

    with receiver(hang) as bad:
        good = running.create(hook.url)
        running.event("first")
        hook.wait_for(1)
        wait_until(
            lambda: running.states(good) == ["delivered"], timeout_s=30, what="it to be known as quick"
        )
        for _ in range(8):
            running.create(bad.url)
        for number in range(5):
            running.event(f"m{number}")
            hook.wait_for(number + 2)
        wait_until(lambda: running.states(good) == ["delivered"] * 6, timeout_s=30, what="all to be settled")
        assert len(bad.wait_for(2)) == 2
        over.set()


def test_a_stop_waits_for_what_is_under_way(settings: Settings, hook: Receiver) -> None:
    under_way, over = threading.Event(), threading.Event()

    def hold(handler: Handler) -> None:
        under_way.set()
        over.wait(30)
        handler.answer(204)

    hook.behave = hold
    app = create_app(with_webhooks(settings, webhook_poll_s=3600))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        hooks = Hooks(app, api)
        created = hooks.create(hook.url)
        hooks.event("m")
        assert under_way.wait(30)
        threading.Timer(0.1, over.set).start()
    after = create_app(settings)
    with TestClient(after, base_url=BASE, headers=ADMIN) as api:
        assert Hooks(after, api).states(created) == ["delivered"]
