from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard import File, InvalidPath, _listing
from modelyard._listing import Listing, Part, Read

DIGEST = "sha256:" + "0" * 64


def listing(sizes: list[int], segments: dict[str, list[list[int]]]) -> Listing:
    return Listing.from_wire(
        {
            "blobs": [{"url": f"/{index}", "size": size} for index, size in enumerate(sizes)],
            "files": [{"path": path, "segments": listed} for path, listed in segments.items()],
        }
    )


def files(segments: dict[str, list[list[int]]]) -> list[File]:
    return [File(path, sum(each[2] for each in listed), DIGEST) for path, listed in segments.items()]


def reads(sizes: list[int], segments: dict[str, list[list[int]]]) -> list[Read]:
    return listing(sizes, segments).reads(files(segments))


def test_neighbours_are_read_together_in_the_order_of_the_blob() -> None:
    [read] = reads([100], {"a": [[0, 30, 10]], "b": [[0, 10, 20]], "c": [[0, 40, 5]]})
    assert (read.range(), read.whole) == ((10, 35), False)
    assert [part.places for part in read.parts] == [[("b", 0)], [("a", 0)], [("c", 0)]]


def test_what_lies_between_is_not_read() -> None:
    assert [each.range() for each in reads([100], {"a": [[0, 0, 10]], "b": [[0, 11, 9]]})] == [
        (0, 10),
        (11, 9),
    ]


def test_a_whole_blob_is_asked_for_without_a_range() -> None:
    [read] = reads([30], {"a": [[0, 0, 10]], "b": [[0, 10, 20]]})
    assert read.range() is None
    [read] = reads([31], {"a": [[0, 0, 10]], "b": [[0, 10, 20]]})
    assert read.range() == (0, 30)


def test_what_repeats_is_one_part_with_many_places() -> None:
    [read] = reads([10], {"zeros": [[0, 0, 10]] * 3, "more": [[0, 0, 10]]})
    assert read.parts == [Part(0, 10, [("zeros", 0), ("zeros", 10), ("zeros", 20), ("more", 0)])]


def test_an_empty_file_needs_no_read() -> None:
    assert reads([], {"empty": []}) == []
    assert reads([5], {"empty": [[0, 5, 0]]}) == []


def test_only_wanted_files_are_read() -> None:
    segments = {"a": [[0, 0, 10]], "b": [[0, 10, 10]]}
    [read] = listing([20], segments).reads(files({"b": segments["b"]}))
    assert read.range() == (10, 10)


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 24)).map(list), max_size=5
)


@given(st.dictionaries(st.sampled_from("abcd"), SEGMENTS), st.integers(1, 30))
def test_the_reads_make_up_every_file_whatever_its_segments(
    segments: dict[str, list[list[int]]], limit: int
) -> None:
    """Overlapping, repeated, empty, in any order: each byte of each file comes from where it should, once."""
    blobs = [bytes(range(80 * index, 80 * index + 64)) for index in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_listing, "READ_BYTES", limit)
        found = reads([64] * 3, segments)
    written = {file.path: bytearray(file.size) for file in files(segments)}
    count = 0
    for read in found:
        assert 0 < read.length <= limit
        offset, length = read.range() or (0, 64)
        content, at = blobs[read.blob][offset : offset + length], 0
        for part in read.parts:
            for path, start in part.places:
                written[path][start : start + part.length] = content[at : at + part.length]
                count += part.length
            at += part.length
        assert at == len(content)
    expected = {
        path: b"".join(blobs[blob][at : at + n] for blob, at, n in listed)
        for path, listed in segments.items()
    }
    assert written == expected
    assert count == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    "segments",
    [[], [[0, 0, 9]], [[0, 0, 11]], [[0, 1, 10]], [[1, 0, 10]], [[0, 0, 5], [0, 0, 6]], [[0, 1 << 62, 10]]],
)
def test_segments_must_lie_inside_their_blobs_and_add_up(segments: list[list[int]]) -> None:
    with pytest.raises(InvalidPath, match="'a'"):
        listing([10], {"a": segments}).check([File("a", 10, DIGEST)])


NUMBERS: list[Any] = [-1, 1.0, "1", None, True, [1]]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_segments_are_natural_numbers(number: Any, at: int) -> None:
    segment = [0, 0, 0]
    segment[at] = number
    with pytest.raises(TypeError):
        listing([10], {"a": [segment]})


@pytest.mark.parametrize("number", NUMBERS)
def test_sizes_are_natural_numbers(number: Any) -> None:
    with pytest.raises(TypeError):
        listing([number], {})
