"""Where everything lies in the cache, and how a small file gets there.

lock                        held for moments, by whoever moves names below
files/9f/<64 hex>           one file's bytes, by their SHA-256; read-only, written once
versions/<64 hex>/…         one version's content, by its manifest's digest: hard links to files/
manifests/<64 hex>.json     its list of files; there whenever the version is; the time of change is that of the last use
held/<64 hex>.<random>      locked by a process that uses the version: gone with the process
pins/<64 hex>.<key>.json    a reference that somebody pinned
seen/<key>.json             which version a reference named when the registry was last asked
partial/<64 hex>.lock, …/   of the process that fetches the version; what a killed one left is used by the next

Nothing of it is believed: content is hashed again before each use, and directories that others could write to are refused.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelyard._cache_lock import locked
from modelyard._errors import IntegrityError, InvalidPath
from modelyard._manifest import manifest_digest
from modelyard._types import File

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[0-9a-f]{64}")


def name_of(digest: str) -> str:
    """The 64 hexadecimal digits of a digest. Raises IntegrityError: anything else must not become a path."""
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise IntegrityError(f"{digest!r} is not a digest that could be verified.")
    return found[1]


class Layout:
    """The paths below `root`. Nothing is touched before `prepare`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.versions = root / "versions"
        self.manifests = root / "manifests"
        self.held = root / "held"
        self.pins = root / "pins"
        self.seen = root / "seen"
        self.partial = root / "partial"

    @property
    def directories(self) -> tuple[Path, ...]:
        below = (self.files, self.versions, self.manifests, self.held, self.pins, self.seen, self.partial)
        return (self.root, *below)

    def prepare(self) -> None:
        """Create the cache; raise InvalidPath for one that somebody else could have put there or can write to."""
        for directory in self.directories:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = directory.lstat()
            except OSError as error:
                raise InvalidPath(
                    f"The cache {str(directory)!r} cannot be used: {error.strerror}."
                ) from error
            foreign = hasattr(os, "geteuid") and (
                found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH
            )
            if foreign or not stat.S_ISDIR(found.st_mode):
                raise InvalidPath(
                    f"The cache {str(directory)!r} is a link, belongs to somebody else, or can be written by anybody: "
                    "remove it, or set MODELYARD_HOME."
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who moves names in the cache."""
        with locked(self.root / "lock"):
            yield

    def file(self, digest: str) -> Path:
        name = name_of(digest)
        return self.files / name[:2] / name

    def version(self, name: str) -> Path:
        return self.versions / name

    def manifest(self, name: str) -> Path:
        return self.manifests / f"{name}.json"

    def version_names(self) -> list[str]:
        """Of the versions in the cache, intact or not: the one that was not used for the longest time first."""
        names = (path.name for path in self.versions.iterdir() if _NAME.fullmatch(path.name))
        return sorted(names, key=self.used_at)

    def fetching(self, name: str) -> tuple[Path, Path]:
        """The lock for whoever fetches a version, and the directory in which that happens."""
        return self.partial / f"{name}.lock", self.partial / name

    def used_at(self, name: str) -> float:
        """Seconds since 1970; 0.0 when it is not known."""
        try:
            return self.manifest(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def read_manifest(self, name: str) -> Sequence[File]:
        """The files of a version; none when its manifest is absent or is not the one that `name` stands for."""
        content = read_json(self.manifest(name))
        try:
            files = [File.from_wire(each) for each in content["files"]]
        except (KeyError, TypeError):
            return ()
        return files if manifest_digest(files) == f"sha256:{name}" else ()

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Put a small file in place, whole. Only for whoever has the lock."""
        temporary = self.discarded()
        with temporary.open("x", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)

    def discarded(self) -> Path:
        """A new name in `partial` for what only the one with the lock needs: whoever comes next removes what is left."""
        return self.partial / f"{secrets.token_hex(8)}.tmp"

    def remove_discarded(self) -> None:
        for left in self.partial.glob("*.tmp"):
            remove(left)


def read_json(path: Path) -> dict[str, Any]:
    """An object; an empty one when there is none that could be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remove(path: Path) -> None:
    """Remove a file, link or directory, as far as it goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
