"""The shapes of uploads: what is offered, and what is needed of it. publish.py makes a version of them (schemas.py)."""

from typing import Annotated

from pydantic import Field

from registry.domain import MAX_FILES, MAX_SIZE
from registry.http.schemas import Answer, Digest, File, Path, Request, Time


class Unhashed(Request):
    """A file whose digest is not known yet."""

    path: Path
    size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]


class UploadCreate(Request):
    """What there is to upload. With `packed`, the caller cuts and packs the bytes itself and announces the packs as blobs."""

    files: Annotated[list[File], Field(max_length=MAX_FILES)] = []  # noqa: RUF012 - pydantic copies it
    unhashed: Annotated[list[Unhashed], Field(max_length=MAX_FILES)] = []  # noqa: RUF012 - pydantic copies it
    packed: bool = False


class Blob(Request):
    """A blob to send: a whole file, or a pack."""

    digest: Digest
    size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]


class BlobsCreate(Request):
    blobs: Annotated[list[Blob], Field(max_length=MAX_FILES)]


class FilesOffer(Request):
    files: Annotated[list[File], Field(max_length=MAX_FILES)]


class Need(Answer):
    """Bytes to send. An absolute `url` is presigned (send no token there); one with a leading slash is this registry."""

    digest: str
    size: int
    method: str
    url: str
    headers: dict[str, str]


class Base(Answer):
    """A stored file whose chunks need not be sent again.

    `segments`: [digest of a blob, offset, length] each. `chunks`, in base64: a byte 1, then 32 bytes BLAKE3 and 4 bytes
    length (big-endian) for each chunk, in order.
    """

    segments: list[tuple[str, int, int]]
    chunks: str


class Cutting(Answer):
    """FastCDC's parameters with which `chunks` were cut: bytes, and the degree of normalization."""

    smallest: int
    target: int
    largest: int
    normalization: int


class Upload(Answer):
    """`have`: digests of files that need not be sent. `hash_first`: unhashed files that may be there already."""

    id: str
    expires_at: Time
    needs: list[Need]
    have: list[str]
    hash_first: list[str]
    bases: list[Base]
    cutting: Cutting


class Needs(Answer):
    needs: list[Need]


class Have(Answer):
    have: list[str]
