import hashlib
import io
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard import IntegrityError, _packs
from modelyard._errors import InvalidPath
from modelyard._packs import Cutting, Hashing, KnownChunks, Pack, Packer, Part, Stretches

from registry import chunks
from tests.unit.sdk_fake import digest_of

CUT = Cutting(1 << 10, 4 << 10, 16 << 10, 2)
CONTENT = random.Random(2).randbytes(500_000)  # noqa: S311 - the same each time


def cut(
    content: bytes, cutting: Cutting = CUT, known: KnownChunks | None = None
) -> list[tuple[bytes, bytes]]:
    chunks = cutting.chunks(Hashing(io.BytesIO(content)), known or KnownChunks())
    return [(chunk, bytes(data)) for chunk, data in chunks]


def cut_evenly(folder: Path, content: bytes) -> tuple[list[Part], Hashing]:
    file = folder / "file"
    file.write_bytes(content)
    with file.open("rb") as stream:
        hashing = Hashing(stream)
        return list(hashing.parts(file)), hashing


def sent(blob: Pack | Part) -> bytes:
    return b"".join(bytes(piece) for piece in blob.pieces())


def listed(content: bytes) -> bytes:
    return b"\1" + b"".join(chunk + len(data).to_bytes(4, "big") for chunk, data in cut(content))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packs, "PACK", 1000)


# ── cutting


def test_chunks_tile_the_file_and_keep_to_their_sizes() -> None:
    found = [data for _, data in cut(CONTENT)]
    assert b"".join(found) == CONTENT
    assert all(CUT.smallest <= len(each) <= CUT.largest for each in found[:-1])


def test_an_insertion_moves_the_cuts_beside_it_only() -> None:
    before = {chunk for chunk, _ in cut(CONTENT)}
    for at in (0, 250_000, 500_000):
        after = {chunk for chunk, _ in cut(CONTENT[:at] + b"inserted" + CONTENT[at:])}
        assert 0 < len(after - before) < 6


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda c: c,
    "regions": lambda c: c[:50_000] + b"changed" + c[50_007:300_000] + b"changed" + c[300_007:],
    "in front": lambda c: b"inserted" + c,
    "inserted": lambda c: c[:200_000] + b"inserted" + c[200_000:],
    "cut out": lambda c: c[:100_000] + c[150_000:],
    "repeated": lambda c: c[:100_000] * 3 + c,
    "truncated": lambda c: c[:250_000],
    "other": lambda _: random.Random(3).randbytes(100_000),  # noqa: S311 - the same each time
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_expected_is_cut_as_what_is_searched_for(monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    monkeypatch.setattr(_packs, "_READ", 7_000)
    monkeypatch.setattr(_packs, "_WINDOW", 20_000)
    known = KnownChunks()
    known.add_stored([("x", 0, len(CONTENT))], listed(CONTENT))
    content = EDITS[edit](CONTENT)
    assert cut(content, known=known) == cut(content)


def test_what_is_expected_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known, content = KnownChunks(), CONTENT[:400_000] + b"changed" + CONTENT[400_007:]
    known.add_stored([("x", 0, len(CONTENT))], listed(CONTENT))
    searched, cutter = [], Cutting.cutter
    monkeypatch.setattr(Cutting, "cutter", lambda self: Searching(cutter(self), searched))
    assert b"".join(data for _, data in cut(content, known=known)) == content
    assert 0 < len(searched) < 4


class Searching:
    """A cutter that counts."""

    def __init__(self, cutter: Any, searched: list[int]) -> None:
        self._cutter, self._searched = cutter, searched

    def cut_buf(self, data: memoryview) -> Any:
        self._searched.append(len(data))
        return self._cutter.cut_buf(data)


def test_what_was_the_end_of_a_file_is_found_in_front_of_what_was_appended() -> None:
    known = KnownChunks()
    known.add_stored([("x", 0, len(CONTENT))], listed(CONTENT))
    found = cut(CONTENT + b"appended", known=known)
    assert found[:-1] == cut(CONTENT)
    assert found[-1][1] == b"appended"


def test_the_sdk_and_the_registry_cut_alike() -> None:
    """Two implementations of one rule: if they differ, nothing is ever found again."""
    content = CONTENT * 5
    cutting = Cutting.from_wire(asdict(chunks.CUTTING))
    ours = b"\1" + b"".join(chunk + len(data).to_bytes(4, "big") for chunk, data in cut(content, cutting))
    pieces = (content[at : at + 77_777] for at in range(0, len(content), 77_777))
    assert chunks.list_chunks(pieces) == ours
    assert len(ours) > 1 + 36


class SlowHash:
    """Falls behind whoever reads."""

    def __init__(self) -> None:
        self._hash = hashlib.new("sha256")
        self.hexdigest = self._hash.hexdigest

    def update(self, piece: memoryview) -> None:
        time.sleep(0.001)
        self._hash.update(piece)


def test_what_is_cut_is_hashed_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are used again, but not before what they hold was hashed."""
    monkeypatch.setattr(_packs, "_WINDOW", 10_000)
    digest = digest_of(CONTENT * 9)
    monkeypatch.setattr(hashlib, "sha256", SlowHash)
    hashing = Hashing(io.BytesIO(CONTENT * 9))
    for _ in CUT.chunks(hashing, KnownChunks()):
        pass
    assert (hashing.size, hashing.digest()) == (9 * len(CONTENT), digest)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 3 * 4096, len(CONTENT)])
def test_what_is_cut_evenly_is_hashed_as_a_whole_and_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(_packs, "PART", 4096)
    monkeypatch.setattr(_packs, "_PIECE", 1000)
    monkeypatch.setattr(_packs, "_READ", 1000)
    content = CONTENT[:size]
    parts, hashing = cut_evenly(tmp_path, content)
    assert (hashing.size, hashing.digest()) == (size, digest_of(content))
    assert [part.offset for part in parts] == list(range(0, size, 4096))
    assert b"".join(sent(part) for part in parts) == content
    assert [part.digest for part in parts] == [digest_of(sent(part)) for part in parts]


def test_what_is_sent_leaves_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow line must move one within the timeout."""
    monkeypatch.setattr(_packs, "PART", 10_000_000)
    content = bytes(10_000_000)
    pack = Pack(bytearray(content))
    pack.size = len(content)
    [part], _ = cut_evenly(tmp_path, content)
    for blob in (pack, part):
        assert max(map(len, blob.pieces())) == 256 << 10
        assert sent(blob) == content


def test_a_part_that_is_not_what_was_hashed_is_never_sent_as_if_it_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_packs, "PART", 4096)
    (first, last), _ = cut_evenly(tmp_path, CONTENT[:5000])
    first.require_unchanged()
    file = tmp_path / "file"
    file.write_bytes(CONTENT[:10] + b"!" + CONTENT[11:4999])
    with pytest.raises(IntegrityError, match="changed while"):
        first.require_unchanged()
    with pytest.raises(IntegrityError, match="changed while"):
        sent(last)
    file.unlink()
    file.symlink_to("elsewhere")
    with pytest.raises(InvalidPath):
        sent(first)


