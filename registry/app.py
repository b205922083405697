"""The composition root: settings in, a web application out. The only place that chooses database and storage."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from anyio import to_thread
from fastapi import FastAPI

from registry import __version__, bootstrap
from registry.background import Background
from registry.database import Database
from registry.deliveries.service import open_deliveries
from registry.denials import Denials
from registry.feed import Feed
from registry.http import (
    auth,
    comparisons,
    deletions,
    deployments,
    errors,
    events,
    facts,
    freezes,
    health,
    models,
    pointers,
    policies,
    principals,
    publishers,
    requests,
    schemas,
    search,
    tokens,
    uploads,
    versions,
    webhooks,
    workspaces,
)
from registry.http.strict import PROBLEMS, Gate
from registry.identify import Identities
from registry.oidc import Providers
from registry.settings import Settings, is_loopback
from registry.upkeep import upkeep
from registry.vault import WEBHOOKS, Vault
from registry.verify import verify_all
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


def create_app(settings: Settings) -> FastAPI:
    """Wire everything. Nothing is contacted before the application starts."""
    feed = Feed(schemas.event_text, poll_s=settings.feed_poll_s, max_watchers=settings.max_watchers)

    def announce(revision: int) -> None:
        feed.announce(revision)
        deliveries.wake()

    database = Database(settings.database_url, announce=announce)
    deliveries = open_deliveries(settings, database)
    store = open_store(settings.storage_url)
    verify = partial(verify_all, database, store)
    verifier = Background("verifier", lambda stop: verify(stopping=stop), interval_s=settings.verify_poll_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        key = bootstrap.secret_key(settings, make=True)
        token = settings.token.get_secret_value() if settings.token is not None else None
        app.state.identities, app.state.key = Identities(database, key, token), key
        app.state.denials = Denials(database)
        try:
            await to_thread.run_sync(bootstrap.let_in, settings, database, key)
        except bootstrap.NotConfigured:
            store.close()
            database.close()
            raise
        workers = [verifier, *upkeep(settings, database, store, key)]
        feed.start(database)
        deliveries.start(Vault(key, WEBHOOKS))
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            await feed.stop()
            for stop in (deliveries.stop, *(worker.stop for worker in workers)):
                await to_thread.run_sync(stop)
            store.close()
            database.close()

    app = FastAPI(
        title="Modelyard registry",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=PROBLEMS,
        redoc_url=None,
    )
    app.state.settings, app.state.database, app.state.store = settings, database, store
    app.state.feed, app.state.verifier, app.state.deliveries = feed, verifier, deliveries
    app.state.issuers = Providers(settings.oidc)
    app.add_middleware(Gate, loopback_only=settings.token is None and is_loopback(settings.host))
    errors.install(app)
    app.include_router(health.router)
    for noun in (
        auth,
        models,
        uploads,
        versions,
        deletions,
        facts,
        comparisons,
        deployments,
        pointers,
        policies,
        requests,
        freezes,
        search,
        events,
        tokens,
        principals,
        publishers,
        workspaces,
        webhooks,
    ):
        # As they are: including them would have each application make each route anew, for its first request.
        app.router.routes.extend(noun.router.routes)
    return app
