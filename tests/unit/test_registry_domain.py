"""The rules of names, paths, manifests and stages."""

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import errors
from registry.domain import File, check_files, check_path, manifest_digest, stage_of
from registry.http.errors import STATUSES, status_of
from registry.http.strict import parse_json

DIGEST = "sha256:" + "a" * 64
segments = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(st.lists(segments, min_size=1, max_size=5).map("/".join))
def test_an_accepted_path_stays_below_the_folder_it_is_joined_to(path: str) -> None:
    try:
        check_path(path)
    except errors.InvalidPath:
        return
    parts = path.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert not set(path) & set("\\:\0\n\r")
    assert path[0] not in "/~-$"


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", "größe/ж", "a b/c", "a.b.c", "x" * 255, "/".join("a" * 64), "console"]
)
def test_ordinary_paths_are_accepted(path: str) -> None:
    assert check_path(path) == path


def test_the_manifest_digest_does_not_depend_on_the_order_of_files() -> None:
    files = [File(f"f{number}", number, DIGEST) for number in range(20)]
    shuffled = random.Random(1).sample(files, len(files))  # noqa: S311 - any order will do
    assert manifest_digest(files) == manifest_digest(shuffled)
    assert manifest_digest(files) != manifest_digest(files[1:])


@given(st.lists(st.tuples(segments, st.integers(0, 9)), max_size=4))
def test_file_lists_are_accepted_or_refused_never_broken(entries: list[tuple[str, int]]) -> None:
    files = [File(path, size, DIGEST[:-1] + str(size)) for path, size in entries]
    with contextlib.suppress(errors.InvalidInput):
        assert set(check_files(files)) == {file.path for file in files}


def test_production_outranks_staging_outranks_archived() -> None:
    assert stage_of(["champion", "production"], archived=True) == "production"
    assert stage_of(["staging"], archived=True) == "staging"
    assert stage_of(["champion"], archived=True) == "archived"
    assert stage_of([], archived=False) == "none"


def test_every_error_has_a_status_and_a_code_of_its_own() -> None:
    kinds = list(_descendants(errors.RegistryError))
    leaves = [kind for kind in kinds if not kind.__subclasses__()]
    assert len({kind.code for kind in leaves}) == len(leaves)
    for kind in kinds:
        assert status_of(kind.__new__(kind)) in STATUSES.values()


def _descendants(kind: type[errors.RegistryError]) -> set[type[errors.RegistryError]]:
    return {kind for child in kind.__subclasses__() for kind in {child, *_descendants(child)}}


@given(st.binary(max_size=40))
def test_the_parser_of_bodies_never_raises_anything_but_a_decode_error(body: bytes) -> None:
    with contextlib.suppress(json.JSONDecodeError):
        parse_json(body)
