"""What a client may do with the presigned requests of a store; all of it over HTTP, without credentials."""

import os
import time
from collections.abc import Mapping
from hashlib import sha256

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from storage.base import Ticket
from storage.s3_rules import CONNECT_S, READ_S
from storage.verify_scratch import Broken, Check, Inapplicable, Lacks, Scratch

EXPIRES_S = 900
SIZE = 1000  # bytes
PATIENCE_S = 30.0  # how long an expired ticket may be good for because two clocks differ


def presigned_download(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    answer = _get(_download_url(scratch, data))
    if answer.status != 200 or answer.data != data:
        raise Broken(f"the answer is {answer.status}, with {len(answer.data)} of {SIZE} bytes")
    return ""


def presigned_range(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    answer = _get(_download_url(scratch, data), {"Range": "bytes=100-199"})
    if answer.data == data[100:200]:
        return ""
    if answer.data == data:
        raise Lacks("ranges are ignored: clients must download whole packs")
    raise Broken(f"the answer is {answer.status}, with {len(answer.data)} other bytes")


def presigned_upload(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    key = scratch.key()
    status = _send(_ticket(scratch, key, data), data)
    if scratch.read(key) != data:
        raise Broken(f"the answer is {status}, and the blob cannot be read back as it was")
    return ""


def refuses_wrong_size(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    for sent in (data[:-1], data + b"x"):
        key = scratch.key()
        _send(_ticket(scratch, key, data), sent, {"Content-Length": str(len(sent))})
        if scratch.read(key) is not None:
            raise Lacks("the registry counts the bytes of every upload when it is finished")
    return ""


def refuses_wrong_bytes(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    key = scratch.key()
    ticket = _ticket(scratch, key, data)
    says = scratch.store.refuses_wrong_bytes()
    _send(ticket, os.urandom(SIZE))
    if scratch.read(key) is None:
        return "" if says else "this time; the registry reads every upload once all the same"
    if says:
        raise Broken("the store refused wrong bytes when it was asked, and then took some")
    raise Lacks("the registry reads every upload once")


def refuses_expired_ticket(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    key = scratch.key()
    ticket = _ticket(scratch, key, data, expires_s=1)
    began = time.monotonic()
    while 200 <= _send(ticket, data) < 300:
        if time.monotonic() - began > PATIENCE_S:
            raise Broken(f"a ticket for one second was good for {PATIENCE_S:g}")
        time.sleep(0.25)
    return f"refused after {time.monotonic() - began:.0f} s"


def conditional_put(scratch: Scratch) -> str:
    data = os.urandom(SIZE)
    key = scratch.key()
    once = {"If-None-Match": "*"}
    if not 200 <= _send(_ticket(scratch, key, data), data, once) < 300:
        raise Lacks("a first write with If-None-Match: * is refused; nothing relies on it")
    if 200 <= _send(_ticket(scratch, key, data), data, once) < 300:
        raise Lacks("If-None-Match: * is ignored; nothing relies on it")
    return "nothing relies on it"


def _ticket(scratch: Scratch, key: str, data: bytes, expires_s: int = EXPIRES_S) -> Ticket:
    digest = f"sha256:{sha256(data).hexdigest()}"
    ticket = scratch.store.upload_ticket(key, size=len(data), digest=digest, expires_s=expires_s)
    if ticket is None:
        raise Inapplicable("no presigned uploads: the bytes pass through the registry")
    return ticket


def _download_url(scratch: Scratch, data: bytes) -> str:
    url = scratch.store.download_url(scratch.put(data), expires_s=EXPIRES_S)
    if url is None:
        raise Inapplicable("no presigned downloads: the bytes pass through the registry")
    return url


def _send(ticket: Ticket, data: bytes, headers: Mapping[str, str] | None = None) -> int:
    return _request(ticket.method, ticket.url, data, {**ticket.headers, **(headers or {})}).status


def _get(url: str, headers: Mapping[str, str] | None = None) -> BaseHTTPResponse:
    return _request("GET", url, b"", headers or {})


def _request(method: str, url: str, data: bytes, headers: Mapping[str, str]) -> BaseHTTPResponse:
    """One attempt, its answer whole. The error's own words quote the URL, and that is a key to the blob."""
    timeout = Timeout(connect=CONNECT_S, read=READ_S)
    with PoolManager(timeout=timeout, ca_certs=os.environ.get("AWS_CA_BUNDLE")) as http:
        try:
            return http.request(method, url, body=data or None, headers=dict(headers), retries=False)
        except HTTPError as e:
            raise Broken(f"a presigned {method} got no answer ({type(e).__name__})") from e


TICKETS = [
    Check("presigned download", "clients download from the store itself", presigned_download),
    Check("presigned range", "clients download a part of a blob alone", presigned_range),
    Check("presigned upload", "clients upload to the store itself", presigned_upload),
    Check(
        "refuses wrong size", "a ticket takes no other number of bytes", refuses_wrong_size, required=False
    ),
    Check(
        "refuses wrong bytes",
        "a ticket takes no bytes with another SHA-256",
        refuses_wrong_bytes,
        required=False,
    ),
    Check("expired ticket", "a ticket is refused when its time is over", refuses_expired_ticket),
    Check("conditional put", "If-None-Match: * is honoured", conditional_put, required=False),
]
