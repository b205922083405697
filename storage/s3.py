"""Blobs as objects of an S3 bucket, through boto3.

Small blobs are one PUT; larger ones a multipart upload, with one part in memory at a time and in order
(`rclone serve s3` streams parts only so), and aborted on any failure: S3 shows nothing before the upload is
completed. Nothing here relies on a conditional PUT, which some servers ignore. A process that is killed
leaves an unfinished multipart upload, which is invisible but paid for: give the bucket a lifecycle rule
AbortIncompleteMultipartUpload. s3_tickets.py tells what an upload ticket signs.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from storage.base import BlobStat, Ticket
from storage.body import readable
from storage.errors import BlobNotFound, StorageError, StoreConfigurationError, StoreUnavailable
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
from storage.s3_tickets import Pin, Sender, Signer, hash_payload
from storage.source import ExactSource, Source
from storage.trial import refuses

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

TRIAL_S = 900  # as long as the server's clock may differ from ours


def open_s3(*, bucket: str, prefix: str, endpoint: str | None, region: str | None) -> "S3Store":
    """Credentials come from boto3's chain: AWS_ACCESS_KEY_ID and so on, a profile, or the machine's role."""
    try:
        core = botocore.session.get_session()
        session = boto3.session.Session(botocore_session=core, region_name=region)
        if session.get_credentials() is None:
            raise NoCredentialsError
        new_client = partial(
            session.client,
            "s3",
            endpoint_url=endpoint,
            region_name=session.region_name or "us-east-1",
            config=_config(path_style=endpoint is not None or "." in bucket),
        )
        client, hashing = new_client(), hash_payload(new_client())
        sender = Sender(core.get_config_variable("ca_bundle"))
    except BotoCoreError as e:
        raise StoreConfigurationError(
            f"boto3 is not set up for S3 ({type(e).__name__}): "
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the region"
        ) from e
    return S3Store(client, Signer(client, hashing, bucket), sender, bucket, prefix)


def _config(*, path_style: bool) -> Config:
    return Config(
        signature_version="s3v4",  # presigned URLs that sign headers
        # Private servers seldom have a DNS name per bucket, and no certificate covers a bucket with dots.
        # Else virtual, not auto: that presigns for AWS's global endpoint, which redirects for newer regions.
        s3={"addressing_style": "path" if path_style else "virtual"},
        # newer botocore adds CRC trailers, which several S3-compatible servers refuse; readers check SHA-256
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        max_pool_connections=CONNECTIONS,
    )


class S3Store:
    def __init__(self, client: "S3Client", signer: Signer, sender: Sender, bucket: str, prefix: str) -> None:
        """`prefix` is "" or ends in "/"; keys live below it."""
        self._client = client
        self._signer = signer
        self._sender = sender
        self._trial = Lock()
        self._pin: tuple[Pin, bool] | None = None  # what tickets sign, and whether that refuses wrong bytes
        self._bucket = bucket
        self._prefix = prefix

    def put(self, key: str, source: Source, *, size: int) -> None:
        name = self._name(key)
        exact = ExactSource(source, size)
        if size <= PART_SIZE:
            data = exact.read(size)
            with self._border():
                self._client.put_object(Bucket=self._bucket, Key=name, Body=data, ContentType=CONTENT_TYPE)
        else:
            self._put_in_parts(name, exact, part_size(size))

    def _put_in_parts(self, name: str, exact: ExactSource, size_of_part: int) -> None:
        with self._border():
            begun = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=name, ContentType=CONTENT_TYPE
            )
        upload = begun["UploadId"]
        try:
            parts = list(self._send_parts(name, upload, exact, size_of_part))
            with self._border():
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            self._abort(name, upload)
            raise

    def _send_parts(
        self, name: str, upload: str, exact: ExactSource, size_of_part: int
    ) -> Iterator["CompletedPartTypeDef"]:
        number = 1
        while data := exact.read(size_of_part):
            with self._border():
                sent = self._client.upload_part(
                    Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, Body=data
                )
            yield {"PartNumber": number, "ETag": sent["ETag"]}
            number += 1

    def _abort(self, name: str, upload: str) -> None:
        # what went wrong first is what the caller must hear of; the lifecycle rule removes what stays
        with suppress(StorageError), self._border():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        name = self._name(key)
        first, end = bounded(offset, length)
        if first >= end:  # it must be there all the same
            if self.stat(key) is None:
                raise BlobNotFound(key)
            return io.BytesIO()
        is_range = first or length is not None
        params: dict[str, Any] = {"Range": f"bytes={first}-{end - 1}"} if is_range else {}
        with self._border(key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=name, **params)
            except ClientError as e:
                if e.response["Error"]["Code"] == BEGINS_BEYOND:
                    return io.BytesIO()
                raise
        body = readable(answer["Body"], self._border)
        if is_range:
            require_range(self._bucket, answer.get("ContentRange"), first, end, body)
        return body

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def stat(self, key: str) -> BlobStat | None:
        name = self._name(key)
        try:
            with self._border(key):
                found = self._client.head_object(Bucket=self._bucket, Key=name)
        except BlobNotFound:
            self.check()  # a HEAD answers the same where the whole bucket is missing, and that is an outage
            return None
        return BlobStat(key, found["ContentLength"], found["LastModified"])

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        with self._border():
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for found in page.get("Contents", []):
                    key = found["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield BlobStat(key, found["Size"], found["LastModified"])

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._border():
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def upload_ticket(self, key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:
        """The first call asks the store what it understands, as `refuses_wrong_bytes` does."""
        name = self._name(key)
        digits = hex_digits(digest)
        if size > MAX_SINGLE_PUT:
            return None
        pin, _ = self._tried()
        with self._border():
            return self._signer.ticket(pin, name, size, digits, expires_s)

    def refuses_wrong_bytes(self) -> bool:
        _, refuses_others = self._tried()
        return refuses_others

    def _tried(self) -> tuple[Pin, bool]:
        with self._trial:
            self._pin = self._pin or self._try()
            return self._pin

    def _try(self) -> tuple[Pin, bool]:
        """The tightest pin that refuses wrong bytes; else the tightest with which the right ones come through."""
        usable = []
        for pin in Pin:
            answer = refuses(self, partial(self._send, pin))
            if answer:
                return pin, True
            if answer is not None:
                usable.append(pin)
        if usable:
            return usable[0], False
        raise StoreUnavailable(
            f"bucket {self._bucket} takes no presigned upload: check that the user may put and get objects"
        )

    def _send(self, pin: Pin, key: str, digest: str, data: bytes) -> int:
        with self._border():
            ticket = self._signer.ticket(pin, self._name(key), len(data), hex_digits(digest), TRIAL_S)
            return self._sender.send(ticket, data)

    def download_url(self, key: str, *, expires_s: int) -> str | None:
        name = self._name(key)
        with self._border():
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": name,
                    "ResponseContentType": CONTENT_TYPE,
                    "ResponseContentDisposition": DISPOSITION,
                },
                ExpiresIn=expires_s,
            )

    def check(self) -> None:
        with self._border():
            self._client.head_bucket(Bucket=self._bucket)

    def close(self) -> None:
        self._client.close()
        self._signer.close()

    def _name(self, key: str) -> str:
        check_key(key)
        return self._prefix + key

    @contextmanager
    def _border(self, key: str | None = None) -> Iterator[None]:
        """Translate what boto3 raises; "no such object" is BlobNotFound if the call was about a `key`."""
        try:
            yield
        except ClientError as e:
            code = e.response["Error"]["Code"]
            if key and code in ABSENT:
                raise BlobNotFound(key) from e
            raise refused(self._bucket, code) from e
        except BotoCoreError as e:
            raise silent(self._bucket, e) from e
