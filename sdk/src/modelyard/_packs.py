"""Cutting and packing: what is sent are blobs, made of small files or of parts of large ones.

    small files                 whole, one after the other                                  ──>  packs, in memory
    large files, nothing known  PART bytes each                                             ──>  parts, on disk
    large files, else           content-defined chunks  ──>  known already?  ──no──>             packs

Where the content decides where to cut (FastCDC), an insertion moves the cuts beside it and no others: the rest of a changed
file consists of chunks that are there already. The registry says how to cut, for it made the lists to compare with.
"""

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from modelyard._errors import IntegrityError
from modelyard._manifest import open_regular
from modelyard._wire import Span

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

PACK = 16 << 20
"""Bytes of a pack at most; files of this size and more are large."""
PART = 32 << 20
"""Bytes: half as many requests as for packs, and what failed is still sent again in a moment."""

_ENTRY = struct.Struct(">32sI")
_FORMAT = b"\x01"
_MAX_KNOWN = 300_000
_PIECE = 256 << 10
_READ = 1 << 20
_WINDOW = 4 << 20


class Pack:
    """Bytes on their way: filled by a packer, then hashed and sent by a worker. `digest` is known once it was hashed."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.size = 0
        self.digest = ""

    def hash(self) -> None:
        self.digest = f"sha256:{hashlib.sha256(self._content()).hexdigest()}"

    def pieces(self) -> Iterator[memoryview]:
        content = self._content()
        return (content[at : at + _PIECE] for at in range(0, self.size, _PIECE))

    def _content(self) -> memoryview:
        return memoryview(self.buffer)[: self.size]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file that was hashed, and is read once more when it is sent: it takes no memory while it waits."""

    source: Path
    offset: int
    size: int
    digest: str

    def pieces(self) -> Iterator[Span]:
        """Raises IntegrityError if the file has become shorter."""
        end = self.offset + self.size
        with open_regular(self.source) as stream:
            if os.fstat(stream.fileno()).st_size < end:
                raise changed(str(self.source))
            for at in range(self.offset, end, _PIECE):
                yield Span(stream, at, min(_PIECE, end - at))

    def require_unchanged(self) -> None:
        """Raises IntegrityError if these are not the bytes that were hashed."""
        hasher = hashlib.sha256()
        for piece in self.pieces():
            hasher.update(bytes(piece))
        if self.digest != f"sha256:{hasher.hexdigest()}":
            raise changed(str(self.source))


Place = tuple[Pack | str, int, int]
"""A pack, or the digest of a stored blob; offset; length."""


class Stretches:
    """Where the bytes of a file are, in order. Neighbours are joined."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    def add(self, blob: Pack | str, offset: int, length: int) -> None:
        last = self._places[-1] if self._places else None
        if last and last[0] == blob and last[1] + last[2] == offset:
            self._places[-1] = (blob, last[1], last[2] + length)
        else:
            self._places.append((blob, offset, length))

    def resolved(self) -> Iterator[tuple[str, int, int]]:
        """With the digests of packs, once all are known."""
        for blob, offset, length in self._places:
            yield (blob if isinstance(blob, str) else blob.digest), offset, length


@dataclass(frozen=True, slots=True)
class Cutting:
    """FastCDC's parameters: smallest, targeted and largest chunk in bytes, and the degree of normalization."""

    smallest: int
    target: int
    largest: int
    normalization: int

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        return cls(wire["smallest"], wire["target"], wire["largest"], wire["normalization"])

    def cutter(self) -> "FastCDC":
        """Raises TypeError or ValueError when these are no parameters."""
        from pyfastcdc import FastCDC

        normalization = cast("Any", self.normalization)
        return FastCDC(
            self.target, min_size=self.smallest, max_size=self.largest, normalized_chunking=normalization
        )

    def chunks(self, stream: "Hashing", known: "KnownChunks") -> Iterator[tuple[bytes, memoryview]]:
        """The chunks of a file: BLAKE3 and bytes, which are good until the next is asked for.

        A known chunk that is there where one expects it is not searched for. That takes a third of the time, and cuts as
        searching does, but behind what was the end of a file that was appended to.
        """
        from blake3 import blake3

        cutter, chunk = self.cutter(), b""
        window = _Window(stream, self.largest)
        while rest := window.rest():
            expected, length = known.after(chunk)
            if not 0 < length <= len(rest) or blake3(rest[:length]).digest() != expected:
                length = next(iter(cutter.cut_buf(rest[: self.largest]))).length
                expected = blake3(rest[:length]).digest()
            chunk = expected
            yield chunk, rest[:length]
            window.skip(length)


