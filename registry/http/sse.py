"""Server-sent events: the answer of a stream, and how pages of the feed are written into it.

    retry: 1723          when to come back: not all at the same moment
    id: 17               where to go on; also without an event, as others may have passed that were not for this stream

    id: 18
    event: pointer.moved
    data: {…}

The server waits until the client has taken what was sent before it looks for more, so a slow client costs no memory, and
one that takes nothing for long is left.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Send

from registry.errors import RegistryError
from registry.events import Look
from registry.feed import Told

STALL_S = 30.0
"""After so long a client that takes nothing is left; it may come back, and go on where it was."""

NOT_BUFFERED = {"X-Accel-Buffering": "no"}
"""For proxies that collect an answer before they pass it on."""

FRAMES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "retry": {"type": "integer", "minimum": 0},
        },
    },
}
"""What the OpenAPI document says of a stream, as version 3.2 has it: the events that it consists of."""

log = logging.getLogger("modelyard.registry")


class EventStream(StreamingResponse):
    """A response that ends with its client, or when that stalls."""

    body_iterator: AsyncGenerator[bytes]
    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send all of it."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        async with aclosing(self.body_iterator) as chunks:
            await send(start)
            try:
                async for chunk in chunks:
                    async with asyncio.timeout(STALL_S):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                log.info("a client of the change feed takes nothing any more")
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def frames(first: Look[Told], looks: AsyncGenerator[Look[Told]]) -> AsyncGenerator[bytes]:
    """The text of a stream. What ends it, says the answer to the client's next attempt."""
    try:
        async with aclosing(looks):
            yield b"retry: %d\n%b" % (random.randint(1000, 3000), _frames(first))  # noqa: S311 - no secret, only spread
            async for look in looks:
                yield _frames(look)
    except RegistryError as error:
        log.info("a stream of events ends: %s", error.code)


def _frames(look: Look[Told]) -> bytes:
    written = [
        b"id: %d\nevent: %b\ndata: %b\n\n" % (told.revision, told.kind.encode(), told.text)
        for told in look.events
    ]
    if not look.events or look.revision > look.events[-1].revision:
        written.append(b": \nid: %d\n\n" % look.revision)
    return b"".join(written)
