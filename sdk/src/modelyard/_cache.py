"""The cache of downloaded versions, which trusts nothing that it finds.

MODELYARD_HOME/cache/versions/
    <64 hexadecimal digits of the manifest's digest>/    one version's content, whatever model it belongs to
    .modelyard-…/                                         a download under way, or what a killed one left

An entry is used only after every file in it was hashed again and the manifest has the version's digest; a damaged one is
fetched anew and put in its place. Two processes may fetch the same version: the first to finish wins.
"""

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path

from modelyard._download import PRIVATE_PREFIX, Source, fetch, private_directory, sync_directory
from modelyard._errors import IntegrityError, InvalidPath
from modelyard._http import Http
from modelyard._manifest import collect, manifest_digest
from modelyard._parallel import Progress
from modelyard._types import Version

_ABANDONED_AFTER_S = 24 * 3600
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def cached(http: Http, version: Version, home: Path, progress: Progress | None) -> Path:
    """The directory with the verified content of `version`, downloaded if need be. Treat it as read-only."""
    found = _DIGEST.fullmatch(version.digest)
    if not found:
        raise IntegrityError(f"{version.model}/{version.number} has no usable digest.")
    versions = home / "cache" / "versions"
    _prepare(versions)
    entry = versions / found[1]
    if _is_intact(entry, version.digest):
        return entry
    source = Source(http, version)
    files = source.files()
    with private_directory(versions) as private:
        fresh = fetch(source, files, private, progress)
        _put(fresh, entry, version.digest, private)
    sync_directory(versions)
    return entry


def _prepare(versions: Path) -> None:
    """Create the cache; refuse one that somebody else could have put there or can write to."""
    try:
        versions.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = versions.lstat()
    except OSError as error:
        raise InvalidPath(f"The cache {str(versions)!r} cannot be used: {error.strerror}.") from error
    foreign = hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH)
    if foreign or not stat.S_ISDIR(found.st_mode):
        raise InvalidPath(
            f"The cache {str(versions)!r} is a link, belongs to somebody else, or can be written by anybody: "
            "remove it, or set MODELYARD_HOME."
        )
    for left in versions.glob(PRIVATE_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):  # its owner may be removing it
            if time.time() - left.lstat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)


def _is_intact(entry: Path, digest: str) -> bool:
    try:
        return (
            not entry.is_symlink() and entry.is_dir() and manifest_digest(collect(entry, own=True)) == digest
        )
    except (InvalidPath, OSError):
        return False


def _put(fresh: Path, entry: Path, digest: str, private: Path) -> None:
    """Move `fresh` to `entry`; what is there already is moved aside, unless it is intact."""
    for attempt in range(3):
        try:
            fresh.rename(entry)
        except OSError:
            if _is_intact(entry, digest):
                return  # another process was faster
            if entry.exists() or entry.is_symlink():
                entry.rename(private / f"damaged-{attempt}")
        else:
            return
    raise InvalidPath(f"{str(entry)!r} cannot be put in place: other processes keep writing there.")
