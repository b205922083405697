"""Versions: create, list, look, download."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Send

from registry import browse, contents, publish
from registry.chunks import LARGE
from registry.domain import MAX_NUMBER, Facts, Metric, Variant
from registry.errors import InvalidFiles, StoreUnavailable
from registry.http import schemas
from registry.http.deps import Config, Db, Publisher, Reader, Store, Verifying
from registry.http.fact_values import values_of
from registry.http.models import After, Limit
from registry.http.ranges import NOT_SATISFIABLE, byte_range
from registry.http.strict import LongRoute
from registry.http.uploads import files_of
from registry.pages import Page
from registry.stored import StoredFile, StoredVersion, stored_blob, stored_version
from storage import BlobStore
from storage.errors import StorageError

router = APIRouter(prefix="/api/v1", tags=["versions"], route_class=LongRoute)

VersionNumber = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
CHUNK = 1024 * 1024
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


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
    model: str,
    body: schemas.VersionCreate,
    database: Db,
    store: Store,
    settings: Config,
    verifier: Verifying,
    caller: Publisher,
    response: Response,
) -> browse.Version:
    """Make uploaded files the next version. It is visible when this answers, complete, or not at all.

    Of very large files the registry checks the digest of the whole a moment later: see `verified`.
    """
    facts = Facts(
        format=body.format,
        variants=[Variant(variant.format, variant.path) for variant in body.variants],
        signature=body.signature.model_dump() if body.signature else None,
        example=body.example,
        description=body.description,
        metrics=body.metrics,
        measured=[Metric(**each.model_dump()) for each in body.measured],
        tags=body.tags,
        metadata=values_of(body.metadata),
        parameters=values_of(body.parameters),
    )
    version, is_new = publish.commit(
        database,
        store,
        caller,
        model,
        body.upload,
        files_of(list(body.files)),
        _stretches(body),
        facts,
        verify_bytes=settings.verify_bytes,
    )
    if not version.verified or version.size >= LARGE:
        verifier.wake()
    response.status_code = 201 if is_new else 200
    return version


@router.get("/models/{model}/versions", response_model=schemas.VersionPage)
def list_versions(
    model: str,
    database: Db,
    caller: Reader,
    limit: Limit = 100,
    after: After = None,
    deleted: Annotated[
        bool, Query(description="those that were deleted, instead of those that were not")
    ] = False,
) -> Page[browse.Version]:
    """Versions of a model, newest first."""
    with database.read() as session:
        return browse.versions(session, caller, model, deleted=deleted, limit=limit, after=after)


@router.get("/models/{model}/versions/{number}", response_model=schemas.Version)
def get_version(model: str, number: VersionNumber, database: Db, caller: Reader) -> browse.Version:
    """One version."""
    with database.read() as session:
        return browse.version(session, caller, model, number)


@router.get("/models/{model}/versions/{number}/downloads", response_model=schemas.Downloads)
def list_downloads(
    model: str, number: VersionNumber, database: Db, store: Store, settings: Config, caller: Reader
) -> schemas.Downloads:
    """Where to fetch each file from: presigned URLs where the store has them, else this registry."""
    with database.read() as session:
        stored = stored_version(session, caller, model, number)
    own = f"/api/v1/models/{quote(model)}/versions/{number}"
    order = {blob: index for index, blob in enumerate(stored.blobs)}
    with _store_errors():
        urls = {
            blob: store.download_url(found.key, expires_s=settings.url_ttl_s)
            for blob, found in stored.blobs.items()
        }
    return schemas.Downloads(
        blobs=[
            schemas.StoredBlob(digest=b.digest, size=b.size, url=urls[i] or f"{own}/blobs/{b.digest}")
            for i, b in stored.blobs.items()
        ],
        files=[
            schemas.Download(
                path=s.file.path,
                size=s.file.size,
                digest=s.file.digest,
                url=_whole(stored, s, urls) or f"{own}/files/{quote(s.file.path)}",
                segments=[(order[each.blob], each.offset, each.length) for each in s.segments],
            )
            for s in stored.files
        ],
    )


@router.get(
    "/models/{model}/versions/{number}/files/{path:path}", response_class=StreamingResponse, responses=_BYTES
)
def get_file(
    model: str, number: VersionNumber, path: str, database: Db, store: Store, caller: Reader
) -> Response:
    """The bytes of one file. The receiver checks them against the digest; the header repeats it."""
    with database.read() as session:
        stored = stored_version(session, caller, model, number, path)
    [found] = stored.files
    pieces = contents.read(store, {blob: each.key for blob, each in stored.blobs.items()}, found.segments)
    with _store_errors():
        first = next(pieces, b"")  # what cannot be opened is an error, not an answer that breaks off
    headers = _headers(found.file.digest, found.file.size)
    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}"
    return StreamingResponse(_and_then(first, pieces), media_type="application/octet-stream", headers=headers)


@router.get(
    "/models/{model}/versions/{number}/blobs/{digest}",
    response_class=StreamingResponse,
    responses=_BYTES | {206: _BYTES[200], 416: {"description": "The range begins beyond the end."}},
)
def get_blob(
    model: str,
    number: VersionNumber,
    digest: str,
    database: Db,
    store: Store,
    caller: Reader,
    request: Request,
    range_: Annotated[str | None, Header(alias="Range", max_length=128)] = None,
) -> Response:
    """The bytes of one blob that this version is made of, or one range of them."""
    with database.read() as session:
        blob = stored_blob(session, caller, model, number, digest)
    wanted = byte_range(range_, blob.size)
    headers = _headers(digest, blob.size) | {"Accept-Ranges": "bytes", "Content-Disposition": "attachment"}
    if wanted == NOT_SATISFIABLE:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{blob.size}"})
    with _store_errors():
        if wanted is None:
            return _whole_blob(store, blob.key, headers, request)
        start, length = wanted
        source = store.open(blob.key, offset=start, length=length)
    headers |= {
        "Content-Length": str(length),
        "Content-Range": f"bytes {start}-{start + length - 1}/{blob.size}",
    }
    return StreamingResponse(_chunks(source), 206, headers, media_type="application/octet-stream")


def _whole_blob(store: BlobStore, key: str, headers: dict[str, str], request: Request) -> Response:
    path = store.local_path(key) if "http.response.pathsend" in request.scope.get("extensions", {}) else None
    if path is not None:
        return _PathResponse(str(path), headers)
    return StreamingResponse(_chunks(store.open(key)), headers=headers, media_type="application/octet-stream")


class _PathResponse(Response):
    """A file that the HTTP server sends by itself, without its bytes passing through Python (ASGI's pathsend extension)."""

    media_type = "application/octet-stream"

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        self._path = path

    async def __call__(self, _scope: object, _receive: object, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.pathsend", "path": self._path})


def _stretches(body: schemas.VersionCreate) -> dict[str, list[publish.Stretch]]:
    try:
        return {
            file.path: [(body.blobs[index], offset, length) for index, offset, length in file.segments]
            for file in body.files
            if file.segments is not None
        }
    except IndexError as error:
        raise InvalidFiles("A segment names a blob that is not in the list.") from error


def _whole(stored: StoredVersion, file: StoredFile, urls: dict[int, str | None]) -> str | None:
    """The URL of the one blob that a file is, if it is one."""
    if len(file.segments) != 1 or stored.blobs[file.segments[0].blob].size != file.file.size:
        return None
    return urls[file.segments[0].blob]


def _headers(digest: str, size: int) -> dict[str, str]:
    return {
        "Content-Length": str(size),
        "ETag": f'"{digest}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def _and_then(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


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
