"""Secrets that the registry has to read again, encrypted in the database: a dump of it opens nothing.

    secret key ──HKDF-SHA-256 (purpose)──> key ──AES-256-GCM (nonce, the row it belongs to)──> sealed

What was sealed for one purpose or row cannot be opened for another.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

WEBHOOKS = "webhooks"
"""A purpose: what webhooks are signed with."""

_NONCE_BYTES = 12


class Unreadable(Exception):
    """It was sealed with another key or for another row, or was changed since."""


class Vault:
    """Seals and opens secrets of one `purpose`."""

    def __init__(self, secret_key: bytes, purpose: str) -> None:
        info = f"modelyard/{purpose}/1".encode()
        self._cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret_key))

    def seal(self, secret: bytes, row: str) -> bytes:
        """Encrypt `secret` for the row that this text names."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, row.encode())

    def open(self, sealed: bytes, row: str) -> bytes:
        """What was sealed. Raises Unreadable."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], row.encode())
        except (InvalidTag, ValueError) as error:
            raise Unreadable("sealed with another key, or not for this row") from error
