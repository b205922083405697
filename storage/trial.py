"""Whether a store refuses the wrong bytes: tried with a few of them.

a ticket for the digest of A, sent with A    must be taken, or such tickets are of no use here
a ticket for the digest of A, sent with B    refused, or the store takes whatever it is given
"""

import os
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from typing import BinaryIO, Protocol

from storage.errors import BlobNotFound, StoreUnavailable
from storage.layout import trial_key

SIZE = 32  # bytes, random: nobody else has them
REFUSALS = {
    HTTPStatus.BAD_REQUEST,  # the bytes, or a header it does not know
    HTTPStatus.FORBIDDEN,  # the signature
    HTTPStatus.NOT_IMPLEMENTED,  # a header it knows of
}


class Readable(Protocol):
    def open(self, key: str) -> BinaryIO: ...
    def delete(self, key: str) -> None: ...


def refuses(store: Readable, send: Callable[[str, str, bytes], int]) -> bool | None:
    """True or False; None where the store does not even take the right bytes.

    `send(key, digest, data)` sends `data` with a ticket for `digest` and returns the HTTP status. Any answer
    that is neither a success nor a refusal is StoreUnavailable.
    """
    right, wrong = os.urandom(SIZE), os.urandom(SIZE)
    digest = f"sha256:{sha256(right).hexdigest()}"
    if not _takes(store, send, digest, right):
        return None
    return not _takes(store, send, digest, wrong)


def _takes(store: Readable, send: Callable[[str, str, bytes], int], digest: str, data: bytes) -> bool:
    """Whether `data` can be read back, whatever the server answered."""
    key = trial_key()
    try:
        status = send(key, digest, data)
        if not (200 <= status < 300 or status in REFUSALS):
            raise StoreUnavailable(f"the store answered a small upload with status {status}: try again later")
        try:
            with store.open(key) as blob:
                return blob.read() == data
        except BlobNotFound:
            return False
    finally:
        store.delete(key)
