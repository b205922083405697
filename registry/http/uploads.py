"""Uploads: announce, send, resume."""

import base64
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO, cast

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Header, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from registry import uploads
from registry.chunks import CUTTING
from registry.domain import File
from registry.http import schemas, upload_schemas
from registry.http.deps import Config, Db, Publisher, Store, Uploader
from registry.http.strict import LongRoute
from registry.offers import Unhashed
from registry.settings import Settings

router = APIRouter(prefix="/api/v1", tags=["uploads"], route_class=LongRoute)

CHUNK = 1024 * 1024
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]

# Bytes move in threads of their own: slow uploads must not use up those that answer everything else.
_transfers = anyio.CapacityLimiter(32)


@router.post("/models/{model}/uploads", status_code=201, response_model=upload_schemas.Upload)
def begin_upload(
    model: str,
    body: upload_schemas.UploadCreate,
    database: Db,
    store: Store,
    settings: Config,
    caller: Publisher,
    idempotency_key: IdempotencyKey = None,
) -> upload_schemas.Upload:
    """Announce files; the answer says which bytes are needed, and where to send them.

    With an Idempotency-Key, the same request is the same upload, and another request is refused (422).
    """
    offer = uploads.Offer(
        files=files_of(body.files),
        unhashed=[Unhashed(each.path, each.size) for each in body.unhashed],
        packed=body.packed,
    )
    upload = uploads.begin(
        database,
        store,
        caller,
        model,
        offer,
        limits=_limits(settings),
        idempotency_key=idempotency_key,
    )
    return upload_schemas.Upload(
        id=upload.id,
        expires_at=upload.expires_at,
        needs=[_need(upload.id, need) for need in upload.needs],
        have=upload.have,
        hash_first=upload.hash_first,
        bases=[
            upload_schemas.Base(segments=base.segments, chunks=base64.b64encode(base.chunks).decode())
            for base in upload.bases
        ],
        cutting=upload_schemas.Cutting.model_validate(CUTTING),
    )


@router.post("/uploads/{upload}/files", response_model=upload_schemas.Have)
def offer_files(
    upload: str, body: upload_schemas.FilesOffer, database: Db, store: Store, caller: Uploader
) -> upload_schemas.Have:
    """Offer files that were hashed since the upload began; the answer says which of them need not be sent."""
    return upload_schemas.Have(have=uploads.have(database, store, caller, upload, files_of(body.files)))


@router.post("/uploads/{upload}/blobs", response_model=upload_schemas.Needs)
def announce_blobs(
    upload: str,
    body: upload_schemas.BlobsCreate,
    database: Db,
    store: Store,
    settings: Config,
    caller: Uploader,
) -> upload_schemas.Needs:
    """Announce packs (or whole files); the answer says where to send those that are not there yet."""
    announced = [uploads.Announced(blob.digest, blob.size) for blob in body.blobs]
    needs = uploads.expect(database, store, caller, upload, announced, limits=_limits(settings))
    return upload_schemas.Needs(needs=[_need(upload, need) for need in needs])


@router.put("/uploads/{upload}/blobs/{digest}", status_code=204)
async def send_bytes(
    upload: str, digest: str, request: Request, database: Db, store: Store, settings: Config, caller: Uploader
) -> Response:
    """Send the bytes with this digest; Content-Length is required. They are hashed while they are written."""
    size = _content_length(request, settings.max_blob_bytes)
    body = cast("BinaryIO", io.BufferedReader(_Body(request.stream()), CHUNK))
    try:
        await to_thread.run_sync(
            lambda: uploads.receive(
                database, store, caller, upload, digest, body, size=size, limits=_limits(settings)
            ),
            limiter=_transfers,
        )
    except ClientDisconnect as error:
        raise HTTPException(400, "The connection ended before all bytes had arrived.") from error
    return Response(status_code=204)


def files_of(files: list[schemas.File]) -> list[File]:
    return [File(file.path, file.size, file.digest) for file in files]


def _limits(settings: Settings) -> uploads.Limits:
    return uploads.Limits(settings.upload_ttl_s, settings.url_ttl_s, settings.max_blob_bytes)


def _need(upload: str, need: uploads.Need) -> upload_schemas.Need:
    ticket = need.ticket
    return upload_schemas.Need(
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
        raise HTTPException(413, f"A blob may have at most {limit} bytes.")
    return int(length)


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
