"""Presigned uploads that hold their holder to the bytes, as tightly as the server at hand understands.

    Pin.PAYLOAD     Content-Length, x-amz-checksum-sha256 and x-amz-content-sha256 are signed, the last one also
                    in the place of the payload's hash: Ceph RGW refuses a body that has another
    Pin.CHECKSUM    Content-Length and x-amz-checksum-sha256 are signed: AWS compares the checksum with the body

A server may know no payload's hash but UNSIGNED-PAYLOAD in a presigned request, as rclone does, and refuses
every ticket of the first kind. So which one is used is found out by trying (trial.py), not by asking who it is.

Signing: AWS, "Authenticating requests: using query parameters (AWS Signature Version 4)".
"""

from base64 import b64decode, b64encode
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from storage.base import Ticket
from storage.s3_rules import READ_S

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LENGTH, CHECKSUM, PAYLOAD = "Content-Length", "x-amz-checksum-sha256", "x-amz-content-sha256"


class Pin(Enum):
    """What a ticket signs, the tightest first."""

    PAYLOAD = (LENGTH, CHECKSUM, PAYLOAD)
    CHECKSUM = (LENGTH, CHECKSUM)


class Signer:
    def __init__(self, client: "S3Client", hashing: "S3Client", bucket: str) -> None:
        """Two clients that differ in one thing: `hashing` went through `hash_payload`."""
        self._clients = {Pin.CHECKSUM: client, Pin.PAYLOAD: hashing}
        self._bucket = bucket

    def ticket(self, pin: Pin, name: str, size: int, digits: str, expires_s: int) -> Ticket:
        """A PUT of the `size` bytes whose SHA-256 has these hex digits, to the object `name`."""
        headers = {
            LENGTH: str(size),
            CHECKSUM: b64encode(bytes.fromhex(digits)).decode(),
            PAYLOAD: digits,
        }
        url = self._clients[pin].generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._bucket,
                "Key": name,
                "ContentLength": size,
                "ChecksumSHA256": headers[CHECKSUM],
            },
            ExpiresIn=expires_s,
        )
        return Ticket("PUT", url, {header: headers[header] for header in pin.value})

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def hash_payload(client: "S3Client") -> "S3Client":
    """Let `client` sign the payload's hash into its presigned PUTs: botocore takes it from this header."""
    client.meta.events.register("before-sign.s3.PutObject", _hash_payload)
    return client


def _hash_payload(request: AWSRequest, **_: Any) -> None:
    request.headers[PAYLOAD] = b64decode(request.headers[CHECKSUM]).hex()


class Sender:
    """Sends what the holder of a ticket would, through the proxy and with the certificates of boto3's clients."""

    def __init__(self, ca_bundle: str | None) -> None:
        self._ca_bundle = ca_bundle

    def send(self, ticket: Ticket, data: bytes) -> int:
        """The HTTP status of the answer. Whatever goes wrong on the way is a BotoCoreError."""
        session = URLLib3Session(
            verify=cast("bool", self._ca_bundle or True),  # botocore-stubs: a path will do as well
            proxies=get_environ_proxies(ticket.url),
            timeout=READ_S,
        )
        try:
            request = AWSRequest(ticket.method, ticket.url, headers=ticket.headers, data=data)
            return session.send(request.prepare()).status_code
        finally:
            session.close()
