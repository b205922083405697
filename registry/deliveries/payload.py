"""What a receiver is told: the event as the change feed shows it. Each attempt sends the same bytes.

{"type": "pointer.moved", "timestamp": "…Z", "data": {"revision": 7, "kind": "pointer.moved", "model": "fraud", "data": {…}, "at": "…Z"}}
"""

from datetime import datetime
from typing import Any

from registry.domain import canonical_json
from registry.tables import EventRow

PING = "webhook.ping"


def of_event(event: EventRow) -> bytes:
    told = {"revision": event.revision, "kind": event.kind, "model": event.model, "data": event.data}
    return _body(event.kind, event.at, {**told, "at": _time(event.at)})


def of_ping(webhook: str, at: datetime) -> bytes:
    return _body(PING, at, {"webhook": webhook})


def _body(kind: str, at: datetime, data: dict[str, Any]) -> bytes:
    return canonical_json({"type": kind, "timestamp": _time(at), "data": data})


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
