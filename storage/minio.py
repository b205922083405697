"""Blobs as objects of an S3 bucket, through the MinIO SDK, for sites that standardise on it.

The same contract as s3.py, with two differences: the SDK signs no headers into a presigned PUT, so an upload
ticket pins neither size nor digest; and credentials come from the environment only. (`from minio import …` is
the SDK: this module is storage.minio, and imports are absolute.)
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials.providers import EnvAWSProvider
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from storage.base import BlobStat, Ticket
from storage.body import readable
from storage.errors import BlobNotFound, StoreConfigurationError
from storage.layout import check_key, check_prefix, hex_digits, is_key
from storage.s3_rules import (
    ABSENT,
    ATTEMPTS,
    BEGINS_BEYOND,
    CONNECT_S,
    CONNECTIONS,
    CONTENT_TYPE,
    DISPOSITION,
    MAX_SINGLE_PUT,
    PART_SIZE,
    READ_S,
    bounded,
    part_size,
    refused,
    require_range,
    silent,
)
from storage.source import ExactSource, Source


def open_minio(*, bucket: str, prefix: str, endpoint: str, region: str | None) -> "MinioStore":
    """Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)."""
    credentials = EnvAWSProvider()
    try:
        credentials.retrieve()
    except ValueError as e:
        raise StoreConfigurationError(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from e
    http = PoolManager(
        timeout=Timeout(connect=CONNECT_S, read=READ_S),
        retries=Retry(total=ATTEMPTS - 1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        maxsize=CONNECTIONS,
    )
    address = urlsplit(endpoint)
    client = Minio(
        address.netloc,
        secure=address.scheme == "https",
        region=region or "us-east-1",
        credentials=credentials,
        http_client=http,
    )
    return MinioStore(client, http, bucket, prefix)


class MinioStore:
    def __init__(self, client: Minio, http: PoolManager, bucket: str, prefix: str) -> None:
        """`prefix` is "" or ends in "/"; keys live below it. `http` is the client's, to be closed with it."""
        self._client = client
        self._http = http
        self._bucket = bucket
        self._prefix = prefix

    def put(self, key: str, source: Source, *, size: int) -> None:
        name = self._name(key)
        exact = ExactSource(source, size)
        if size <= PART_SIZE:
            # read here: where nothing is expected the SDK reads nothing, and misses a source that goes on
            self._send(name, io.BytesIO(exact.read(size)), size)
        else:
            self._send(name, cast(BinaryIO, exact), size)  # the SDK calls read(n) and nothing else

    def _send(self, name: str, source: BinaryIO, size: int) -> None:
        """One part at a time, in order; the SDK aborts the multipart upload when anything fails."""
        with self._border():
            self._client.put_object(
                self._bucket,
                name,
                source,
                size,
                content_type=CONTENT_TYPE,
                part_size=part_size(size),
                num_parallel_uploads=1,
            )

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        name = self._name(key)
        first, end = bounded(offset, length)
        if first >= end:
            self._size_of(key)  # it must be there all the same
            return io.BytesIO()
        with self._border(key):
            try:
                response = self._client.get_object(
                    self._bucket, name, offset=first, length=0 if length is None else end - first
                )
            except S3Error as e:
                if e.code == BEGINS_BEYOND:
                    return io.BytesIO()
                raise
            except InvalidResponseError:
                # some servers (rclone) send errors as text/xml, which the SDK does not read: ask with a HEAD
                if first >= self._size_of(key):
                    return io.BytesIO()
                raise
        response.decode_content = False  # the stored bytes, also where the uploader called them gzip
        body = readable(response, self._border)
        if first or length is not None:
            require_range(self._bucket, response.headers.get("Content-Range"), first, end, body)
        return body

    def _size_of(self, key: str) -> int:
        found = self.stat(key)
        if found is None:
            raise BlobNotFound(key) from None
        return found.size

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def stat(self, key: str) -> BlobStat | None:
        name = self._name(key)
        try:
            with self._border(key):
                found = self._client.stat_object(self._bucket, name)
        except BlobNotFound:
            self.check()  # a HEAD answers the same where the whole bucket is missing, and that is an outage
            return None
        return _blob_stat(key, found)

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        check_prefix(prefix)
        with self._border():
            for found in self._client.list_objects(
                self._bucket, prefix=self._prefix + prefix, recursive=True
            ):
                key = found.object_name.removeprefix(self._prefix)
                if is_key(key):
                    yield _blob_stat(key, found)

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._border():
            self._client.remove_object(self._bucket, name)

    def upload_ticket(self, key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:
        name = self._name(key)
        hex_digits(digest)
        if size > MAX_SINGLE_PUT:
            return None
        with self._border():
            url = self._client.presigned_put_object(self._bucket, name, timedelta(seconds=expires_s))
        return Ticket("PUT", url, {"Content-Length": str(size)})

    def refuses_wrong_bytes(self) -> bool:
        return False  # our tickets say nothing of the bytes

    def download_url(self, key: str, *, expires_s: int) -> str | None:
        name = self._name(key)
        answer_as: dict[str, str | list[str] | tuple[str]] = {
            "response-content-type": CONTENT_TYPE,
            "response-content-disposition": DISPOSITION,
        }
        with self._border():
            return self._client.presigned_get_object(
                self._bucket, name, timedelta(seconds=expires_s), response_headers=answer_as
            )

    def check(self) -> None:
        with self._border():
            if not self._client.bucket_exists(self._bucket):
                raise refused(self._bucket, "NoSuchBucket")

    def close(self) -> None:
        self._http.clear()

    def _name(self, key: str) -> str:
        check_key(key)
        return self._prefix + key

    @contextmanager
    def _border(self, key: str | None = None) -> Iterator[None]:
        """Translate what the SDK raises; "no such object" is BlobNotFound if the call was about a `key`."""
        try:
            yield
        except S3Error as e:
            if key and e.code in ABSENT:
                raise BlobNotFound(key) from e
            raise refused(self._bucket, e.code) from e
        except (MinioException, HTTPError) as e:
            raise silent(self._bucket, e) from e


def _blob_stat(key: str, found: Object) -> BlobStat:
    # a blob without an age counts as new, so that nobody removes it for being old
    return BlobStat(key, found.size or 0, found.last_modified or datetime.now(UTC))
