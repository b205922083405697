"""The cache of downloaded versions: shared by all processes, bounded, and trusting nothing that it finds.

fetch ── hold ── hashed: intact? ── yes ───────────────────────────────────────────────────────────────┐
                       no │                                                                            ▼
                  gather what is at hand ── make room ── download the rest ── settle ── evict ── a directory to read

hold      while it is fetched, and as long as somebody holds it, no process evicts it
gather    files that other versions brought, what is left of a damaged directory or of a killed fetch
settle    bytes, manifest, then the directory: each appears by a rename, so that none is ever half there

_cache_layout.py draws where everything lies; _cache_evict.py says what goes first.
"""

import contextlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelyard import _config
from modelyard._cache_content import Pool, is_file_intact, is_intact, places
from modelyard._cache_evict import bytes_taken, evict, names_in_use
from modelyard._cache_layout import Layout, name_of, remove
from modelyard._cache_lock import Hold, locked
from modelyard._cache_refs import References, all_seen, pinned_names
from modelyard._download import Source, fetch, private_directory, sync_directory
from modelyard._errors import IntegrityError, InvalidPath, NotCached
from modelyard._http import Http
from modelyard._manifest import check_files, manifest_digest
from modelyard._parallel import Progress
from modelyard._types import File, Version

Download = Callable[[Version, Sequence[File], Path], Path]
"""Called with a version, some of its files and a private directory: returns a directory in there with those, verified."""

_HELD = 32
_SHOWN = 10
_held: OrderedDict[tuple[Path, str], Hold] = OrderedDict()
_held_lock = threading.Lock()


def cached(http: Http | None, version: Version, home: Path, progress: Progress | None) -> Path:
    """The directory with the verified content of `version`, downloaded if need be. Treat it as read-only.

    With `http` None nothing is asked, and NotCached raised if anything is missing. This process holds the last 32
    versions that it got, so that no other evicts them while it reads.
    """
    cache = Cache(home / "cache")
    cache.prepare()
    hold = cache.hold(version.digest)
    try:
        directory = cache.fetch(version, _downloader(http, progress) if http else None)
    except BaseException:
        hold.close()
        raise
    _keep((cache.root, version.digest), hold)
    return directory


def _downloader(http: Http, progress: Progress | None) -> Download:
    def download(version: Version, files: Sequence[File], private: Path) -> Path:
        source = Source(http, version)
        source.files()
        return fetch(source, files, private, progress)

    return download


