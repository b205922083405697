"""Reading exactly as many bytes as were announced, whatever the source does; and where a range ends."""

from typing import Protocol

from storage.errors import SizeMismatch


class Source(Protocol):
    """All that a store asks of what it stores: an open file will do, and so will anything that hashes on the way."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end, and only there."""


def end_of_range(offset: int, length: int | None) -> int | None:
    """The first byte after the range, None for "to the end"; ValueError where there is no such range."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset {offset} and length {length}: neither may be negative")
    return None if length is None else offset + length


class ExactSource:
    """Hands out the `size` bytes of `source`, then b"".

    A source that goes on is found out before the last bytes are handed out: a backend that is refused its
    last part has completed nothing.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._received = 0
        self._at_end = False

    def read(self, n: int = -1) -> bytes:
        """The next `n` bytes, fewer only at the end (a socket or pipe may give its bytes in driblets)."""
        left = self._size - self._received
        wanted = left if n < 0 else min(n, left)
        data = self._gather(wanted)
        if self._received >= self._size and not self._at_end:
            self._require_end()
        return data

    def _gather(self, wanted: int) -> bytes:
        pieces = []
        missing = wanted
        while missing > 0:
            piece = self._source.read(missing)
            if not piece:
                raise SizeMismatch(expected=self._size, received=self._received)
            pieces.append(piece)
            missing -= len(piece)
            self._received += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _require_end(self) -> None:
        self._at_end = True
        if self._received > self._size or self._source.read(1):
            raise SizeMismatch(expected=self._size, received=self._size + 1)
