"""Making room: what was not used for the longest time goes first, whole versions at a time.

abandoned fetches ──> versions, oldest use first, unless pinned or in use ──> files that no version has any more

Everything here is for whoever has the cache's lock. Killed at any point, it leaves what the next one removes.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modelyard._cache_layout import Layout, name_of, remove
from modelyard._cache_lock import is_free, locked_if_free
from modelyard._cache_refs import pinned_names

_ABANDONED_AFTER_S = 24 * 3600


def evict(layout: Layout, limit_bytes: int) -> list[str]:
    """Remove versions until `limit_bytes` are taken at most, or only pinned ones and those in use are left.

    Returns the names of those removed.
    """
    layout.remove_discarded()
    _remove_abandoned(layout, older_than_s=_ABANDONED_AFTER_S)
    if bytes_taken(layout) <= limit_bytes:
        return []
    _remove_abandoned(layout, older_than_s=0)
    _remove_unreferenced(layout)
    kept, gone = pinned_names(layout) | names_in_use(layout), []
    for name in layout.version_names():
        if bytes_taken(layout) <= limit_bytes:
            break
        if name not in kept:
            _remove_version(layout, name)
            gone.append(name)
    return gone


def bytes_taken(layout: Layout) -> int:
    """By all content, whoever fetches it; a file that has several names counts once."""
    found = {}
    for top in (layout.files, layout.versions, layout.partial):
        for path in _paths(top):
            try:
                status = path.lstat()
            except FileNotFoundError:  # a fetch that ends needs no lock to tidy up
                continue
            found[status.st_dev, status.st_ino] = status.st_size
    return sum(found.values())


def names_in_use(layout: Layout) -> set[str]:
    """Of versions that a living process holds or fetches. What dead ones left is removed."""
    names = set()
    for path in layout.held.iterdir():
        if is_free(path):
            path.unlink(missing_ok=True)
        else:
            names.add(path.name.partition(".")[0])
    return names


def _remove_abandoned(layout: Layout, *, older_than_s: float) -> None:
    """Remove what killed fetches left, which the next fetch of the same version could use."""
    for lock in layout.partial.glob("*.lock"):
        with locked_if_free(lock) as free:
            if free and time.time() - lock.stat().st_mtime >= older_than_s:
                remove(lock.with_suffix(""))
                with contextlib.suppress(PermissionError):  # where open files cannot be removed
                    lock.unlink()


def _remove_version(layout: Layout, name: str) -> None:
    discarded = layout.discarded()
    layout.version(name).rename(discarded)
    remove(discarded)
    _remove_unreferenced(layout)


def _remove_unreferenced(layout: Layout) -> None:
    """Remove manifests without a version, then files without a manifest."""
    present, wanted = set(layout.version_names()), set()
    for path in layout.manifests.glob("*.json"):
        if path.stem in present:
            wanted |= {name_of(file.digest) for file in layout.read_manifest(path.stem)}
        else:
            path.unlink()
    for path in _paths(layout.files):
        if path.name not in wanted:
            path.unlink()


def _paths(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield Path(folder, name)
