"""The bytes: which of a version's files are at hand, and a directory made of them.

files/, the version's own directory, what a killed fetch left ── link, hash ──> pool/<64 hex>  verified, ours alone
                                                     download ── move ────────>      │
                                                                                     └── link ──> tree/<path>…

The pool lies in a private directory, so that whatever other processes remove or repair meanwhile, its files stay.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelyard._cache_layout import Layout, name_of
from modelyard._download import sync_directory
from modelyard._errors import InvalidPath
from modelyard._manifest import collect, hash_stream, manifest_digest, open_regular
from modelyard._types import File

# Another device, too many links, a file system or policy without links.
_NO_LINKS = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # fmt: skip


def is_intact(directory: Path, digest: str) -> bool:
    """Whether `directory` holds exactly the files that the manifest's digest stands for; every byte is read."""
    try:
        found = collect(directory, own=True)
    except (InvalidPath, OSError):
        return False
    return not directory.is_symlink() and directory.is_dir() and manifest_digest(found) == digest


def is_file_intact(path: Path, file: File) -> bool:
    try:
        with open_regular(path) as stream:
            return hash_stream(stream) == (file.size, file.digest)
    except (InvalidPath, OSError):
        return False


def places(layout: Layout, name: str, file: File) -> list[Path]:
    """Where the bytes of `file`, of version `name`, may lie."""
    left = layout.partial.glob(f"{name}/*/content")
    return [
        layout.file(file.digest),
        layout.version(name) / file.path,
        *(folder / file.path for folder in left),
    ]


class Pool:
    """Verified files by digest, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory

    def path(self, file: File) -> Path:
        return self._directory / name_of(file.digest)

    def has(self, file: File) -> bool:
        return self.path(file).exists()

    def gather(self, files: Iterable[File], layout: Layout, name: str) -> None:
        """Take over every file that is at hand and intact."""
        for file in files:
            for place in [] if self.has(file) else places(layout, name, file):
                target = self.path(file)
                # Linked first and hashed then: what was hashed cannot be exchanged any more.
                if place.is_file() and _try_link(place, target):
                    if is_file_intact(target, file):
                        _make_read_only(target)
                        break
                    target.unlink()

    def take(self, files: Iterable[File], content: Path) -> None:
        """Move downloaded files here from the directory `content`."""
        for file in files:
            (content / file.path).replace(self.path(file))
            _make_read_only(self.path(file))

    def build(self, tree: Path, files: Sequence[File]) -> None:
        """Make the directory `tree` of all `files`, each of which must be in the pool."""
        for folder in {(tree / file.path).parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            link_or_copy(self.path(file), tree / file.path)
        for made, _, _ in os.walk(tree):
            sync_directory(Path(made))

    def move_to(self, layout: Layout, files: Iterable[File]) -> None:
        """Put every file into the cache. One that is there may be damaged, so it is replaced."""
        for file in {each.digest: each for each in files}.values():
            target = layout.file(file.digest)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self.path(file).replace(target)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _try_link(source: Path, target: Path) -> bool:
    try:
        link_or_copy(source, target)
    except FileNotFoundError:  # evicted a moment ago
        return False
    return True


def _make_read_only(path: Path) -> None:
    if os.name != "nt":  # where read-only files could not be removed either
        path.chmod(0o444)
