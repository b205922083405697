"""A client of streams of server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.servers.app import ADMIN


@dataclass(frozen=True)
class Frame:
    """What stands between two empty lines. `data` is parsed; None: there was none."""

    id: int | None
    event: str | None
    data: Any
    retry: int | None
    comment: bool


@contextmanager
def streamed(
    url: str, headers: dict[str, str] = ADMIN, *, timeout_s: float = 30, **params: Any
) -> Iterator[Iterator[Frame]]:
    """The frames of /api/v1/events/stream at a registry."""
    with (
        httpx2.Client(timeout=timeout_s) as client,
        client.stream("GET", f"{url}/api/v1/events/stream", params=params, headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield frames(answer.iter_lines())


def frames(lines: Iterable[str]) -> Iterator[Frame]:
    """Parse a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            yield Frame(
                id=int(fields["id"]) if "id" in fields else None,
                event=fields.get("event"),
                data=json.loads(fields["data"]) if "data" in fields else None,
                retry=int(fields["retry"]) if "retry" in fields else None,
                comment="" in fields,
            )
            fields = {}


def events(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Those that say something."""
    return (frame for frame in frames if frame.data is not None)
