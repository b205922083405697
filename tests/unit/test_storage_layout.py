"""Keys: made from a digest, never anything else than a safe relative path."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidKey
from storage.layout import (
    CHECKPOINTS,
    MAX_KEY_LENGTH,
    check_key,
    check_prefix,
    checkpoint_key,
    hex_digits,
    is_audit,
    is_key,
    new_key,
)

DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(DIGESTS)
def test_a_key_holds_its_digest(digest: str) -> None:
    key = new_key(digest)
    algorithm, first, digits, upload = key.split("/")
    assert digits == hex_digits(digest) == digest[7:]
    assert (algorithm, first, len(upload)) == ("sha256", digits[:2], 32)
    check_key(key)


def test_no_two_keys_are_alike() -> None:
    keys = [new_key(f"sha256:{'0' * 64}") for _ in range(1000)]
    assert len(set(keys)) == len(keys)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_checkpoints_sort_as_their_entries_do(one: int, other: int) -> None:
    keys = [checkpoint_key(one), checkpoint_key(other)]
    assert sorted(keys) == [checkpoint_key(each) for each in sorted([one, other])]
    for key in keys:
        check_key(key)
        assert key.startswith(CHECKPOINTS)
        assert is_audit(key)
    check_prefix(CHECKPOINTS)


def test_nothing_that_an_upload_brings_lies_among_the_audit_trails_keys() -> None:
    assert not is_audit(new_key(f"sha256:{'a' * 64}"))


@pytest.mark.parametrize(
    "digest",
    ["", "ab" * 32, "sha256:", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "A" * 64,
     "md5:" + "a" * 32,
     "sha256:" + "a" * 64 + "\n", "sha512:" + "a" * 64, "sha256:" + "g" * 64, "sha256:../" + "a" * 61],
)  # fmt: skip
def test_only_a_digest_makes_a_key(digest: str) -> None:
    with pytest.raises(InvalidKey):
        new_key(digest)


@given(st.text(max_size=300) | st.from_regex(r"[a-z0-9./~-]{0,80}\n?", fullmatch=True))
def test_what_passes_for_a_key_is_a_safe_relative_path(text: str) -> None:
    if is_key(text):
        path = PurePosixPath(text)
        assert not path.is_absolute()
        assert str(path) == text
        assert all(name.isascii() and name.isalnum() and name == name.lower() for name in path.parts)
        assert len(text.replace("/", ".")) <= MAX_KEY_LENGTH


@given(DIGESTS, st.integers(0, 200))
def test_a_prefix_may_be_cut_from_a_key_anywhere(digest: str, length: int) -> None:
    check_prefix(new_key(digest)[:length])
