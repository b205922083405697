"""Versions: upload, create, list, look, download."""

import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, BinaryIO, cast
from urllib.parse import quote

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from registry import browse, publish
from registry.domain import MAX_NUMBER, Facts, File, Variant
from registry.errors import StoreUnavailable
from registry.http import schemas
from registry.http.deps import Config, Db, Store, WhoCalls
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from storage.errors import StorageError

router = APIRouter(prefix="/api/v1", tags=["versions"], route_class=StrictRoute)

VersionNumber = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
CHUNK = 1024 * 1024

# Bytes move in threads of their own: slow uploads must not use up those that answer everything else.
_transfers = anyio.CapacityLimiter(32)


@router.post("/models/{model}/uploads", status_code=201, response_model=schemas.Upload, tags=["uploads"])
def begin_upload(
    model: str, body: schemas.UploadCreate, database: Db, store: Store, settings: Config, caller: WhoCalls
) -> schemas.Upload:
    """Announce files; the answer says which bytes are needed, and where to send them."""
    upload = publish.begin(
        database,
        store,
        model,
        _files(body.files),
        actor=caller.name,
        ttl_s=settings.upload_ttl_s,
        url_ttl_s=settings.url_ttl_s,
    )
    needs = [_need(upload.id, need) for need in upload.needs]
    return schemas.Upload(id=upload.id, expires_at=upload.expires_at, needs=needs)


@router.put("/uploads/{upload}/blobs/{digest}", status_code=204, tags=["uploads"])
async def send_bytes(
    upload: str, digest: str, request: Request, database: Db, store: Store, settings: Config
) -> Response:
    """Send the bytes with this digest; Content-Length is required. They are hashed while they are written."""
    size = _content_length(request, settings.max_blob_bytes)
    body = cast("BinaryIO", io.BufferedReader(_Body(request.stream()), CHUNK))
    try:
        await to_thread.run_sync(
            lambda: publish.receive(database, store, upload, digest, body, size=size), limiter=_transfers
        )
    except ClientDisconnect as error:
        raise HTTPException(400, "The connection ended before all bytes had arrived.") from error
    return Response(status_code=204)


@router.post(
    "/models/{model}/versions",
    status_code=201,
    response_model=schemas.Version,
    responses={
        200: {
            "description": "This upload became this version before; nothing changed.",
            "model": schemas.Version,
        }
    },
)
def create_version(
    model: str, body: schemas.VersionCreate, database: Db, store: Store, caller: WhoCalls, response: Response
) -> browse.Version:
    """Make uploaded files the next version. It is visible when this answers, complete and verified, or not at all."""
    facts = Facts(
        format=body.format,
        variants=[Variant(variant.format, variant.path) for variant in body.variants],
        signature=body.signature.model_dump() if body.signature else None,
        example=body.example,
        description=body.description,
        metrics=body.metrics,
        tags=body.tags,
    )
    files = _files(body.files)
    version, is_new = publish.commit(database, store, model, body.upload, files, facts, actor=caller.name)
    response.status_code = 201 if is_new else 200
    return version


@router.get("/models/{model}/versions", response_model=schemas.VersionPage)
def list_versions(
    model: str, database: Db, limit: Limit = 100, after: After = None
) -> browse.Page[browse.Version]:
    """Versions of a model, newest first."""
    with database.read() as session:
        return browse.versions(session, model, limit=limit, after=after)


@router.get("/models/{model}/versions/{number}", response_model=schemas.Version)
def get_version(model: str, number: VersionNumber, database: Db) -> browse.Version:
    """One version."""
    with database.read() as session:
        return browse.version(session, model, number)


@router.get("/models/{model}/versions/{number}/downloads", response_model=schemas.Downloads)
def list_downloads(
    model: str, number: VersionNumber, database: Db, store: Store, settings: Config
) -> schemas.Downloads:
    """Where to fetch each file from: presigned URLs where the store has them, else this registry."""
    with database.read() as session:
        stored = browse.stored_files(session, model, number)
    own = f"/api/v1/models/{quote(model)}/versions/{number}/files/"
    with _store_errors():
        return schemas.Downloads(
            files=[
                schemas.Download(
                    path=s.file.path,
                    size=s.file.size,
                    digest=s.file.digest,
                    url=store.download_url(s.key, expires_s=settings.url_ttl_s) or own + quote(s.file.path),
                )
                for s in stored
            ]
        )


@router.get(
    "/models/{model}/versions/{number}/files/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def get_file(model: str, number: VersionNumber, path: str, database: Db, store: Store) -> Response:
    """The bytes of one file. The receiver checks them against the digest; the header repeats it."""
    with database.read() as session:
        stored = browse.stored_file(session, model, number, path)
    with _store_errors():
        source = store.open(stored.key)
    return StreamingResponse(
        _chunks(source),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(stored.file.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}",
            "ETag": f'"{stored.file.digest}"',
            "Cache-Control": "private, max-age=31536000, immutable",
        },
    )


def _files(files: list[schemas.File]) -> list[File]:
    return [File(file.path, file.size, file.digest) for file in files]


def _need(upload: str, need: publish.Need) -> schemas.Need:
    ticket = need.ticket
    return schemas.Need(
        digest=need.digest,
        size=need.size,
        method=ticket.method if ticket else "PUT",
        url=ticket.url if ticket else f"/api/v1/uploads/{upload}/blobs/{need.digest}",
        headers=dict(ticket.headers) if ticket else {},
    )


def _content_length(request: Request, limit: int) -> int:
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or len(length) > 19:
        raise HTTPException(411, "Content-Length is required.")
    if int(length) > limit:
        raise HTTPException(413, f"A file may have at most {limit} bytes.")
    return int(length)


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    with source:
        while chunk := source.read(CHUNK):
            yield chunk


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StoreUnavailable("The registry's blob store does not answer. Try again in a moment.") from error


class _Body(io.RawIOBase):
    """A request's body as a file that a worker thread reads, while the event loop receives."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = from_thread.run(self._next)
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    async def _next(self) -> bytes:
        async for chunk in self._stream:
            if chunk:
                return chunk
        return b""
