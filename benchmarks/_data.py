"""The bytes that are moved: random, so that no two rounds share any, and on disk before the clock starts."""

import filecmp
import os
import random
from pathlib import Path

CHUNK = 16 << 20
FILES, FILE_SIZE = 1000, 10 * 1024
REGIONS, CHANGED = 50, 0.05


def random_file(path: Path, size: int) -> Path:
    """`size` new random bytes, in the page cache and on disk: its writing back shall not fall into a measurement."""
    with path.open("wb") as file:
        _append(file.fileno(), size)
    return path


def random_folder(path: Path) -> Path:
    """1,000 files of 10 KiB."""
    path.mkdir()
    for number in range(FILES):
        (path / f"part-{number:04}.bin").write_bytes(os.urandom(FILE_SIZE))
    os.sync()
    return path


def change(path: Path) -> None:
    """Overwrite 5 % of the file: 50 contiguous regions, one at a random place in each fiftieth."""
    slot = path.stat().st_size // REGIONS
    length = int(slot * CHANGED)
    with path.open("r+b") as file:
        for number in range(REGIONS):
            file.seek(number * slot + random.randrange(slot - length))  # noqa: S311 - a place, no secret
            file.write(os.urandom(length))
        file.flush()
        os.fsync(file.fileno())


def append(path: Path) -> None:
    """Make the file 5 % longer."""
    with path.open("ab") as file:
        _append(file.fileno(), int(path.stat().st_size * CHANGED))


def require_same(one: Path, other: Path) -> None:
    """AssertionError if two files, or the files of two flat folders, are not the same: nobody wins by losing bytes."""
    names = sorted(entry.name for entry in one.iterdir()) if one.is_dir() else [""]
    for name in names:
        if not filecmp.cmp(one / name, other / name, shallow=False):
            raise AssertionError(f"{other / name} is not what was uploaded")


def _append(file: int, size: int) -> None:
    for start in range(0, size, CHUNK):
        os.write(file, os.urandom(min(CHUNK, size - start)))
    os.fsync(file)
