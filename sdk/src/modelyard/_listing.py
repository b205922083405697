"""What to read where: from the registry's list of a version's blobs and segments to a few long reads.

    files as segments of blobs ──sorted by blob──> neighbours joined, long ones cut ──> reads

One small GET per file would take a thousand round trips; one GET of everything would use one connection.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from modelyard._errors import InvalidPath
from modelyard._types import File

READ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes of a blob, from `offset` on, and where they belong: a path and a position in that file each.

    Often it is one place; a chunk that repeats, such as a run of zeros, is fetched once and written many times.
    """

    offset: int
    length: int
    places: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Read:
    """One request: neighbouring parts of one blob."""

    blob: int
    parts: Sequence[Part]
    whole: bool

    @property
    def offset(self) -> int:
        return self.parts[0].offset

    @property
    def length(self) -> int:
        return self.parts[-1].offset + self.parts[-1].length - self.offset

    def range(self) -> tuple[int, int] | None:
        """Offset and length to ask for; None for the whole blob."""
        return None if self.whole else (self.offset, self.length)


@dataclass(frozen=True, slots=True)
class Listing:
    """`blobs`: URL and size, by index; `segments`: [blob, offset, length], by path."""

    blobs: Mapping[int, tuple[str, int]]
    segments: Mapping[str, Sequence[tuple[int, int, int]]]

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        blobs = {index: (str(each["url"]), each["size"]) for index, each in enumerate(wire["blobs"])}
        if not all(type(size) is int and size >= 0 for _, size in blobs.values()):
            raise TypeError("the size of a blob is a natural number")
        segments = {}
        for each in wire["files"]:
            listed = [(blob, offset, length) for blob, offset, length in each["segments"]]
            if not all(type(number) is int and number >= 0 for segment in listed for number in segment):
                raise TypeError("segments are lists of three natural numbers")
            segments[str(each["path"])] = listed
        return cls(blobs, segments)

    def check(self, files: Sequence[File]) -> None:
        """Raise InvalidPath unless the segments of each file lie inside their blobs and add up to its size."""
        for file in files:
            segments = self.segments[file.path]
            inside = all(b in self.blobs and offset + n <= self.blobs[b][1] for b, offset, n in segments)
            if not inside or sum(length for _, _, length in segments) != file.size:
                raise InvalidPath(f"the segments of {file.path!r} do not make up the file")

    def reads(self, files: Sequence[File]) -> list[Read]:
        """What to ask for to get `files`, in the order in which the bytes stand in them."""
        by_blob: dict[int, dict[tuple[int, int], list[tuple[str, int]]]] = defaultdict(dict)
        for file in files:
            at = 0
            for blob, offset, length in self.segments[file.path]:
                for start in range(0, length, READ_BYTES):
                    piece = (offset + start, min(READ_BYTES, length - start))
                    by_blob[blob].setdefault(piece, []).append((file.path, at + start))
                at += length
        return [
            read
            for blob, pieces in by_blob.items()
            for read in self._joined(blob, [Part(*piece, places) for piece, places in pieces.items()])
        ]

    def _joined(self, blob: int, parts: Sequence[Part]) -> Iterator[Read]:
        size = self.blobs[blob][1]
        together: list[Part] = []
        for part in sorted(parts, key=lambda part: part.offset):
            if together:
                end = together[-1].offset + together[-1].length
                if part.offset != end or end + part.length - together[0].offset > READ_BYTES:
                    yield Read(blob, together, whole=False)
                    together = []
            together.append(part)
        if together:
            whole = together[0].offset == 0 and together[-1].offset + together[-1].length == size
            yield Read(blob, together, whole=whole)
