"""Blobs in a dict, for tests and trials: gone with the process."""

import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from storage.base import BlobStat, Ticket
from storage.errors import BlobNotFound, KeyExists
from storage.layout import check_key, check_prefix, hex_digits
from storage.source import ExactSource, Source, end_of_range


class MemoryStore:
    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, source: Source, *, size: int) -> None:
        check_key(key)
        data = ExactSource(source, size).read()
        with self._lock:
            if key in self._blobs:
                raise KeyExists(key)
            self._blobs[key] = data, datetime.now(UTC)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        check_key(key)
        end = end_of_range(offset, length)
        try:
            data, _ = self._blobs[key]
        except KeyError as e:
            raise BlobNotFound(key) from e
        return io.BytesIO(data[offset:end])

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def stat(self, key: str) -> BlobStat | None:
        check_key(key)
        found = self._blobs.get(key)
        return BlobStat(key, len(found[0]), found[1]) if found else None

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        check_prefix(prefix)
        with self._lock:  # a dict must not change while it is walked
            found = [
                BlobStat(key, len(data), at)
                for key, (data, at) in self._blobs.items()
                if key.startswith(prefix)
            ]
        yield from found

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._blobs.pop(key, None)

    def upload_ticket(self, key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:  # noqa: ARG002 - cannot
        check_key(key)
        hex_digits(digest)
        return None

    def refuses_wrong_bytes(self) -> bool:
        return False  # there are no tickets

    def download_url(self, key: str, *, expires_s: int) -> str | None:  # noqa: ARG002 - cannot
        check_key(key)
        return None

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass
