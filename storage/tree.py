"""The folders of a disk store, and how they are entered: each inside the one before it, following no link.

    <root>/
    ├── blobs/
    │   └── sha256/9f/9f86…/3b1f…           a blob, at its key
    └── tmp/
        └── sha256.9f.9f86….3b1f…           the same blob while it is written; a crash leaves it here, unseen

The root may be a link, for the operator chose it; a link planted anywhere below it leads nowhere. Where
blobs/ or tmp/ are gone (an unmounted volume), the store is down, not empty: they are made when a store is
opened, not later.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from storage.errors import BlobNotFound, StoreUnavailable
from storage.layout import check_key

BLOBS, TMP = "blobs", "tmp"
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}

_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Tree:
    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self) -> None:
        with self.border():
            for name in (BLOBS, TMP):
                _make_folder(self._root / name)

    @contextmanager
    def border(self) -> Iterator[None]:
        """What the operating system refuses in here is StoreUnavailable out there."""
        try:
            yield
        except OSError as e:
            reason = os.strerror(e.errno) if e.errno else type(e).__name__
            advice = "check that it is mounted, writable by this user and not full"
            raise StoreUnavailable(f"storage folder {self._root}: {reason}; {advice}") from e

    @contextmanager
    def folder(self, name: str) -> Iterator[int]:
        """The descriptor of blobs/ or tmp/."""
        with _enter(self._root, [name]) as [_, folder]:
            yield folder

    @contextmanager
    def place(self, key: str) -> Iterator[tuple[int, str]]:
        """The folder of a blob and the blob's name in it; BlobNotFound where either is missing."""
        check_key(key)
        *names, name = key.split("/")
        with self.border(), self.folder(BLOBS) as blobs:
            try:
                with _enter(blobs, names) as folders:
                    yield folders[-1], name
            except OSError as e:
                if e.errno not in ABSENT:
                    raise
                raise BlobNotFound(key) from e

    def path(self, key: str) -> Path:
        """Where the blob of `key` belongs; who opens it follows links, as nobody does in here."""
        check_key(key)
        return self._root / BLOBS / key

    def lstat(self, key: str) -> os.stat_result | None:
        """What lies at `key`, be it a blob or not."""
        try:
            with self.place(key) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except BlobNotFound:
            return None

    def move_into_place(self, temp: str, key: str) -> None:
        """Rename a file of tmp/ to `key`, durably; FileNotFoundError where a folder was dropped just then."""
        *names, name = key.split("/")
        with (
            self.folder(TMP) as tmp,
            self.folder(BLOBS) as blobs,
            _enter(blobs, names, create=True) as folders,
        ):
            os.rename(temp, name, src_dir_fd=tmp, dst_dir_fd=folders[-1])
            # also the folders that were there: the put that made them may not have fsynced them yet
            for folder in reversed(folders):
                os.fsync(folder)

    def drop_empty_folder(self, key: str) -> None:
        """Else a store with much coming and going fills with a folder for each digest that ever was."""
        *names, folder, _ = ["", *key.split("/")]
        if not folder:
            return  # the key is a single name, which lies in blobs/ itself
        # not empty, gone, or a link: there is nothing to do, and the blob is deleted either way
        with suppress(OSError), _enter(self._root, [BLOBS, *names[1:]]) as folders:
            os.rmdir(folder, dir_fd=folders[-1])


@contextmanager
def _enter(start: Path | int, names: Sequence[str], *, create: bool = False) -> Iterator[list[int]]:
    """Descriptors of `start` (a path, or an open folder) and of each name inside the folder before it."""
    with ExitStack() as opened:

        def enter(path: Path | str, flags: int, within: int | None = None) -> int:
            fd = os.open(path, flags, dir_fd=within)
            opened.callback(os.close, fd)
            return fd

        folders = [start if isinstance(start, int) else enter(start, _FOLDER)]
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=folders[-1])
            folders.append(enter(name, _FOLDER | os.O_NOFOLLOW, folders[-1]))
        yield folders


def _make_folder(folder: Path) -> None:
    """Like mkdir -p, but durable: each new name is fsynced in the folder that holds it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    with _enter(folder.parent, []) as [parent]:
        os.fsync(parent)
