"""Is it alive, is it ready. The only answers that need no token."""

import logging

import sqlalchemy as sa
from fastapi import APIRouter, Request

from registry.errors import DatabaseUnavailable, StoreUnavailable
from registry.http import schemas
from registry.http.deps import Db, Store
from registry.http.errors import Problem, problem
from registry.migrate import current_revision, head_revision
from storage.errors import StorageError

router = APIRouter(tags=["health"])
log = logging.getLogger("modelyard.registry")


@router.get("/healthz", response_model=schemas.Health)
def alive() -> schemas.Health:
    """The process answers."""
    return schemas.Health(status="ok")


@router.get(
    "/readyz",
    response_model=schemas.Health,
    responses={503: {"model": schemas.ProblemDetails, "content": {"application/problem+json": {}}}},
)
def ready(request: Request, database: Db, store: Store) -> schemas.Health | Problem:
    """Database and blob store answer, and the schema is the one that this code knows."""
    try:
        with database.read() as session:
            if current_revision(session.connection()) != head_revision():
                return problem(request, 503, "not_migrated", "Run `modelyard-registry migrate`.")
        store.check()
    except (DatabaseUnavailable, sa.exc.DBAPIError):
        log.exception("not ready: database")
        return problem(request, 503, DatabaseUnavailable.code, "The database does not answer.")
    except StorageError:
        log.exception("not ready: blob store")
        return problem(request, 503, StoreUnavailable.code, "The blob store does not answer.")
    return schemas.Health(status="ok")