class _Window:
    """What comes next in a stream: at least `ahead` bytes of it, or all that are left.

    Of two buffers one is cut while the other is still being hashed.
    """

    def __init__(self, stream: "Hashing", ahead: int) -> None:
        self._stream = stream
        self._ahead = ahead
        self._buffer, self._other = (memoryview(bytearray(ahead + _WINDOW)) for _ in range(2))
        self._hashed: Future[None] | None = None
        self._other_hashed: Future[None] | None = None
        self._start = self._end = 0
        self._is_over = False

    def rest(self) -> memoryview:
        if self._end - self._start < self._ahead and not self._is_over:
            self._refill()
        return self._buffer[self._start : self._end]

    def skip(self, count: int) -> None:
        self._start += count

    def _refill(self) -> None:
        rest = self._buffer[self._start : self._end]
        self._buffer, self._other = self._other, self._buffer
        self._hashed, self._other_hashed = self._other_hashed, self._hashed
        if self._hashed:
            self._hashed.result()
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        while self._end < len(self._buffer):
            count, hashed = self._stream.readinto(self._buffer[self._end : self._end + _READ])
            if not count:
                self._is_over = True
                break
            self._hashed = hashed
            self._end += count


class KnownChunks:
    """Where chunks are: in stored files, or in packs that were filled a moment ago."""

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[Place, ...]] = {}
        self._next: dict[bytes, tuple[bytes, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add_stored(self, segments: Sequence[tuple[str, int, int]], listed: bytes) -> None:
        """The chunks of a stored file. A list of an unknown format is of no use, and ignored."""
        if listed[:1] != _FORMAT or (len(listed) - 1) % _ENTRY.size:
            return
        left, before = deque(segments), b""
        for chunk, length in _ENTRY.iter_unpack(listed[1:]):
            self.add(chunk, tuple(_take(left, length)))
            self._next.setdefault(before, (chunk, length))
            before = chunk

    def add(self, chunk: bytes, places: tuple[Place, ...]) -> None:
        if len(self._places) < _MAX_KNOWN:
            self._places.setdefault(chunk, places)

    def find(self, chunk: bytes) -> tuple[Place, ...] | None:
        return self._places.get(chunk)

    def after(self, chunk: bytes) -> tuple[bytes, int]:
        """The chunk, and its length, that follows this one in a stored file; after b"" comes the first. (b"", 0): none."""
        return self._next.get(chunk, (b"", 0))


def changed(path: str) -> IntegrityError:
    return IntegrityError(
        f"{path!r} changed while it was being uploaded. No version was made: publish again when nothing writes to it."
    )


def _take(segments: deque[tuple[str, int, int]], length: int) -> Iterator[Place]:
    """The next `length` bytes of a stored file."""
    while length:
        blob, offset, size = segments.popleft()
        count = min(length, size)
        yield blob, offset, count
        length -= count
        if size > count:
            segments.appendleft((blob, offset + count, size - count))


class Packer:
    """Fills packs and hands each full one to `send`. `new_buffer` waits until a buffer is free."""

    def __init__(self, new_buffer: Callable[[], bytearray], send: Callable[[Pack], None]) -> None:
        self._new_buffer = new_buffer
        self._send = send
        self._pack: Pack | None = None

    def room(self, size: int) -> Pack:
        """A pack with room for `size` bytes."""
        if self._pack is not None and self._pack.size + size > PACK:
            self.flush()
        if self._pack is None:
            self._pack = Pack(self._new_buffer())
        return self._pack

    def add(self, data: memoryview) -> Place:
        """Put one chunk into a pack; returns where it is."""
        pack = self.room(len(data))
        offset = pack.size
        pack.buffer[offset : offset + len(data)] = data
        pack.size += len(data)
        return pack, offset, len(data)

    def flush(self) -> None:
        if self._pack is not None and self._pack.size:
            self._send(self._pack)
            self._pack = None


class Hashing:
    """Reads from `stream`, and hashes what was read in a thread of its own: cutting and hashing take a core each."""

    def __init__(self, stream: BinaryIO) -> None:
        self.size = 0
        self._stream = stream
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="modelyard-hash")

    def readinto(self, buffer: memoryview) -> "tuple[int, Future[None]]":
        """Read into a buffer, and hash it there: it may change once the future is done. Returns the count first."""
        count = _read_into(self._stream, buffer)
        self.size += count
        return count, self._thread.submit(self._hash.update, buffer[:count])

    def parts(self, source: Path) -> Iterator[Part]:
        """All of `source`, which is what the stream reads, in parts of PART bytes."""
        buffer = memoryview(bytearray(_READ))
        while size := self._part(buffer, part := hashlib.sha256()):
            yield Part(source, self.size - size, size, f"sha256:{part.hexdigest()}")

    def _part(self, buffer: memoryview, part: "hashlib._Hash") -> int:
        """Read and hash up to PART bytes; returns how many. What fits the processor's cache is read once, hashed twice."""
        left = PART
        while left and (count := _read_into(self._stream, buffer[:left])):
            piece = buffer[:count]
            whole = self._thread.submit(self._hash.update, piece)
            part.update(piece)
            whole.result()
            self.size += count
            left -= count
        return PART - left

    def digest(self) -> str:
        """The digest of all that was read; ends the thread."""
        self._thread.shutdown()
        return f"sha256:{self._hash.hexdigest()}"


def _read_into(stream: BinaryIO, buffer: memoryview) -> int:
    count: int = stream.readinto(buffer)  # type: ignore[attr-defined]  # a real file has it
    return count
