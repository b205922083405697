"""A registry whose webhooks are sent by hand, one step at a time, and whose clock can be moved on."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry.database import Database
from registry.deliveries import outbox, queue
from registry.deliveries.queue import Rules
from registry.deliveries.sender import Sender
from registry.deliveries.service import Deliveries
from registry.settings import Settings
from registry.vault import WEBHOOKS, Vault
from registry.webhook_tables import DeliveryRow, WebhookRow

LOOPBACK = ("http://127.0.0.0/8",)
HOUR, DAY = 3600, 86400


class Steady(Rules):
    """Pauses as long as they may be, so that a test knows when what is due."""

    def pause_s(self, tries: int) -> float:
        return min(self.cap_s, self.first_s * 2.0 ** (tries - 1))


RULES = Steady(first_s=10, cap_s=HOUR, tries=100, give_up_s=DAY, deactivate_s=3 * DAY)


def with_webhooks(settings: Settings, **more: Any) -> Settings:
    """Settings of a registry that sends nothing by itself, and may send to loopback."""
    return settings.model_copy(update={"webhook_allow": LOOPBACK, "webhook_poll_s": 0, **more})


@dataclass
class Hooks:
    """The webhooks of one registry, through its API and from behind it."""

    app: FastAPI
    api: TestClient

    @property
    def database(self) -> Database:
        return self.app.state.database  # type: ignore[no-any-return]  # the state of an application has no types

    @property
    def service(self) -> Deliveries:
        return self.app.state.deliveries  # type: ignore[no-any-return]  # as above

    def create(self, url: str, **more: Any) -> dict[str, Any]:
        """A webhook, with its secret."""
        answer = self.api.post("/api/v1/webhooks", json={"url": url, **more})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def look(self, webhook: dict[str, Any]) -> dict[str, Any]:
        return dict(self.api.get(f"/api/v1/webhooks/{webhook['id']}").json())

    def event(self, model: str) -> None:
        """Something that happens, as an event of the kind model.created."""
        assert self.api.post("/api/v1/models", json={"name": model}).status_code == 201

    def deliveries(self, webhook: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
        """Oldest first."""
        answer = self.api.get(f"/api/v1/webhooks/{webhook['id']}/deliveries", params={"limit": 1000, **query})
        assert answer.status_code == 200, answer.text
        return list(reversed(answer.json()["items"]))

    def detail(self, webhook: dict[str, Any], delivery: dict[str, Any]) -> dict[str, Any]:
        return dict(self.api.get(f"/api/v1/webhooks/{webhook['id']}/deliveries/{delivery['id']}").json())

    def states(self, webhook: dict[str, Any]) -> list[str]:
        return [each["state"] for each in self.deliveries(webhook)]

    def dispatch(self) -> int:
        return outbox.dispatch(self.database, give_up_s=RULES.give_up_s)

    def sender(self, rules: Rules = RULES) -> Sender:
        return Sender(self.database, Vault(self.app.state.key, WEBHOOKS), self.service.reach, rules)

    def send(self, rules: Rules = RULES) -> int:
        """Dispatch, and send all that is due; returns how many attempts it took."""
        self.dispatch()
        sender, made = self.sender(rules), 0
        while (claim := queue.claim(self.database, slow=True)) is not None:
            sender.deliver(claim)
            made += 1
        return made

    def pass_time(self, seconds: float) -> None:
        """As if so much time had passed: all that is to come, or was, is so much earlier."""
        moved = {
            WebhookRow: ("old_secret_until", "failing_since", "served_at"),
            DeliveryRow: ("next_at", "give_up_at", "claimed_until", "ended_at"),
        }
        with self.database.write() as session:
            for table, columns in moved.items():
                for row in session.scalars(sa.select(table)):
                    for column in columns:
                        at = getattr(row, column)
                        setattr(row, column, at and at - timedelta(seconds=seconds))
