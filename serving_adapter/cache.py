"""Where the files of versions are kept: one directory per manifest digest, verified before each use.

    <cache-dir>/versions/<64 hexadecimal digits>/…

A download appears complete or not at all (the SDK renames it into place). What was there before is used only if the
manifest of what is on disk, every file hashed again, has the digest that is wanted; else it is fetched anew.
Nothing is removed from here: an operator may delete any directory while no adapter is starting or loading.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from modelyard import IntegrityError, Version

from serving_adapter.errors import CandidateRejected, UnsafeDirectory
from serving_adapter.upstream import Upstream

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Cache:
    """Verified directories, by digest."""

    def __init__(self, root: Path, upstream: Upstream) -> None:
        self._versions = root / "versions"
        self._upstream = upstream

    def prepare(self) -> None:
        """Create the directory; raise UnsafeDirectory if it, or the one around it, could be somebody else's."""
        for directory in (self._versions.parent, self._versions):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owned(directory)

    def fetch(self, version: Version) -> Path:
        """The directory with the verified files of `version`.

        Raises CandidateRejected for bytes that are not what the digest promises, and what the client or the disk
        raises when fetching may be tried again.
        """
        match = _DIGEST.fullmatch(version.digest)
        if match is None:
            raise CandidateRejected("fetch", "the version has no digest that could be verified")
        directory = self._versions / match[1]
        if directory.exists() and _digest_of(directory) != version.digest:
            shutil.rmtree(directory)
        if not directory.exists():
            try:
                self._upstream.download(version, directory)
            except IntegrityError as error:
                raise CandidateRejected("fetch", str(error)) from error
        return directory


def _check_owned(directory: Path) -> None:
    found = directory.lstat()
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or others_may_write:
        raise UnsafeDirectory(
            f"{directory} is a link, belongs to somebody else or can be written by others: remove it, or choose another "
            "directory with --cache-dir"
        )


def _digest_of(directory: Path) -> str | None:
    """The manifest digest of what is on disk; None if it holds anything but plain files and directories."""
    files: list[dict[str, Any]] = []
    for folder, names, leaves in os.walk(directory):
        if any(Path(folder, name).is_symlink() for name in names):
            return None
        for leaf in leaves:
            path = Path(folder, leaf)
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            files.append(_entry(path, path.relative_to(directory).as_posix()))
    files.sort(key=lambda file: str(file["path"]))
    manifest = {"files": files, "schema": "modelyard.manifest/1"}
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _entry(path: Path, name: str) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"digest": f"sha256:{digest}", "path": name, "size": path.stat().st_size}
