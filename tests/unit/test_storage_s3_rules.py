"""S3's limits on parts, and answers to a range that hold something else."""

import io

import pytest

from storage.errors import StoreUnavailable
from storage.s3_rules import MAX_PARTS, PART_SIZE, part_size, require_range


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, MAX_PARTS * PART_SIZE, MAX_PARTS * PART_SIZE + 1, 5 << 40])
def test_no_blob_needs_more_parts_than_s3_takes(size: int) -> None:
    parts = -(-size // part_size(size))
    assert parts <= MAX_PARTS
    assert part_size(size) >= PART_SIZE


def test_parts_grow_only_when_they_must() -> None:
    assert part_size(MAX_PARTS * PART_SIZE) == PART_SIZE
    assert part_size(MAX_PARTS * PART_SIZE + 1) == PART_SIZE + 1


@pytest.mark.parametrize("answer", ["bytes 5-9/100", "bytes 5-9/10"])
def test_an_answer_with_the_range_that_was_asked_for_will_do(answer: str) -> None:
    require_range("bucket", answer, 5, 10, io.BytesIO())


def test_a_range_is_cut_at_the_end_of_the_object() -> None:
    require_range("bucket", "bytes 5-7/8", 5, 10, io.BytesIO())


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "",
        "bytes 0-9/100",
        "bytes 5-8/100",
        "bytes 5-10/100",
        "bytes 0-99/100",
        "bytes 5-9/*",
        "items 5-9/100",
    ],
)
def test_an_answer_with_any_other_range_is_no_answer(answer: str | None) -> None:
    """A proxy that drops the Range header would have us read the wrong part of a pack."""
    body = io.BytesIO()
    with pytest.raises(StoreUnavailable, match="ignored the range"):
        require_range("bucket", answer, 5, 10, body)
    assert body.closed
