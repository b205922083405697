"""What a store of bytes can do: nine verbs, the same for a disk, S3 and memory.

Every backend passes one suite, tests/contract/test_blobstore.py; what the docstrings below promise is tested
there. A store knows keys and bytes. It knows nothing of models, and does not check what the bytes are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

from storage.source import Source


@dataclass(frozen=True, slots=True)
class BlobStat:
    key: str
    size: int  # bytes
    modified: datetime  # UTC, by the store's clock: good for ages, not for order


@dataclass(frozen=True, slots=True)
class Ticket:
    """One HTTP request that its holder may make without credentials, with exactly these headers."""

    method: str
    url: str
    headers: Mapping[str, str]


class BlobStore(Protocol):
    """Safe to share between threads.

    Any verb may raise StoreUnavailable, and any that takes a key (or a prefix) InvalidKey.
    """

    def put(self, key: str, source: Source, *, size: int) -> None:
        """Store the `size` bytes that `source.read(n)` gives, durably, under a key that is new.

        The blob becomes visible whole, at the end, or never: SizeMismatch where the source ends early or goes
        on, and what the source itself raises passes unchanged. Takes the memory of a few parts (S3: 8 MiB
        each, and more for blobs above 80 GB, for S3 takes 10,000 parts). KeyExists where the store can tell
        for sure that the key was used (disk, memory); S3 cannot, so no caller may rely on it.
        """

    def open(self, key: str) -> BinaryIO:
        """The blob as a stream to read in pieces and to close (a context manager), or BlobNotFound.

        A stream that breaks off raises StoreUnavailable from `read`: it never looks like the end of the blob.
        """

    def stat(self, key: str) -> BlobStat | None:
        """Size and age, or None if there is no blob."""

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        """All blobs whose key begins with `prefix` (cut anywhere, as S3 does), in no promised order."""

    def delete(self, key: str) -> None:
        """Make the blob not exist; nothing happens if it does not."""

    def upload_ticket(self, key: str, *, size: int, expires_s: int) -> Ticket | None:
        """A presigned PUT of `size` bytes to `key`, valid for `expires_s` seconds (at most 7 days).

        None where the store cannot: then the bytes must come through `put`. The holder may send wrong bytes,
        and some stores also take a wrong number of them: verify before you rely on what it sent.
        """

    def download_url(self, key: str, *, expires_s: int) -> str | None:
        """A presigned GET of `key`, valid for `expires_s` seconds (at most 7 days); None where it cannot be.

        It answers as application/octet-stream and an attachment, whatever content type the uploader gave.
        """

    def check(self) -> None:
        """Return if the store answers and knows us; else StoreUnavailable, saying what to look at."""

    def close(self) -> None:
        """Give up connections. The store is not used afterwards."""