def _keep(key: tuple[Path, str], hold: Hold) -> None:
    with _held_lock:
        released = [_held.pop(key)] if key in _held else []
        _held[key] = hold
        if len(_held) > _HELD:
            released.append(_held.popitem(last=False)[1])
    for each in released:
        each.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in the cache. `refs` named it when last seen; `size` in bytes; `used_at` is in UTC."""

    digest: str
    refs: tuple[str, ...]
    files: int
    size: int
    used_at: datetime
    pinned: bool
    in_use: bool


class Cache:
    """The cache at `root`, in which `registry` (its URL) tells apart what references mean.

    `limit_bytes` (by default MODELYARD_CACHE_BYTES) may be exceeded by what is pinned or in use, and by nothing else.
    `prepare` comes first; every method raises InvalidPath when the cache cannot be used.
    """

    def __init__(self, root: Path, *, registry: str = "", limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = _config.cache_limit() if limit_bytes is None else limit_bytes
        self._layout = Layout(root)
        self.refs = References(self._layout, registry)

    @property
    def directories(self) -> tuple[Path, ...]:
        """All that must belong to nobody else: the root and what is right below it."""
        return self._layout.directories

    def prepare(self) -> None:
        """Create the cache; raise InvalidPath for one that somebody else could have put there or can write to."""
        self._layout.prepare()

    def fetch(self, version: Version, download: Download | None) -> Path:
        """The directory with the verified content of `version`. It may be evicted later, unless a hold was taken before.

        `download` None: raise NotCached if anything is missing. Otherwise raises what `download` does.
        """
        name = name_of(version.digest)
        directory = self._layout.version(name)
        with _disk_errors(self.root), contextlib.closing(self.hold(version.digest)):
            if not self._is_ready(name):
                lock, private = self._layout.fetching(name)
                with locked(lock):
                    private.mkdir(mode=0o700, exist_ok=True)
                    try:
                        if not self._is_ready(name):  # or somebody else was faster
                            self._make(version, name, private, download)
                    finally:
                        remove(private)
            os.utime(self._layout.manifest(name))
        return directory

    def hold(self, digest: str) -> Hold:
        """Keep a version, which need not be there yet, from being evicted until `close()` or the end of the process."""
        with _disk_errors(self.root), self._layout.locked():
            names_in_use(self._layout)  # removes what dead processes left
            return Hold.take(self._layout.held / f"{name_of(digest)}.{secrets.token_hex(8)}")

    def missing(self, version: Version) -> tuple[File, ...]:
        """The files of `version` whose bytes are not in the cache, or are damaged; hashes what is there."""
        name = name_of(version.digest)
        return tuple(
            file
            for file in _checked_files(version)
            if not any(is_file_intact(place, file) for place in places(self._layout, name, file))
        )

    def evict(self, limit_bytes: int | None = None) -> tuple[str, ...]:
        """Remove versions until `limit_bytes` (0: all that can go) are taken at most; returns their digests."""
        with _disk_errors(self.root), self._layout.locked():
            limit = self.limit_bytes if limit_bytes is None else limit_bytes
            return tuple(f"sha256:{name}" for name in evict(self._layout, limit))

    def bytes_taken(self) -> int:
        """By content, including what is being fetched at the moment."""
        return bytes_taken(self._layout)

    def entries(self) -> list[Entry]:
        """What is there, used last first. Nothing is hashed."""
        refs: dict[str, list[str]] = {}
        for seen in all_seen(self._layout):
            refs.setdefault(seen.version.digest, []).append(seen.ref)
        with self._layout.locked():
            pinned, in_use = pinned_names(self._layout), names_in_use(self._layout)
            names = self._layout.version_names()
            manifests = {name: self._layout.read_manifest(name) for name in names}
        return [
            Entry(
                digest=f"sha256:{name}",
                refs=tuple(sorted(refs.get(f"sha256:{name}", []))),
                files=len(manifests[name]),
                size=sum(file.size for file in manifests[name]),
                used_at=datetime.fromtimestamp(self._layout.used_at(name), UTC),
                pinned=name in pinned,
                in_use=name in in_use,
            )
            for name in reversed(names)
        ]

    def damaged(self, digest: str) -> tuple[str, ...] | None:
        """Paths in a version's directory that are not what they should be; None if it is intact. Hashes everything.

        The next fetch repairs it.
        """
        name = name_of(digest)
        if self._is_ready(name):
            return None
        files, directory = self._layout.read_manifest(name), self._layout.version(name)
        return tuple(file.path for file in files if not is_file_intact(directory / file.path, file))

    def _is_ready(self, name: str) -> bool:
        # The manifest is compared as well: without it, eviction does not know which files are this version's.
        return bool(self._layout.read_manifest(name)) and is_intact(
            self._layout.version(name), f"sha256:{name}"
        )

    def _make(self, version: Version, name: str, parent: Path, download: Download | None) -> None:
        files = _checked_files(version)
        with private_directory(parent) as private:
            pool = Pool(private / "pool")
            pool.gather(files, self._layout, name)
            missing = {file.digest: file for file in files if not pool.has(file)}.values()
            if missing and download is None:
                raise _not_cached(version, [file for file in files if not pool.has(file)])
            if missing and download:
                self.evict(self.limit_bytes - sum(file.size for file in missing))
                pool.take(missing, download(version, list(missing), private))
            pool.build(private / "tree", files)
            self._settle(name, files, pool, private)
        self.evict()

    def _settle(self, name: str, files: Sequence[File], pool: Pool, private: Path) -> None:
        directory = self._layout.version(name)
        with self._layout.locked():
            pool.move_to(self._layout, files)
            manifest = {"files": [file.to_wire() for file in files]}
            self._layout.write_json(self._layout.manifest(name), manifest)
            if directory.exists() or directory.is_symlink():
                directory.rename(private / "damaged")
            (private / "tree").rename(directory)
        sync_directory(self._layout.versions)


def _checked_files(version: Version) -> tuple[File, ...]:
    """The files of `version`, which its digest must stand for. Raises IntegrityError."""
    name = f"{version.model}/{version.number}"
    try:
        check_files(version.files)
    except InvalidPath as error:
        raise IntegrityError(
            f"The registry's list of files of {name} is refused, nothing was written: {error}"
        ) from error
    if manifest_digest(version.files) != version.digest:
        raise IntegrityError(f"The list of files of {name} is not the one that its digest stands for.")
    return version.files


def _not_cached(version: Version, files: Sequence[File]) -> NotCached:
    shown = ", ".join(repr(file.path) for file in files[:_SHOWN])
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    name, size = f"{version.model}/{version.number}", sum(file.size for file in files)
    return NotCached(
        f"The cache lacks {len(files)} of the {len(version.files)} files of {name} ({size} bytes): {shown}{more}. "
        f"Run `modelyard pull {name}` while the registry can be reached.",
        files,
    )


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidPath(
            f"The cache {str(root)!r} cannot be used: {error.strerror}. Make room, or set MODELYARD_HOME."
        ) from error
