"""The service itself and its change feed: long polls and streams, the asynchronous use cases; see registry/watch.py."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from registry import __version__, events, watch
from registry.access import Caller, check_pattern
from registry.domain import MAX_SIZE
from registry.events import Look, Wanted
from registry.feed import Told
from registry.http import schemas
from registry.http.deps import Changes, Config, Db, Identified, Reader, StillReader
from registry.http.sse import FRAMES, NOT_BUFFERED, EventStream, frames
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1", tags=["events"], route_class=StrictRoute)

Models = Annotated[
    list[str] | None, Query(max_length=200, description="only of these models; `*` stands for any text")
]
Kinds = Annotated[
    list[str] | None, Query(max_length=50, description="only of these kinds; `*` stands for any text")
]


@router.get("", response_model=schemas.Service)
def service(database: Db, caller: Identified) -> schemas.Service:
    """What answers here, and the revision from which to follow the change feed."""
    with database.read() as session:
        revision = events.newest_seen(session, Wanted(caller))
    return schemas.Service(service="modelyard-registry", version=__version__, revision=revision)


@router.get("/events", response_model=schemas.Feed)
async def poll(
    request: Request,
    feed: Changes,
    settings: Config,
    caller: Reader,
    look_again: StillReader,
    since: Annotated[int, Query(ge=0, le=MAX_SIZE, description="answer with what came after this revision")],
    wait: Annotated[
        float, Query(ge=0, le=3600, description="seconds to wait for an event; capped by the server")
    ] = 0,
    model: Models = None,
    kind: Kinds = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """Events after a revision; with `wait`, the answer comes as soon as there is one. Ask from its `revision` next.

    Who asks from a revision above that of the answer (of a database restored from backup, say) is answered at once: look
    at everything again. Where events are not kept any more, the answer is 410 `events_trimmed`: again, look at everything.
    """
    wanted = _wanted(caller, model, kind)
    async with _leaving(request) as gone:
        place = await watch.poll(
            feed,
            since,
            wanted,
            limit=limit,
            wait_s=min(wait, settings.max_watch_s),
            look_again=look_again,
            gone=gone,
        )
    return Response(_feed_text(place), media_type="application/json")


@router.get(
    "/events/stream",
    response_class=EventStream,
    responses={200: {"content": {EventStream.media_type: {"schema": FRAMES, "itemSchema": FRAMES["items"]}}}},
)
async def stream(
    feed: Changes,
    settings: Config,
    caller: Reader,
    look_again: StillReader,
    since: Annotated[
        int | None, Query(ge=0, le=MAX_SIZE, description="begin after this revision; without: after now")
    ] = None,
    model: Models = None,
    kind: Kinds = None,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=MAX_SIZE, description="what a reconnecting browser sends; goes before `since`"),
    ] = None,
) -> EventStream:
    """Server-sent events: `id` is the revision, `event` the kind, `data` the event. It ends now and then: reconnect.

    410 `events_trimmed` and `revision_unknown` say: look at everything again, then follow from now on.
    """
    looks = watch.stream(
        feed,
        since if last_event_id is None else last_event_id,
        _wanted(caller, model, kind),
        most_s=settings.max_stream_s,
        look_again=look_again,
    )
    return EventStream(frames(await anext(looks), looks), headers=NOT_BUFFERED)


def _wanted(caller: Caller, models: Sequence[str] | None, kinds: Sequence[str] | None) -> Wanted:
    return Wanted(
        caller,
        tuple(check_pattern(pattern) for pattern in models or ()),
        tuple(check_pattern(pattern) for pattern in kinds or ()),
    )


def _feed_text(place: Look[Told]) -> bytes:
    # What schemas.Feed describes, of texts that are already there.
    return b'{"revision":%d,"events":[%b]}' % (place.revision, b",".join(told.text for told in place.events))


@asynccontextmanager
async def _leaving(request: Request) -> AsyncIterator["asyncio.Future[None]"]:
    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(leave())
    try:
        yield leaving
    finally:
        leaving.cancel()
