"""What a store of bytes can do: eleven verbs, the same for a disk, S3 and memory.

Every backend passes one suite, tests/contract/test_blobstore.py; what the docstrings below promise is tested
there. A store knows keys and bytes. It knows nothing of models, and does not check what the bytes are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
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

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """The blob as a stream to read in pieces and to close (a context manager), or BlobNotFound.

        With a range, only `length` bytes (None: all there are) from byte `offset` on are fetched. As with a
        file, the stream ends where the blob ends: a range that goes on beyond it is cut, and one that begins
        there or has no length is empty. ValueError where either is negative. Nobody is promised `seek`.

        A stream that breaks off raises StoreUnavailable from `read`: it never looks like the end of the blob.
        """

    def local_path(self, key: str) -> Path | None:
        """Where the blob lies as a file of this machine, or BlobNotFound; None where blobs are no files.

        For reading only, as with sendfile: who writes there changes bytes that somebody has verified. The blob
        may be deleted at any time; a file that was opened before stays whole.
        """

    def stat(self, key: str) -> BlobStat | None:
        """Size and age, or None if there is no blob."""

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        """All blobs whose key begins with `prefix` (cut anywhere, as S3 does), in no promised order."""

    def delete(self, key: str) -> None:
        """Make the blob not exist; nothing happens if it does not."""

    def upload_ticket(self, key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:
        """A presigned PUT to `key` of `size` bytes with this digest, valid for `expires_s` seconds (≤ 7 days).

        `digest` is "sha256:" and 64 lower-case hex digits, else InvalidKey. None where the store cannot: then
        the bytes must come through `put`. Unless the store `refuses_wrong_bytes`, the holder may send others,
        and some stores even take a wrong number of them: verify before you rely on what it sent.
        """

    def refuses_wrong_bytes(self) -> bool:
        """Whether the store itself refuses, on a ticket of ours, bytes that do not have the ticket's digest.

        Found out by uploading a few bytes, and remembered as long as this object lives. StoreUnavailable
        where the store does not take even the right ones: then nothing is remembered.
        """

    def download_url(self, key: str, *, expires_s: int) -> str | None:
        """A presigned GET of `key`, valid for `expires_s` seconds (at most 7 days); None where it cannot be.

        It answers as application/octet-stream and an attachment, whatever content type the uploader gave.
        """

    def check(self) -> None:
        """Return if the store answers and knows us; else StoreUnavailable, saying what to look at."""

    def close(self) -> None:
        """Give up connections. The store is not used afterwards."""
