"""Where the files of versions are kept: the SDK's cache, in a directory of its own.

    <cache-dir>/versions/<64 hexadecimal digits>/…     hashed again before each use; versions share their files

Only files that no version there has are downloaded. What is pinned stays until the pin is closed or this process ends;
the rest is evicted to make room, in the limit that MODELYARD_CACHE_BYTES sets.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelyard import File, IntegrityError, Version
from modelyard._cache import Cache as Content
from modelyard._cache_lock import Hold

from serving_adapter.errors import CandidateRejected, UnsafeDirectory
from serving_adapter.upstream import Upstream


class Cache:
    """Verified directories, by digest."""

    def __init__(self, root: Path, upstream: Upstream) -> None:
        self._content = Content(root)
        self._upstream = upstream

    def prepare(self) -> None:
        """Create the directory; raise UnsafeDirectory if it, or one right below it, could be somebody else's."""
        for directory in self._content.directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owned(directory)

    def fetch(self, version: Version) -> Path:
        """The directory with the verified files of `version`.

        Raises CandidateRejected for bytes that are not what the digest promises, and what the client or the disk
        raises when fetching may be tried again.
        """
        with _rejecting():
            return self._content.fetch(version, self._download)

    def pin(self, digest: str) -> Hold:
        """Keep a version, fetched or to be fetched, from being evicted until this and every other pin of it is closed.

        Raises as `fetch` does.
        """
        with _rejecting():
            return self._content.hold(digest)

    def _download(self, version: Version, files: Sequence[File], private: Path) -> Path:
        return self._upstream.download_files(version, files, private / "content")


@contextlib.contextmanager
def _rejecting() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise CandidateRejected("fetch", str(error)) from error


def _check_owned(directory: Path) -> None:
    found = directory.lstat()
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or others_may_write:
        raise UnsafeDirectory(
            f"{directory} is a link, belongs to somebody else or can be written by others: remove it, or choose another "
            "directory with --cache-dir"
        )
