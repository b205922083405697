"""What handlers ask for: the database, the blob store, the settings, and who is calling.

Every route names the one permission that it needs, by the type of its caller (`caller: Reader`). A Guard is asked before
anything of the body is read, see strict.py; a route without one cannot be made.

Handlers open the transaction themselves (`with database.write() as session`), so the commit is a visible line that is
over before the answer leaves. A session from a dependency would be taken and returned by other threads of the pool
than the one that uses it: when all threads wait for the writer's lock, none is left for the writer.

What is handed out here is at hand: these functions are asynchronous because FastAPI sends others through a thread each.
"""

from typing import Annotated, cast

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from registry.access import NOBODY, Caller, Permission, require
from registry.background import Background
from registry.database import Database
from registry.deliveries.service import Deliveries
from registry.feed import Feed
from registry.identify import DEFAULT, Identities
from registry.oidc import Providers
from registry.settings import Settings
from registry.uploads import open_upload
from registry.vault import WEBHOOKS, Vault
from registry.watch import LookAgain
from storage import BlobStore

# Declared for the OpenAPI document; the guards decide.
_bearer = HTTPBearer(auto_error=False, description="An API token.")


async def _database(request: Request) -> Database:
    return cast("Database", request.app.state.database)


async def _store(request: Request) -> BlobStore:
    return cast("BlobStore", request.app.state.store)


async def _settings(request: Request) -> Settings:
    return cast("Settings", request.app.state.settings)


async def _feed(request: Request) -> Feed:
    return cast("Feed", request.app.state.feed)


async def _verifier(request: Request) -> Background:
    return cast("Background", request.app.state.verifier)


async def _issuers(request: Request) -> Providers:
    return cast("Providers", request.app.state.issuers)


async def _key(request: Request) -> bytes:
    return cast("bytes", request.app.state.key)


async def _deliveries(request: Request) -> Deliveries:
    return cast("Deliveries", request.app.state.deliveries)


async def _webhook_secrets(request: Request) -> Vault:
    return Vault(await _key(request), WEBHOOKS)


class Guard:
    """Lets a request pass if its caller has `permission` for the model in the path, or else for some model."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(
        self, request: Request, _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        return cast("Caller", request.scope["caller"])

    def admit(self, request: Request) -> None:
        """Find out who is calling, and whether they may. Raises Unauthorized, NotFound, Forbidden or TooManyRequests."""
        caller = request.scope["caller"] = _identities(request).caller(*_asked(request))
        require(caller, self.permission, self._model(request, caller))

    def admit_at_once(self, request: Request) -> bool:
        """The same for whoever has asked a moment ago; False: that takes the database, and so a thread."""
        caller = _identities(request).caller_at_once(*_asked(request))
        if caller is None:
            return False
        request.scope["caller"] = caller
        require(caller, self.permission, self._model(request, caller))
        return True

    def _model(self, request: Request, caller: Caller) -> str | None:  # noqa: ARG002 - other guards need it
        model: str | None = request.path_params.get("model")
        return model


class OpenGuard(Guard):
    """Lets everybody pass, as somebody without a name and without rights: this is where one gets a token."""

    def __init__(self) -> None:
        super().__init__(Permission.NONE)

    async def __call__(self, request: Request) -> Caller:  # type: ignore[override]  # the document is not to ask for a token
        return cast("Caller", request.scope["caller"])

    def admit(self, request: Request) -> None:
        """Nothing is looked up: strangers learn nothing, not even which workspaces there are."""
        scope = request.scope
        workspace, request_id = scope.get("workspace", DEFAULT), scope.get("request_id", "")
        scope["caller"] = Caller(NOBODY, workspace, workspace_id=0, request_id=request_id)

    def admit_at_once(self, request: Request) -> bool:
        """Always."""
        self.admit(request)
        return True


class UploadGuard(Guard):
    """An upload is its creator's, who must still have the right to publish the model."""

    def admit_at_once(self, request: Request) -> bool:  # noqa: ARG002 - which model it is of is in the database
        """Never."""
        return False

    def _model(self, request: Request, caller: Caller) -> str:
        database = cast("Database", request.app.state.database)
        with database.read() as session:
            return open_upload(session, caller, request.path_params["upload"]).model


def _identities(request: Request) -> Identities:
    return cast("Identities", request.app.state.identities)


def _asked(request: Request) -> tuple[str | None, str, str]:
    scope = request.scope
    return request.headers.get("authorization"), scope.get("workspace", DEFAULT), scope.get("request_id", "")


async def _look_again(request: Request) -> LookAgain:
    identities = _identities(request)
    authorization, workspace, _ = _asked(request)

    async def look() -> Caller:
        caller = identities.remembered(authorization, workspace)
        if caller is None:
            caller = await to_thread.run_sync(identities.known, authorization, workspace)
        require(caller, Permission.READ)
        return caller

    return look


Db = Annotated[Database, Depends(_database)]
Store = Annotated[BlobStore, Depends(_store)]
Config = Annotated[Settings, Depends(_settings)]
Changes = Annotated[Feed, Depends(_feed)]
StillReader = Annotated[LookAgain, Depends(_look_again)]
SecretKey = Annotated[bytes, Depends(_key)]
Sending = Annotated[Deliveries, Depends(_deliveries)]
WebhookSecrets = Annotated[Vault, Depends(_webhook_secrets)]
Verifying = Annotated[Background, Depends(_verifier)]
Issuers = Annotated[Providers, Depends(_issuers)]

Stranger = Annotated[Caller, Depends(OpenGuard())]
Identified = Annotated[Caller, Depends(Guard(Permission.IDENTIFIED))]
Reader = Annotated[Caller, Depends(Guard(Permission.READ))]
Reporter = Annotated[Caller, Depends(Guard(Permission.REPORT))]
Publisher = Annotated[Caller, Depends(Guard(Permission.PUBLISH))]
Uploader = Annotated[Caller, Depends(UploadGuard(Permission.PUBLISH))]
Promoter = Annotated[Caller, Depends(Guard(Permission.PROMOTE))]
Owner = Annotated[Caller, Depends(Guard(Permission.OWN))]
Admin = Annotated[Caller, Depends(Guard(Permission.ADMIN))]
Administrator = Annotated[Caller, Depends(Guard(Permission.ADMINISTER))]