# ── what is known


def test_stored_chunks_are_found_where_they_lie() -> None:
    """Chunks do not end where segments do."""
    blobs = {"x": CONTENT[:200_000] + b"other", "y": b"other" + CONTENT[200_000:]}
    known = KnownChunks()
    assert not known
    known.add_stored([("x", 0, 200_000), ("y", 5, 300_000)], listed(CONTENT))
    assert known
    for chunk, data in cut(CONTENT):
        places = known.find(chunk)
        assert places is not None
        assert b"".join(blobs[str(blob)][at : at + length] for blob, at, length in places) == data
    assert known.find(hashlib.sha256().digest()) is None


@given(st.lists(st.integers(1, 90_000), max_size=30))
def test_stored_chunks_are_found_however_the_file_is_stored(lengths: list[int]) -> None:
    segments, blobs, at = [], {}, 0
    for number, length in enumerate([*lengths, len(CONTENT)]):
        part = CONTENT[at : at + length]
        blobs[f"{number}"] = b"-" * number + part
        segments.append((f"{number}", number, len(part)))
        at += len(part)
    known = KnownChunks()
    known.add_stored(segments, listed(CONTENT))
    for chunk, data in cut(CONTENT):
        found = known.find(chunk) or ()
        assert b"".join(blobs[str(blob)][at : at + length] for blob, at, length in found) == data


@pytest.mark.parametrize("chunks_of", [b"", b"\2" + listed(CONTENT)[1:], listed(CONTENT)[:-1]])
def test_a_list_of_an_unknown_format_is_ignored(chunks_of: bytes) -> None:
    known = KnownChunks()
    known.add_stored([("x", 0, len(CONTENT))], chunks_of)
    assert not known


def test_a_list_longer_than_its_file_is_an_error() -> None:
    with pytest.raises(IndexError):
        KnownChunks().add_stored([("x", 0, len(CONTENT) - 1)], listed(CONTENT))


def test_the_first_place_counts_and_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packs, "_MAX_KNOWN", 2)
    known = KnownChunks()
    for chunk, blob in ((b"1", "first"), (b"1", "later"), (b"2", "x"), (b"3", "x")):
        known.add(chunk, ((blob, 0, 1),))
    assert known.find(b"1") == (("first", 0, 1),)
    assert known.find(b"3") is None


# ── packing


def pack(*parts: bytes) -> tuple[list[Pack], Stretches]:
    packs, stretches = list[Pack](), Stretches()
    packer = Packer(lambda: bytearray(1000), packs.append)
    for part in parts:
        stretches.add(*packer.add(memoryview(part)))
    packer.flush()
    packer.flush()
    for number, each in enumerate(packs):
        each.digest = f"pack {number}"
    return packs, stretches


def test_a_pack_is_sent_when_the_next_part_does_not_fit() -> None:
    packs, stretches = pack(b"a" * 400, b"b" * 600, b"c" * 999, b"d" * 2)
    assert [sent(each) for each in packs] == [b"a" * 400 + b"b" * 600, b"c" * 999, b"d" * 2]
    assert list(stretches.resolved()) == [("pack 0", 0, 1000), ("pack 1", 0, 999), ("pack 2", 0, 2)]


def test_nothing_is_sent_when_there_is_nothing() -> None:
    assert pack()[0] == []


def test_neighbours_are_joined_and_others_are_not() -> None:
    stretches = Stretches()
    for place in (("x", 0, 10), ("x", 10, 5), ("x", 20, 5), ("y", 25, 5), ("x", 0, 1), ("x", 0, 1)):
        stretches.add(*place)
    assert list(stretches.resolved()) == [
        *(("x", 0, 15), ("x", 20, 5), ("y", 25, 5)),
        *(("x", 0, 1), ("x", 0, 1)),
    ]
