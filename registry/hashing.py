"""Hashing bytes on their way somewhere else."""

import hashlib
from typing import BinaryIO


class HashingReader:
    """Reads from `source`, and knows the digest of all that was read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._whole = True

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._hash.update(chunk)
        return chunk

    def spoil(self) -> None:
        """Not everything was read: there is no digest."""
        self._whole = False

    def digest(self) -> str | None:
        return f"sha256:{self._hash.hexdigest()}" if self._whole else None
