"""What every store must do, checked with one blob after the other: written, read, listed, deleted."""

import os

from storage.errors import KeyExists, SizeMismatch
from storage.s3_rules import PART_SIZE
from storage.verify_scratch import Broken, Check, Scratch

LARGE = 20 << 20  # bytes: two parts and a half of a multipart upload
SIZES = (0, 1, 1000, 100_000)  # bytes
ROUNDS = 5  # a store that answers from a stale copy does so only now and then


def read_after_write(scratch: Scratch) -> str:
    for size in SIZES * ROUNDS:
        data = os.urandom(size)
        key = scratch.put(data)
        _require_same(scratch.read(key), data)
        found = scratch.store.stat(key)
        if found is None or found.size != size:
            raise Broken(f"a blob of {size} bytes is said to have {found.size if found else 'none'}")
    return f"{len(SIZES) * ROUNDS} blobs of up to {SIZES[-1]} bytes"


def list_after_write(scratch: Scratch) -> str:
    for _ in range(ROUNDS):
        scratch.put(b"listed")
        if missing := scratch.stored - scratch.listed():
            raise Broken(f"{len(missing)} of {len(scratch.stored)} blobs are not listed")
    return ""


def overwrite_visible(scratch: Scratch) -> str:
    refused = False
    for _ in range(ROUNDS):
        first, second = os.urandom(1000), os.urandom(2000)
        key = scratch.put(first)
        _require_same(scratch.read(key), first)
        try:
            scratch.put(second, key)
        except KeyExists:
            refused = True
            _require_same(scratch.read(key), first)
        else:
            _require_same(scratch.read(key), second)
    return "a second write to a key is refused" if refused else "the second one is read at once"


def read_after_delete(scratch: Scratch) -> str:
    for _ in range(ROUNDS):
        key = scratch.put(b"deleted")
        _require_same(scratch.read(key), b"deleted")
        scratch.delete(key)
        scratch.delete(key)
        if scratch.read(key) is not None or scratch.store.stat(key) is not None:
            raise Broken("a deleted blob is still there")
    return ""


def list_after_delete(scratch: Scratch) -> str:
    for _ in range(ROUNDS):
        key = scratch.put(b"deleted")
        scratch.delete(key)
        if key in scratch.listed():
            raise Broken("a deleted blob is still listed")
    return ""


def whole_or_not_at_all(scratch: Scratch) -> str:
    for size, given in ((10, 9), (10, 11), (PART_SIZE + 10, PART_SIZE + 9), (PART_SIZE + 10, PART_SIZE + 11)):
        key = scratch.key()
        try:
            scratch.store.put(key, _Bytes(given), size=size)
        except SizeMismatch:
            pass
        else:
            raise Broken(f"{given} bytes were taken for {size}")
        if scratch.read(key) is not None or key in scratch.listed():
            raise Broken("an upload that failed has left a blob")
    return ""


def large_blob(scratch: Scratch) -> str:
    data = os.urandom(LARGE)
    _require_same(scratch.read(scratch.put(data)), data)
    return f"{LARGE >> 20} MiB"


def ranges(scratch: Scratch) -> str:
    data = os.urandom(PART_SIZE + 1000)
    key = scratch.put(data)
    size = len(data)
    for offset, length in (
        (0, 100), (PART_SIZE - 50, 100), (size - 100, 100), (size - 1, None), (5, 0),
        (size - 10, 100), (size, 1), (size + 1, None), (size + 1000, 1000),
    ):  # fmt: skip
        expected = data[offset : None if length is None else offset + length]
        found = scratch.read(key, offset, length)
        if found != expected:
            raise Broken(
                f"{length or 'all'} bytes from byte {offset} of {size}: "
                f"expected {len(expected)} bytes, got {_described(found)}"
            )
    return "first, middle, last, past the end"


def neighbours_settle(scratch: Scratch) -> str:
    scratch.move_in_next_door()
    for key, data in scratch.neighbours.items():
        _require_same(scratch.read(key), data)
        if key in scratch.listed():
            raise Broken("a listing names a blob of another prefix")
    return ""


def _require_same(found: bytes | None, data: bytes) -> None:
    if found != data:
        raise Broken(f"{len(data)} bytes were written, read back: {_described(found)}")


def _described(found: bytes | None) -> str:
    return "nothing" if found is None else f"{len(found)} bytes that differ"


class _Bytes:
    """A source of so many bytes."""

    def __init__(self, count: int) -> None:
        self._left = count

    def read(self, size: int, /) -> bytes:
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


CHECKS = [
    Check("prefixes", "blobs of another prefix are not listed", neighbours_settle),
    Check("read after write", "a blob is read back at once, and as it was", read_after_write),
    Check("list after write", "a blob is listed at once", list_after_write),
    Check("overwrite", "a key holds one blob, whole, and never an older one", overwrite_visible),
    Check("read after delete", "a deleted blob is not found", read_after_delete),
    Check("list after delete", "a deleted blob is not listed", list_after_delete),
    Check("whole or not at all", "an upload that fails leaves nothing to see", whole_or_not_at_all),
    Check("large blob", "a blob that is sent in parts comes back as it was", large_blob),
    Check("ranges", "a part of a blob is read alone, and is the right part", ranges),
]
