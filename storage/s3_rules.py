"""What S3 asks for and answers, whichever client speaks to it.

Limits: AWS, "Amazon S3 multipart upload limits". Codes: AWS, "S3 error responses".
"""

import re
from typing import BinaryIO

from storage.errors import StoreUnavailable
from storage.source import end_of_range

PART_SIZE = 8 << 20  # bytes; blobs up to this size are one PUT
MAX_PARTS = 10_000
MAX_SINGLE_PUT = 5 << 30  # bytes
MAX_SIZE = 5 << 40  # bytes of one object

CONNECT_S = 5  # patience per attempt
READ_S = 30
ATTEMPTS = 3  # per request, with a pause that grows
CONNECTIONS = 50  # kept open; as many as the registry has request threads

CONTENT_TYPE = "application/octet-stream"
DISPOSITION = "attachment"  # a browser that is given a download URL saves the bytes, whatever they are

ABSENT = {"NoSuchKey", "404"}  # of an object; the answer to a HEAD has no body to name the code
BEGINS_BEYOND = "InvalidRange"  # the object has no byte of that range

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_MISSING = "does not exist: create it, or correct the storage URL"
_FORBIDDEN = (
    "is forbidden to us: check the credentials, the region, this machine's clock, and what the user may do"
)
_ADVICE = {
    "NoSuchBucket": _MISSING,
    "404": _MISSING,
    "AccessDenied": _FORBIDDEN,
    "InvalidAccessKeyId": _FORBIDDEN,
    "SignatureDoesNotMatch": _FORBIDDEN,
    "403": _FORBIDDEN,
}


def part_size(size: int) -> int:
    """Bytes per part, so that `size` bytes need no more parts than S3 takes."""
    return max(PART_SIZE, -(-size // MAX_PARTS))


def bounded(offset: int, length: int | None) -> tuple[int, int]:
    """The range as (first byte, first byte after it), not beyond what an object can have; ValueError if negative."""
    end = end_of_range(offset, length)
    return offset, MAX_SIZE if end is None else min(end, MAX_SIZE)


def require_range(bucket: str, content_range: str | None, first: int, end: int, body: BinaryIO) -> None:
    """StoreUnavailable unless `body` holds the bytes that were asked for, as far as the object has them.

    A server, or a proxy before it, may ignore a range. Its answer would be read as other bytes of the blob.
    """
    match = _CONTENT_RANGE.fullmatch(content_range or "")
    if not match or (int(match[1]), int(match[2])) != (first, min(end, int(match[3])) - 1):
        body.close()
        raise StoreUnavailable(
            f"bucket {bucket} ignored the range of a request: check the server and what stands before it"
        )


def refused(bucket: str, code: str | None) -> StoreUnavailable:
    """The server answered with an S3 error code (or, to a HEAD, with the HTTP status alone)."""
    advice = _ADVICE.get(code or "", f"does not serve now: the server answered {code}")
    return StoreUnavailable(f"bucket {bucket} {advice}")


def silent(bucket: str, error: Exception) -> StoreUnavailable:
    """There was no usable answer. The library's words stay in the cause, for they may quote whole answers."""
    return StoreUnavailable(
        f"bucket {bucket} gave no usable answer ({type(error).__name__}): check the endpoint and the network"
    )
