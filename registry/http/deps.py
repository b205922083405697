"""What handlers ask for: the database, the blob store, the settings, and who is calling.

Handlers open the transaction themselves (`with database.write() as session`), so the commit is a visible line that is
over before the answer leaves. A session from a dependency would be taken and returned by other threads of the pool
than the one that uses it: when all threads wait for the writer's lock, none is left for the writer.
"""

from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from registry.access import Caller, authenticate
from registry.background import Background
from registry.database import Database
from registry.events import Notifier
from registry.settings import Settings
from storage import BlobStore

# Declared for the OpenAPI document; authenticate() decides.
_bearer = HTTPBearer(auto_error=False, description="Needed when the registry was started with a token.")


def _database(request: Request) -> Database:
    return cast("Database", request.app.state.database)


def _store(request: Request) -> BlobStore:
    return cast("BlobStore", request.app.state.store)


def _settings(request: Request) -> Settings:
    return cast("Settings", request.app.state.settings)


def _notifier(request: Request) -> Notifier:
    return cast("Notifier", request.app.state.notifier)


def _verifier(request: Request) -> Background:
    return cast("Background", request.app.state.verifier)


def authenticated(
    request: Request, _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    token = _settings(request).token
    return authenticate(request.headers.get("authorization"), token.get_secret_value() if token else None)


Db = Annotated[Database, Depends(_database)]
Store = Annotated[BlobStore, Depends(_store)]
Config = Annotated[Settings, Depends(_settings)]
Changes = Annotated[Notifier, Depends(_notifier)]
Verifying = Annotated[Background, Depends(_verifier)]
WhoCalls = Annotated[Caller, Depends(authenticated)]
