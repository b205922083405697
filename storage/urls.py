"""Storage URLs: one string says which store, and never holds a secret.

    file:///var/lib/modelyard/blobs                              a folder of this machine
    memory://                                                    nothing outlives the process
    s3://bucket[/prefix][?endpoint=https://…][&region=…]         S3 through boto3; without endpoint, AWS
    minio://bucket[/prefix]?endpoint=https://…[&region=…]        S3 through the MinIO SDK

Whatever a URL does not allow is refused, not ignored. No message quotes it: there may be a password in it.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from storage.base import BlobStore
from storage.errors import StoreConfigurationError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
_REGION = re.compile(r"[a-z0-9-]+")


def open_store(url: str) -> BlobStore:
    """The store that `url` names. Nothing is asked of it yet, except that a missing folder is made.

    StoreConfigurationError where the URL or the credentials cannot be right, StoreUnavailable where the
    folder cannot be made.
    """
    parts = _split(url)
    match parts.scheme:
        case "file":
            return _open_disk(parts)
        case "memory":
            return _open_memory(parts)
        case "s3":
            return _open_s3(parts)
        case "minio":
            return _open_minio(parts)
    raise StoreConfigurationError("a storage URL begins with file:, memory:, s3: or minio:")


def _open_disk(parts: SplitResult) -> BlobStore:
    from storage.disk import open_disk

    path = Path(unquote(parts.path))
    if parts.netloc or parts.query or not path.is_absolute():
        raise StoreConfigurationError("a folder is given as file:///absolute/path, and nothing else")
    return open_disk(path)


def _open_memory(parts: SplitResult) -> BlobStore:
    from storage.memory import MemoryStore

    if parts.netloc or parts.path or parts.query:
        raise StoreConfigurationError("the memory store is given as memory:// and nothing else")
    return MemoryStore()


def _open_s3(parts: SplitResult) -> BlobStore:
    from storage.s3 import open_s3  # boto3 takes its time to import

    bucket, prefix = _bucket_and_prefix(parts)
    options = _options(parts)
    return open_s3(
        bucket=bucket, prefix=prefix, endpoint=options.get("endpoint"), region=options.get("region")
    )


def _open_minio(parts: SplitResult) -> BlobStore:
    from storage.minio import open_minio

    bucket, prefix = _bucket_and_prefix(parts)
    options = _options(parts)
    if "endpoint" not in options:
        raise StoreConfigurationError("a minio: URL needs ?endpoint=https://…")
    return open_minio(
        bucket=bucket, prefix=prefix, endpoint=options["endpoint"], region=options.get("region")
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed, and refused, only when it is asked for
    except ValueError:
        # without the cause, which quotes the URL
        raise StoreConfigurationError("the storage URL cannot be parsed") from None
    if "@" in parts.netloc:
        raise StoreConfigurationError(
            "credentials do not belong in the storage URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.fragment:
        raise StoreConfigurationError("a storage URL has no # part")
    return parts


def _bucket_and_prefix(parts: SplitResult) -> tuple[str, str]:
    if not _BUCKET.fullmatch(parts.netloc):
        raise StoreConfigurationError(
            "a bucket name has 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    if not _PREFIX.fullmatch(parts.path):
        raise StoreConfigurationError("a prefix is made of letters, digits, ., _ and -, joined by /")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


def _options(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if options.keys() - {"endpoint", "region"} or len(options) < len(pairs):
        raise StoreConfigurationError("a storage URL takes the options endpoint and region, each once")
    if "endpoint" in options:
        _check_endpoint(options["endpoint"])
    if "region" in options and not _REGION.fullmatch(options["region"]):
        raise StoreConfigurationError("a region is made of lower-case letters, digits and hyphens")
    return options


def _check_endpoint(endpoint: str) -> None:
    parts = _split(endpoint)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.path not in {"", "/"}
    ):
        raise StoreConfigurationError("an endpoint is http:// or https://, a host, and perhaps a port")
