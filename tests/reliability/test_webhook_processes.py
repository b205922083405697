"""Webhooks sent by real processes, several at once, some of which are killed."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from registry.database import Database
from registry.webhook_tables import DeliveryRow
from tests.servers.app import ADMIN
from tests.servers.ports import wait_until
from tests.servers.receiver import Handler, Receiver, receiver
from tests.servers.registry import Registry
from tests.servers.webhooks import LOOPBACK

SECRET_KEY = "a-key-of-thirty-two-characters-or-more"
ENVIRONMENT = {
    "MODELYARD_REGISTRY_SECRET_KEY": SECRET_KEY,
    "MODELYARD_REGISTRY_WEBHOOK_ALLOW": json.dumps(LOOPBACK),
    "MODELYARD_REGISTRY_WEBHOOK_POLL_S": "0.1",
}
Start = Callable[..., Registry]


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as started:
        yield started


@pytest.fixture
def start(start_registry: Start, database_url: str) -> Start:
    """Registries that share a database."""
    return lambda **more: start_registry(database_url=database_url, environment=ENVIRONMENT | more)


def call(registry: Registry, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{registry.url}/api/v1{path}", json=body, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def deliveries(registry: Registry, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"{registry.url}/api/v1/webhooks/{webhook['id']}/deliveries"
    answer = httpx2.get(url, params={"limit": 1000}, headers=ADMIN)
    return list(reversed(answer.json()["items"]))


def wait_delivered(registry: Registry, webhook: dict[str, Any], count: int) -> None:
    def all_delivered() -> bool:
        return [each["state"] for each in deliveries(registry, webhook)] == ["delivered"] * count

    wait_until(all_delivered, timeout_s=60, what=f"{count} deliveries")


def let_claims_lapse(database: Database) -> None:
    """As if the claim's time were over."""
    with database.write() as session:
        claimed = DeliveryRow.claimed_until.is_not(None)
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(sa.update(DeliveryRow).where(claimed).values(claimed_until=past))


@pytest.mark.parametrize(
    ("failpoint", "sent"),
    [("dispatch.before_commit", 1), ("deliver.before_send", 1), ("deliver.after_send", 2)],
)
def test_what_a_killed_registry_left_another_one_sends(
    start: Start, database: Database, hook: Receiver, failpoint: str, sent: int
) -> None:
    dying = start(MODELYARD_FAILPOINTS=f"{failpoint}=kill")
    webhook = call(dying, "/webhooks", url=hook.url)
    call(dying, "/models", name="m")
    assert dying.process is not None
    assert dying.process.wait(30) == -9
    heir = start()
    let_claims_lapse(database)
    wait_delivered(heir, webhook, 1)
    (delivery,) = deliveries(heir, webhook)
    assert [got.headers["webhook-id"] for got in hook.received] == [delivery["id"]] * sent


def test_a_registry_killed_while_the_receiver_thinks(
    start: Start, database: Database, hook: Receiver
) -> None:
    over = threading.Event()

    def think(handler: Handler) -> None:
        over.wait(30)
        handler.answer(204)

    hook.behave = think
    first, second = start(), start()
    webhook = call(first, "/webhooks", url=hook.url)
    call(first, "/models", name="m")
    hook.wait_for(1)
    for registry in (first, second):  # whichever has it
        registry.kill()
    heir = start()
    let_claims_lapse(database)
    hook.wait_for(2)
    over.set()
    wait_delivered(heir, webhook, 1)
    assert len({got.headers["webhook-id"] for got in hook.received}) == 1


def test_two_registries_share_the_work_and_send_everything_once(start: Start, hook: Receiver) -> None:
    registries = [start(), start()]
    webhook = call(registries[0], "/webhooks", url=hook.url)
    for number in range(30):
        call(registries[number % 2], "/models", name=f"m{number}")
    wait_delivered(registries[0], webhook, 30)
    ids = [got.headers["webhook-id"] for got in hook.received]
    assert sorted(ids) == sorted(each["id"] for each in deliveries(registries[1], webhook))


def test_no_log_has_the_secret_or_the_query_of_the_url(start: Start, hook: Receiver) -> None:
    registry = start()
    hook.behave = lambda handler: handler.answer(500)
    webhook = call(registry, "/webhooks", url=f"{hook.url}?token=t0ken-in-the-url")
    call(registry, "/models", name="m")
    wait_until(
        lambda: any(d["attempts"] for d in deliveries(registry, webhook)), timeout_s=30, what="an attempt"
    )
    registry.stop()
    log = (registry.home / "registry.log").read_text()
    assert webhook["id"] in log
    for secret in (
        webhook["secret"],
        webhook["secret"].removeprefix("whsec_"),
        "t0ken-in-the-url",
        SECRET_KEY,
    ):
        assert secret not in log
