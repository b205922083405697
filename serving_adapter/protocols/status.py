"""The adapter's own pages: GET / lists the paths, GET /status tells what is being served, and why."""

from collections.abc import Sequence
from typing import Any

from serving_adapter.protocols.http import Response, Route, answer
from serving_adapter.slots import Slots
from serving_adapter.upstream import Upstream

PATHS = ["/status", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/{model}/infer"]


class Status:
    """Two read-only pages."""

    def __init__(self, slots: Slots, upstream: Upstream) -> None:
        self._slots = slots
        self._upstream = upstream

    def route(self, path: Sequence[str]) -> Route | None:
        match path:
            case [""]:
                return Route(lambda: answer({"service": "modelyard-serve", "paths": PATHS}))
            case ["status"]:
                return Route(self._status)
        return None

    def _status(self) -> Response:
        reason = self._slots.why_not_ready()
        content: dict[str, Any] = {
            "ready": reason is None,
            "reason": reason,
            "registry": self._upstream.status(),
            "models": {slot.name: slot.status() for slot in self._slots.all()},
        }
        return answer(content)
