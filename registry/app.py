"""The composition root: settings in, a web application out. The only place that chooses database and storage."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI

from registry import __version__
from registry.database import Database
from registry.events import Notifier
from registry.http import errors, events, health, models, pointers, schemas, versions
from registry.http.deps import authenticated
from registry.http.strict import Gate
from registry.settings import Settings
from storage import open_store

DESCRIPTION = """\
Keeps trained models, decides which version is in production, and tells whoever serves it.

* A **version** is immutable and numbered within its **model**. Announce files (`uploads`), send the bytes that are
  asked for, then create the version.
* A **pointer** (a stage or an alias) holds at most one version. Promotion moves it; its generation grows by one each
  time, and a caller may name the generation that it expects.
* Every change is an **event** with a revision number; `GET /api/v1/events` waits for the next.

Every error is `application/problem+json` with a stable `code`.
"""

log = logging.getLogger("modelyard.registry")


def create_app(settings: Settings) -> FastAPI:
    """Wire everything. Nothing is contacted before the application starts."""
    notifier = Notifier()
    database = Database(settings.database_url, announce=notifier.announce)
    store = open_store(settings.storage_url)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        notifier.start()
        others = asyncio.create_task(
            notifier.follow_other_processes(database, settings.feed_poll_s, log.warning)
        )
        try:
            yield
        finally:
            notifier.close()
            others.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await others
            store.close()
            database.close()

    app = FastAPI(
        title="Modelyard registry",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses={
            "4XX": {"model": schemas.ProblemDetails, "content": {"application/problem+json": {}}},
            "5XX": {"model": schemas.ProblemDetails, "content": {"application/problem+json": {}}},
        },
        redoc_url=None,
    )
    app.state.settings, app.state.database, app.state.store, app.state.notifier = (
        settings,
        database,
        store,
        notifier,
    )
    app.add_middleware(Gate, loopback_only=settings.token is None)
    errors.install(app)
    app.include_router(health.router)
    for noun in (models, versions, pointers, events):
        app.include_router(noun.router, dependencies=[Depends(authenticated)])
    return app
