"""Blobs as plain files under one folder of a POSIX file system; tree.py draws the folder.

A put claims its key by creating the file in tmp/ exclusively, sees that no blob is there, writes, fsyncs, and
moves the file into place with one rename. Only the holder of a claim moves anything to its key, so nothing is
ever overwritten. Then the folders are fsynced from the blob's upwards: only so do the new names survive a
power failure.

A blob is a regular file with one name. A symbolic link is none, and neither is a file with a second hard
link, for somebody else could change its bytes: both read as absent.
"""

import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from storage.base import BlobStat, Ticket
from storage.errors import BlobNotFound, KeyExists, StoreUnavailable
from storage.layout import check_key, check_prefix, hex_digits, is_key
from storage.source import ExactSource, Source, end_of_range
from storage.tree import ABSENT, BLOBS, TMP, Tree

COPY_SIZE = 1 << 20  # bytes held in memory while a blob is written
MOVES = 5  # how often a put may find its folder dropped by the delete of another blob of the same digest

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def open_disk(root: Path) -> "DiskStore":
    """A store in `root`, which is made if it is missing."""
    tree = Tree(root)
    tree.make()
    return DiskStore(tree)


class DiskStore:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def put(self, key: str, source: Source, *, size: int) -> None:
        check_key(key)
        exact = ExactSource(source, size)
        upload = _Upload.claim(self._tree, key)
        try:
            while chunk := exact.read(COPY_SIZE):
                upload.write(chunk)
            upload.publish()
        finally:
            upload.close()

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        end = end_of_range(offset, length)
        with self._tree.place(key) as (folder, name):
            # non-blocking, for a FIFO in a blob's place must not hang the reader; it means nothing for a file
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        found = os.fstat(fd)
        if not _is_blob(found):
            os.close(fd)
            raise BlobNotFound(key)
        end = found.st_size if end is None else min(end, found.st_size)
        return io.BufferedReader(_File(fd, self._tree, offset, end))

    def local_path(self, key: str) -> Path | None:
        if self.stat(key) is None:
            raise BlobNotFound(key)
        return self._tree.path(key)

    def stat(self, key: str) -> BlobStat | None:
        found = self._tree.lstat(key)
        return _blob_stat(key, found) if found and _is_blob(found) else None

    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        check_prefix(prefix)
        with self._tree.border(), self._tree.folder(BLOBS) as blobs:
            for path, folders, files, folder in os.fwalk(".", dir_fd=blobs, onerror=_raise_unless_absent):
                above = path[2:] + "/" if path != "." else ""
                folders[:] = [name for name in folders if _may_hold(f"{above}{name}/", prefix)]
                for name in files:
                    key = above + name
                    if is_key(key) and key.startswith(prefix) and (found := _stat_blob(folder, name)):
                        yield _blob_stat(key, found)

    def delete(self, key: str) -> None:
        """Also removes what a crashed put of this key left in tmp/."""
        check_key(key)
        _discard(self._tree, key)
        with suppress(BlobNotFound), self._tree.place(key) as (folder, name):
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)  # a blob that came back after a power failure would be in nobody's books
        self._tree.drop_empty_folder(key)

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
        """Write a file and make it durable; of blobs/ it is enough that it is there."""
        name = f"check-{uuid.uuid4().hex}"
        with self._tree.border(), self._tree.folder(BLOBS), self._tree.folder(TMP) as tmp:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=tmp)
            try:
                os.write(fd, b"check")
                os.fsync(fd)
            finally:
                os.close(fd)
                os.unlink(name, dir_fd=tmp)

    def close(self) -> None:
        pass


class _Upload:
    """One blob in the making: claimed in tmp/, then published; `close` discards it otherwise."""

    def __init__(self, tree: Tree, key: str, fd: int) -> None:
        self._tree = tree
        self._key = key
        self._fd = fd
        self._published = False

    @classmethod
    def claim(cls, tree: Tree, key: str) -> "_Upload":
        with tree.border(), tree.folder(TMP) as tmp:
            try:
                fd = os.open(_temp_name(key), _NEW_FILE, 0o600, dir_fd=tmp)
            except FileExistsError as e:
                raise KeyExists(key) from e
        upload = cls(tree, key, fd)
        try:
            upload.require_unused()
        except BaseException:
            upload.close()
            raise
        return upload

    def require_unused(self) -> None:
        if self._tree.lstat(self._key):
            raise KeyExists(self._key)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with self._tree.border():
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def publish(self) -> None:
        with self._tree.border():
            os.fsync(self._fd)
            for _ in range(MOVES):
                with suppress(FileNotFoundError):
                    self._tree.move_into_place(_temp_name(self._key), self._key)
                    self._published = True
                    return
        raise StoreUnavailable(f"{self._key} was deleted while it was written: upload it under a new key")

    def close(self) -> None:
        os.close(self._fd)
        if not self._published:
            _discard(self._tree, self._key)


class _File(io.RawIOBase):
    """The bytes of a file from `offset` to `end`. A disk that fails under it is the store's failure."""

    def __init__(self, fd: int, tree: Tree, offset: int, end: int) -> None:
        self._fd = fd
        self._tree = tree
        self._at = offset
        self._end = end

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        wanted = min(len(buffer), self._end - self._at)
        if wanted <= 0:
            return 0
        with self._tree.border():
            count = os.preadv(self._fd, [memoryview(buffer)[:wanted]], self._at)
        self._at += count
        return count

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(COPY_SIZE) or b"", b""))

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def _discard(tree: Tree, key: str) -> None:
    with tree.border(), tree.folder(TMP) as tmp, suppress(FileNotFoundError):
        os.unlink(_temp_name(key), dir_fd=tmp)


def _temp_name(key: str) -> str:
    return key.replace("/", ".")  # keys hold no dots, so no two keys share a name


def _stat_blob(folder: int, name: str) -> os.stat_result | None:
    with suppress(FileNotFoundError):  # deleted since the folder was read
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return found if _is_blob(found) else None
    return None


def _is_blob(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _blob_stat(key: str, found: os.stat_result) -> BlobStat:
    return BlobStat(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _raise_unless_absent(error: OSError) -> None:
    """A folder that a delete dropped during the walk held nothing; any other error would hide blobs."""
    if error.errno not in ABSENT:
        raise error
