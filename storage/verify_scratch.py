"""What a check of a store is, and the place where it writes: a folder of a digest that nobody has.

    sha256/ab/<a random digest>/…      the scratch folder: blobs come and go
    sha256/cd/<another one>/…          next door: three blobs that must stay as they are

Nothing else in the store is read or written.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from storage.base import BlobStore
from storage.errors import BlobNotFound, StoreUnavailable
from storage.layout import new_key


class Broken(Exception):
    """The store did something that the registry relies on it not to do."""


class Lacks(Exception):
    """The store cannot do something that is good to have; the message tells what follows from it."""


class Inapplicable(Exception):
    """There is nothing to check."""


class Scratch:
    """The store under check, one folder of it that is ours, and a second one for blobs that must stay as they are."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._digest, self._other = _unheard_of(), _unheard_of()
        self.folder, self._next_door = (
            new_key(d).rpartition("/")[0] + "/" for d in (self._digest, self._other)
        )
        self.neighbours: dict[str, bytes] = {}
        self.stored: set[str] = set()  # blobs of our folder that were acknowledged and not deleted
        self._written: set[str] = set()  # whatever may be there, for a listing may forget some

    def key(self) -> str:
        key = new_key(self._digest)
        self._written.add(key)
        return key

    def delete(self, key: str) -> None:
        self.store.delete(key)
        self._written.discard(key)
        self.stored.discard(key)

    def put(self, data: bytes, key: str | None = None) -> str:
        key = key or self.key()
        self.store.put(key, BytesIO(data), size=len(data))
        self.stored.add(key)
        return key

    def move_in_next_door(self) -> None:
        for _ in range(3):
            key, data = new_key(self._other), os.urandom(1000)
            self._written.add(key)
            self.neighbours[key] = data
            self.store.put(key, BytesIO(data), size=len(data))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """What the store gives for a blob, or a range of it; None where it says that there is none."""
        try:
            with self.store.open(key, offset=offset, length=length) as blob:
                return blob.read()
        except BlobNotFound:
            return None

    def listed(self) -> set[str]:
        return {found.key for found in self.store.iterate(self.folder)}

    def clean_up(self) -> str:
        """Delete what we know of, and what else lies in both folders."""
        for key in self._left():
            with suppress(StoreUnavailable):
                self.delete(key)
        if left := len(self._left()):
            raise Broken(f"{left} blobs are left under {self.folder} or {self._next_door}")
        return ""

    def _left(self) -> set[str]:
        next_door = {found.key for found in self.store.iterate(self._next_door)}
        return self._written | self.listed() | next_door


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    meaning: str
    run: Callable[[Scratch], str]  # the detail, "" where there is nothing to add
    required: bool = True


def _unheard_of() -> str:
    return f"sha256:{os.urandom(32).hex()}"
