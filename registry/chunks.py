"""Cutting large files where their content says so, to find again the parts of them that did not change.

    verify.py reads a large file once ──> Cutter ──> list of chunks, kept with the content
    a later upload gets that list, cuts its own file in the same way, and sends only chunks that are not in it

The list is made here, never taken from a client: nobody can make others build on bytes that are not what they say.

    one byte: the format's version (1), then per chunk, in order, 32 bytes BLAKE3 and 4 bytes length (big-endian)

FastCDC 2020 cuts; where it cuts depends on its parameters, which are therefore part of the format. BLAKE3 names chunks
rather than SHA-256, for a chunk is hashed beside its file: with two SHA-256 a core would be busy for half as long again.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from blake3 import blake3
from pyfastcdc import FastCDC

LARGE = 16 << 20
"""Bytes; smaller files are not cut."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where FastCDC cuts: smallest, targeted and largest chunk in bytes, and its degree of normalization."""

    smallest: int
    target: int
    largest: int
    normalization: int


# Chunks of 128 KiB on average. A smallest chunk as large as the target is cut at twice the speed of a quarter of it.
CUTTING = Cutting(96 << 10, 96 << 10, 512 << 10, 2)

_ENTRY = struct.Struct(">32sI")


class Pieces:
    """An iterator of bytes as the stream that a cutter reads; `size` counts what it gave."""

    def __init__(self, pieces: Iterator[bytes | memoryview]) -> None:
        self.size = 0
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        self.size += len(part)
        return len(part)


def list_chunks(pieces: Iterator[bytes | memoryview]) -> bytes:
    """The list of chunks of what `pieces` add up to."""
    cutter = FastCDC(
        CUTTING.target,
        min_size=CUTTING.smallest,
        max_size=CUTTING.largest,
        normalized_chunking=cast("Any", CUTTING.normalization),
    )
    entries = [
        _ENTRY.pack(blake3(chunk.data).digest(), chunk.length)
        for chunk in cutter.cut_stream(cast("BinaryIO", Pieces(pieces)))
    ]
    return bytes([FORMAT]) + b"".join(entries)
