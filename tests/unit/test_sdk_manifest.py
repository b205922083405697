import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard import File, InvalidPath
from modelyard._manifest import check_files, check_path, collect, manifest_digest

from registry import domain, errors
from tests.unit.sdk_fake import UNSAFE_PATHS, file_of

SAFE_PATHS = [
    *(
        "a",
        "model.onnx",
        "a/b/c.txt",
        "modelyard/example.json",
        ".hidden",
        "..a",
        "a..b",
        "a b",
        " a",
        "a-b",
        "a$b",
        "a~",
    ),
    *(
        "Modell für Ölpreise.bin",
        "模型/权重.bin",
        "🙂.txt",
        "console",
        "com",
        "com10",
        "nulls",
        "x" * 255,
        "ü" * 127,
    ),
    *("/".join("a" * 64), "CON1F"),
]


@pytest.mark.parametrize("path", UNSAFE_PATHS)
def test_an_unsafe_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath):
        check_path(path)


@pytest.mark.parametrize("path", SAFE_PATHS)
def test_a_safe_path_is_accepted(path: str) -> None:
    check_path(path)


@given(st.text(st.sampled_from("ab.~-$ /\\:\0\x7f\x9fcon1LPTé\ud800"), max_size=12) | st.text())
def test_the_sdk_and_the_registry_agree_about_every_path(path: str) -> None:
    """Two implementations of one rule: a path that only one of them accepts would be a version nobody can fetch."""

    def refuses(check: object, error: type[Exception]) -> bool:
        try:
            check(path)  # type: ignore[operator]
        except error:
            return True
        return False

    assert refuses(check_path, InvalidPath) == refuses(domain.check_path, errors.InvalidPath)


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.integers(0, 2**63 - 1)), min_size=1, unique_by=lambda each: each[0]
    )
)
def test_the_sdk_and_the_registry_compute_the_same_digest(listed: list[tuple[str, int]]) -> None:
    ours = [File(path.replace("\ud800", "x"), size, "sha256:" + "0" * 64) for path, size in listed]
    theirs = [domain.File(each.path, each.size, each.digest) for each in ours]
    assert manifest_digest(ours) == domain.manifest_digest(reversed(theirs))


def test_the_manifest_digest_is_the_documented_one() -> None:
    """A golden vector: sha256sum over the manifest that docs/sdk.md shows."""
    files = [file_of("b/ü.txt", b""), file_of("a.bin", b"hello")]
    assert manifest_digest(files) == "sha256:7a88a929a5aea24d32b681574ad9927c7e96c6cec78e36588ff394a1d07ffe49"


@pytest.mark.parametrize(
    "paths",
    [["a", "a"], ["A", "a"], ["straße", "STRASSE"], ["a", "a/b"], ["A", "a/b"], ["a/b", "a/b/c"]],
)
def test_files_that_would_overwrite_each_other_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidPath):
        check_files([file_of(path, b"x") for path in paths])


@pytest.mark.parametrize("count", [0, 10_001])
def test_a_version_has_between_one_and_ten_thousand_files(count: int) -> None:
    with pytest.raises(InvalidPath):
        check_files([file_of(f"f{number}", b"") for number in range(count)])


@pytest.mark.parametrize(
    ("size", "digest"),
    [(-1, "sha256:" + "0" * 64), (1, "sha256:" + "A" * 64), (1, "sha256:" + "0" * 63), (1, "md5:0")],
)
def test_a_size_or_digest_that_cannot_be_is_refused(size: int, digest: str) -> None:
    with pytest.raises(InvalidPath):
        check_files([File("a", size, digest)])


def test_a_directory_is_collected_in_code_point_order_with_sizes_and_digests(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "empty").mkdir()
    for path, content in {"b/c.txt": b"12", "B.txt": b"", "a.bin": b"hello", "é": b"x"}.items():
        (tmp_path / path).write_bytes(content)
    expected = [
        file_of("B.txt", b""),
        file_of("a.bin", b"hello"),
        file_of("b/c.txt", b"12"),
        file_of("é", b"x"),
    ]
    assert collect(tmp_path) == expected


def test_a_single_file_is_collected_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"hello")
    assert collect(tmp_path / "model.bin") == [file_of("model.bin", b"hello")]


@pytest.mark.parametrize("target", ["/etc/passwd", "real.txt", "nowhere", "."])
def test_a_symbolic_link_is_refused_and_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real.txt").write_text("x")
    (tmp_path / "folder" / "link").symlink_to(target)
    with pytest.raises(InvalidPath, match=r"'folder/link' is a symbolic link"):
        collect(tmp_path)


def test_a_pipe_is_refused_and_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidPath, match="'pipe' is not a regular file"):
        collect(tmp_path)
    with pytest.raises(InvalidPath, match="not a regular file"):
        collect(tmp_path / "pipe")


def test_a_socket_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(InvalidPath, match="'socket' is not a regular file"):
            collect(tmp_path)


@pytest.mark.parametrize("name", ["a:b", "~x", "nul.txt", "a\nb", "trailing.", os.fsdecode(b"\xff")])
def test_a_file_with_an_unsafe_name_is_refused_and_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InvalidPath) as caught:
        collect(tmp_path)
    assert repr(name) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop").symlink_to("loop")
    with pytest.raises(InvalidPath, match="'sub/loop'"):
        collect(tmp_path)


@pytest.mark.parametrize("name", ["modelyard", "Modelyard"])
def test_the_reserved_folder_is_refused_unless_it_is_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "example.json").write_text("{}")
    with pytest.raises(InvalidPath, match="reserved"):
        collect(tmp_path)
    assert [each.path for each in collect(tmp_path, own=True)] == [f"{name}/example.json"]


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidPath, match="no file"):
        collect(tmp_path)
