"""A file that is being written in several places at once, and hashed in its order behind what has arrived."""

import hashlib
import threading
from pathlib import Path
from typing import BinaryIO

from modelyard._errors import IntegrityError
from modelyard._types import File

CHUNK = 1 << 20


class Arriving:
    """Safe to use from several threads. Whoever brings the next bytes in order hashes them, and those behind them."""

    def __init__(self, file: File, target: Path) -> None:
        self._file = file
        self._target = target
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._parts: dict[int, int] = {}
        self._lock = threading.Lock()
        self._hashing = False

    def create(self) -> None:
        """Make the file, empty; it must not be there."""
        self._target.open("xb").close()

    def open(self, at: int) -> BinaryIO:
        """A file of its own to write with, from `at` on."""
        out = self._target.open("r+b", buffering=0)
        out.seek(at)
        return out

    def arrived(self, at: int, length: int) -> None:
        """Bytes were written. Raises IntegrityError when the file is complete and not what its digest promises."""
        with self._lock:
            self._parts[at] = length
            if self._hashing:
                return
            self._hashing = True
        while (following := self._next()) is not None:
            self._hash_bytes(following)
        if self._hashed == self._file.size:
            self.require_verified()

    def require_verified(self) -> None:
        """Raise IntegrityError unless all bytes have arrived and are those that the digest promises."""
        if (self._hashed, f"sha256:{self._hash.hexdigest()}") != (self._file.size, self._file.digest):
            raise self.damaged()

    def damaged(self) -> IntegrityError:
        return IntegrityError(
            f"The bytes received for {self._file.path!r} are not those that its digest promises; nothing was kept. Try again; if "
            "it happens again, they are damaged in the registry's store."
        )

    def _next(self) -> int | None:
        """The length of what arrived next in order; None, and nobody hashes, while it has not."""
        with self._lock:
            length = self._parts.pop(self._hashed, None)
            self._hashing = length is not None
            return length

    def _hash_bytes(self, length: int) -> None:
        end = self._hashed + length
        with self._target.open("rb", buffering=0) as stream:
            stream.seek(self._hashed)
            while self._hashed < end and (piece := stream.read(min(CHUNK, end - self._hashed))):
                self._hash.update(piece)
                self._hashed += len(piece)
        if self._hashed < end:
            raise self.damaged()
