"""S3's limits on parts."""

import pytest

from storage.s3_rules import MAX_PARTS, PART_SIZE, part_size


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, MAX_PARTS * PART_SIZE, MAX_PARTS * PART_SIZE + 1, 5 << 40])
def test_no_blob_needs_more_parts_than_s3_takes(size: int) -> None:
    parts = -(-size // part_size(size))
    assert parts <= MAX_PARTS
    assert part_size(size) >= PART_SIZE


def test_parts_grow_only_when_they_must() -> None:
    assert part_size(MAX_PARTS * PART_SIZE) == PART_SIZE
    assert part_size(MAX_PARTS * PART_SIZE + 1) == PART_SIZE + 1
