"""The service itself and its change feed, by long polling: the one asynchronous use case, see registry/events.py."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query

from registry import __version__, events
from registry.access import Caller
from registry.database import Database
from registry.domain import MAX_SIZE
from registry.http import schemas
from registry.http.deps import Changes, Config, Db, Identified, Reader
from registry.http.strict import StrictRoute

router = APIRouter(prefix="/api/v1", tags=["events"], route_class=StrictRoute)


@router.get("", response_model=schemas.Service)
def service(database: Db, _caller: Identified) -> schemas.Service:
    """What answers here, and the newest revision of the change feed."""
    with database.read() as session:
        revision = events.latest_revision(session)
    return schemas.Service(service="modelyard-registry", version=__version__, revision=revision)


@router.get("/events", response_model=schemas.Feed)
async def watch(
    database: Db,
    caller: Reader,
    notifier: Changes,
    settings: Config,
    since: Annotated[int, Query(ge=0, le=MAX_SIZE, description="answer with what came after this revision")],
    wait: Annotated[
        float, Query(ge=0, le=3600, description="seconds to wait for an event; capped by the server")
    ] = 0,
    model: Annotated[list[str] | None, Query(max_length=200, description="only of these models")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> schemas.Feed:
    """Events after a revision; with `wait`, the answer comes as soon as there is one.

    A watcher that asks from a revision above the registry's own (a database restored from backup, say) is answered at
    once with the registry's: look at everything again.
    """
    feed = await to_thread.run_sync(_read, database, caller, since, model or [], limit)
    if feed.events or not wait or feed.revision < since:
        return feed
    await notifier.wait_beyond(feed.revision, min(wait, settings.max_watch_s))
    return await to_thread.run_sync(_read, database, caller, since, model or [], limit)


def _read(database: Database, caller: Caller, since: int, models: list[str], limit: int) -> schemas.Feed:
    with database.read() as session:
        revision, found = events.events_since(session, caller, since, models, limit)
        return schemas.Feed(
            revision=revision, events=[schemas.Event.model_validate(event) for event in found]
        )
