"""The cache: what it shares, keeps, evicts and repairs, and what it knows without a registry."""

import errno
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import File, IntegrityError, InvalidPath, Version, _cache, _cache_evict
from modelyard._cache import Cache, Download, cached
from modelyard._config import cache_limit
from modelyard._errors import ConfigurationError, NotCached

from tests.unit.sdk_fake import URL, FakeRegistry, file_of, version_of, version_wire

KB = 1000


class Maker:
    """Makes versions, and is asked for their bytes; `asked` lists the paths."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []

    def version(self, contents: dict[str, bytes], number: int = 1) -> Version:
        files = [file_of(path, content) for path, content in sorted(contents.items())]
        for file in files:
            self.contents[file.digest] = contents[file.path]
        return Version.from_wire(version_wire(files, number=number))

    def download(self, _version: Version, files: Sequence[File], private: Path) -> Path:
        for file in files:
            self.asked.append(file.path)
            target = private / "content" / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.contents[file.digest])
        return private / "content"


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    while _cache._held:
        _cache._held.popitem()[1].close()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Cache]:
    def open_cache(limit_bytes: int = 10**9, registry: str = URL) -> Cache:
        cache = Cache(tmp_path / "cache", registry=registry, limit_bytes=limit_bytes)
        cache.prepare()
        return cache

    return open_cache


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def names(cache: Cache) -> set[str]:
    return {f"sha256:{each.name}" for each in (cache.root / "versions").iterdir()}


def blobs(cache: Cache) -> set[str]:
    return {f"sha256:{each.name}" for each in (cache.root / "files").rglob("*") if each.is_file()}


# ── sharing


def test_versions_share_their_files(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened()
    common = {f"layer-{number}": os.urandom(100) for number in range(9)}
    first = cache.fetch(maker.version(common | {"head": b"one"}), maker.download)
    maker.asked.clear()
    second = cache.fetch(maker.version(common | {"head": b"two"}, 2), maker.download)
    assert maker.asked == ["head"]
    assert tree(second) == common | {"head": b"two"}
    assert (first / "layer-3").samefile(second / "layer-3")
    assert stat.S_IMODE((first / "layer-3").stat().st_mode) == 0o444


def test_the_same_bytes_at_two_paths_are_fetched_once(opened: Callable[..., Cache], maker: Maker) -> None:
    contents = {"a/x": b"same", "b/y": b"same", "c": b"other", "empty": b"", "also-empty": b""}
    assert tree(opened().fetch(maker.version(contents), maker.download)) == contents
    assert len(maker.asked) == 3


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_links_are_impossible_files_are_copied(
    opened: Callable[..., Cache], maker: Maker, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    cache, contents = opened(), {"a": b"x" * KB, "b/c": b"y"}
    assert tree(cache.fetch(maker.version(contents), maker.download)) == contents
    maker.asked.clear()
    assert tree(cache.fetch(maker.version(contents | {"d": b"z"}), maker.download)) == contents | {"d": b"z"}
    assert maker.asked == ["d"]
    assert cache.bytes_taken() > 3 * KB  # what lies there twice is counted twice


# ── damage


def test_a_damaged_file_is_fetched_anew_for_every_version_that_has_it(
    opened: Callable[..., Cache], maker: Maker
) -> None:
    cache = opened()
    one, two = maker.version({"a": b"shared", "b": b"1"}), maker.version({"a": b"shared", "b": b"2"}, 2)
    first, second = cache.fetch(one, maker.download), cache.fetch(two, maker.download)
    damage(first / "a")
    assert (second / "a").read_bytes() == b"share!"
    assert [cache.damaged(each.digest) for each in (one, two)] == [("a",), ("a",)]
    maker.asked.clear()
    assert tree(cache.fetch(one, maker.download))["a"] == b"shared"
    assert tree(cache.fetch(two, maker.download))["a"] == b"shared"
    assert maker.asked == ["a"]
    assert [cache.damaged(each.digest) for each in (one, two)] == [None, None]


@pytest.mark.parametrize(
    "what", ["tree", "file", "manifest", "manifest of another", "not JSON", "extra file"]
)
def test_what_is_lost_is_made_again_from_what_is_left(
    opened: Callable[..., Cache], maker: Maker, what: str
) -> None:
    cache, contents = opened(), {"a": b"1", "b/c": b"2"}
    version = maker.version(contents)
    directory = cache.fetch(version, maker.download)
    manifest = cache.root / "manifests" / f"{directory.name}.json"
    match what:
        case "tree":
            shutil.rmtree(directory)
        case "file":
            (directory / "a").unlink()
        case "manifest":
            manifest.unlink()
        case "manifest of another":
            other = file_of("a", b"other")
            manifest.write_text(json.dumps({"files": [other.to_wire()]}))
        case "not JSON":
            manifest.write_text("[")
        case _:
            (directory / "extra.py").write_bytes(b"import os")
    assert tree(cache.fetch(version, None)) == contents
    assert sorted(maker.asked) == ["a", "b/c"]
    assert [entry.files for entry in cache.entries()] == [2]


def test_what_a_killed_fetch_had_already_is_used(opened: Callable[..., Cache], maker: Maker) -> None:
    cache, contents = opened(), {"a": b"1", "b/c": b"2"}
    version = maker.version(contents)
    left = cache.root / "partial" / version.digest[7:] / ".modelyard-0" / "content"
    (left / "b").mkdir(parents=True)
    (left / "a").write_bytes(b"half")
    (left / "b" / "c").write_bytes(b"2")
    assert tree(cache.fetch(version, maker.download)) == contents
    assert maker.asked == ["a"]
    assert list((cache.root / "partial").glob("*/")) == []


# ── many at once


def test_those_who_want_the_same_version_wait_for_the_first(
    opened: Callable[..., Cache], maker: Maker
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    version = maker.version({"a": b"x"})

    def slow(version: Version, files: Sequence[File], private: Path) -> Path:
        begun.set()
        assert go_on.wait(30)
        return maker.download(version, files, private)

    found: list[tuple[Path, int]] = []

    def fetch(download: Download) -> None:
        path = opened().fetch(version, download)
        found.append((path, path.stat().st_ino))

    threads = [
        threading.Thread(target=fetch, args=(download,))
        for download in (slow, maker.download, maker.download)
    ]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert maker.asked == ["a"]
    assert tree(found[0][0]) == {"a": b"x"}
    assert len(set(found)) == 1  # and nobody has put another one in its place


def test_what_is_evicted_during_a_fetch_is_still_used_by_it(
    opened: Callable[..., Cache], maker: Maker
) -> None:
    cache = opened()
    cache.fetch(maker.version({"shared": b"s", "old": b"o"}), maker.download)
    maker.asked.clear()

    def evicting(version: Version, files: Sequence[File], private: Path) -> Path:
        assert len(cache.evict(0)) == 1
        assert blobs(cache) == set()
        return maker.download(version, files, private)

    second = maker.version({"shared": b"s", "new": b"n"}, 2)
    assert tree(cache.fetch(second, evicting)) == {"shared": b"s", "new": b"n"}
    assert maker.asked == ["new"]
    assert blobs(cache) == {each.digest for each in second.files}


# ── room


def make_versions(cache: Cache, maker: Maker, count: int) -> list[Version]:
    """Versions of 10 kB each, 2 kB of which they share; the first was used longest ago."""
    made = []
    for number in range(1, count + 1):
        version = maker.version({"own": bytes([number]) * 8 * KB, "shared": b"s" * 2 * KB}, number)
        path = cache.fetch(version, maker.download)
        os.utime(cache.root / "manifests" / f"{path.name}.json", (number, number))
        made.append(version)
    return made


def test_what_was_not_used_for_the_longest_time_goes_first(
    opened: Callable[..., Cache], maker: Maker
) -> None:
    cache = opened(limit_bytes=27 * KB)
    one, two, three = make_versions(cache, maker, 3)
    assert names(cache) == {each.digest for each in (one, two, three)}
    assert cache.bytes_taken() == 26 * KB
    cache.fetch(one, None)
    four = maker.version({"own": b"4" * 8 * KB, "shared": b"s" * 2 * KB}, 4)
    cache.fetch(four, maker.download)
    assert names(cache) == {each.digest for each in (one, three, four)}
    assert blobs(cache) == {file.digest for each in (one, three, four) for file in each.files}
    assert cache.bytes_taken() == 26 * KB


def test_room_is_made_before_the_bytes_arrive(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened(limit_bytes=27 * KB)
    make_versions(cache, maker, 3)
    seen: list[int] = []

    def watching(version: Version, files: Sequence[File], private: Path) -> Path:
        seen.append(cache.bytes_taken() + sum(file.size for file in files))
        return maker.download(version, files, private)

    cache.fetch(maker.version({"own": b"4" * 20 * KB, "shared": b"s" * 2 * KB}, 4), watching)
    assert max(seen) <= 27 * KB


def test_a_version_larger_than_the_limit_takes_the_place_of_all_others(
    opened: Callable[..., Cache], maker: Maker
) -> None:
    cache = opened(limit_bytes=27 * KB)
    make_versions(cache, maker, 3)
    large = maker.version({"large": b"l" * 50 * KB}, 4)
    assert tree(cache.fetch(large, maker.download)).keys() == {"large"}
    assert names(cache) == {large.digest}
    small = maker.version({"small": b"s"}, 5)
    cache.fetch(small, maker.download)
    assert names(cache) == {small.digest}


def test_what_is_held_or_pinned_stays(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened(limit_bytes=10**6)
    one, two, three = make_versions(cache, maker, 3)
    for version in (one, two, three):
        cache.refs.remember(f"fraud/{version.number}", version)
    hold = cache.hold(one.digest)
    assert cache.refs.pin("fraud/2") == two.digest
    facts = {each.digest: (each.pinned, each.in_use, each.refs) for each in cache.entries()}
    assert facts == {
        one.digest: (False, True, ("fraud/1",)),
        two.digest: (True, False, ("fraud/2",)),
        three.digest: (False, False, ("fraud/3",)),
    }
    assert cache.evict(0) == (three.digest,)
    hold.close()
    assert cache.evict(0) == (one.digest,)
    assert cache.refs.unpin("fraud/2")
    assert not cache.refs.unpin("fraud/2")
    assert cache.evict(0) == (two.digest,)
    assert cache.bytes_taken() == 0


def test_a_pin_moves_with_its_reference(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened()
    one, two = make_versions(cache, maker, 2)
    cache.refs.remember("fraud@production", one)
    cache.refs.pin("fraud@production")
    cache.refs.remember("fraud@production", two)
    assert cache.evict(0) == (two.digest,)  # what was pinned is a version, not a pointer
    with pytest.raises(NotCached, match="modelyard pull fraud@production"):
        cache.refs.pin("fraud")
    cache.fetch(two, maker.download)
    cache.refs.pin("fraud")
    assert cache.evict(0) == (one.digest,)


def test_a_process_holds_what_it_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "_HELD", 2)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    monkeypatch.setenv("MODELYARD_CACHE_BYTES", "0")
    found = []
    for content in (b"1", b"2", b"2", b"3", b"4"):
        fake = FakeRegistry({"a": content})
        with fake.client() as client:
            found.append(client.download(fake.version()))
    assert [each.exists() for each in found] == [False, True, True, True, True]


@pytest.mark.parametrize("age_h", [1, 25])
@pytest.mark.parametrize("limit_bytes", [1, 100])
def test_what_a_killed_fetch_left_goes_after_a_day_or_when_room_is_needed(
    opened: Callable[..., Cache], age_h: int, limit_bytes: int
) -> None:
    cache = opened(limit_bytes)
    left = cache.root / "partial" / ("0" * 64)
    left.mkdir()
    (left / "content").write_bytes(b"x" * 10)
    (cache.root / "partial" / "1.tmp").mkdir()
    lock = left.with_suffix(".lock")
    lock.touch()
    os.utime(lock, (time.time() - age_h * 3600,) * 2)
    cache.evict()
    assert left.exists() == lock.exists() == (age_h == 1 and limit_bytes == 100)
    assert not (cache.root / "partial" / "1.tmp").exists()


def test_an_interrupted_eviction_is_finished_by_the_next(
    opened: Callable[..., Cache], maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened()
    one, two = make_versions(cache, maker, 2)

    def die(path: Path) -> None:
        if path.suffix == ".tmp":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_cache_evict, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            cache.evict(0)
    assert names(cache) == {two.digest}
    assert tree(cache.fetch(one, None)).keys() == {"own", "shared"}  # its files were still there
    cache.evict(0)
    assert {each.suffix or each.name for each in cache.root.rglob("*") if each.is_file()} == {"lock"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(
    opened: Callable[..., Cache], maker: Maker, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cache, version = opened(), maker.version({"a": b"x", "b": b"y"})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        with pytest.raises(InvalidPath, match=f"{os.strerror(number)}. Make room"):
            cache.fetch(version, maker.download)
    assert names(cache) == blobs(cache) == set()
    assert list(cache.root.glob("*/*/")) == []
    assert tree(cache.fetch(version, maker.download)) == {"a": b"x", "b": b"y"}


@pytest.mark.parametrize("given", ["-1", "20GB", "1e9", "²", "9" * 30])
def test_a_limit_that_is_no_number_of_bytes_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MODELYARD_CACHE_BYTES", given)
    with pytest.raises(ConfigurationError, match="MODELYARD_CACHE_BYTES"):
        cache_limit()


def test_the_limit_is_20_gib_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELYARD_CACHE_BYTES", raising=False)
    assert cache_limit() == 20 * 2**30
    monkeypatch.setenv("MODELYARD_CACHE_BYTES", "0")
    assert cache_limit() == 0


# ── without a registry


def test_what_is_complete_needs_no_registry(tmp_path: Path) -> None:
    fake = FakeRegistry({"a": b"x", "b": b"y"})
    with fake.client() as client:
        version = client.resolve("fraud/1")
        directory = cached(client._http, version, tmp_path, None)
        asked = len(fake.requests)
        assert cached(client._http, version, tmp_path, None) == directory
    assert cached(None, version, tmp_path, None) == directory
    assert len(fake.requests) == asked


def test_what_is_missing_is_told_precisely(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened()
    version = maker.version({f"{number:02}": bytes([number]) for number in range(20)})
    directory = cache.fetch(version, maker.download)
    for number in range(3, 15):
        damage(directory / f"{number:02}")
    (cache.root / "files" / version.files[0].digest[7:9] / version.files[0].digest[7:]).unlink()
    assert [file.path for file in cache.missing(version)] == [f"{number:02}" for number in range(3, 15)]
    with pytest.raises(NotCached) as caught:
        cache.fetch(version, None)
    assert caught.value.files == cache.missing(version) == version.files[3:15]
    assert str(caught.value) == (
        "The cache lacks 12 of the 20 files of fraud/1 (12 bytes): '03', '04', '05', '06', '07', '08', '09', '10', "
        "'11', '12' and 2 more. Run `modelyard pull fraud/1` while the registry can be reached."
    )


def test_references_are_remembered_as_they_were_last_seen(opened: Callable[..., Cache], maker: Maker) -> None:
    cache = opened()
    one, two = (maker.version({"a": content}, number) for number, content in ((1, b"1"), (2, b"2")))
    cache.refs.remember("fraud", one)
    cache.refs.remember("fraud@champion", two)
    assert cache.refs.last_seen("fraud@production").version == one
    assert cache.refs.last_seen("fraud/2").version == two
    assert cache.refs.last_seen("fraud/2").registry == URL
    cache.refs.remember("fraud@production", two)
    assert cache.refs.last_seen("fraud").version == two
    with pytest.raises(NotCached, match=f"'fraud/3' was never fetched from {URL}"):
        cache.refs.last_seen("fraud/3")
    other = opened(registry="http://other").refs
    with pytest.raises(NotCached):
        other.last_seen("fraud/1")
    other.remember("fraud/1", two)
    assert cache.refs.last_seen("fraud/1").version == one
    for path in (cache.root / "seen").iterdir():
        path.write_text('{"registry": 1}')
    with pytest.raises(NotCached):
        cache.refs.last_seen("fraud/1")
    assert cache.entries() == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b"])
def test_a_list_of_files_with_an_unsafe_path_is_refused(
    opened: Callable[..., Cache], maker: Maker, path: str
) -> None:
    for version in (
        version_of([file_of(path, b"x")]),
        version_of([file_of("a", b"")], digest="sha256:" + "0" * 64),
    ):
        for download in (maker.download, None):
            with pytest.raises(IntegrityError):
                opened().fetch(version, download)
        with pytest.raises(IntegrityError):
            opened().missing(version)
    assert maker.asked == []


@pytest.mark.parametrize("inside", ["", "files", "versions", "manifests", "held", "pins", "seen", "partial"])
@pytest.mark.parametrize("flaw", ["writable", "link"])
def test_a_cache_that_others_could_write_to_is_refused(
    opened: Callable[..., Cache], tmp_path: Path, inside: str, flaw: str
) -> None:
    directory = tmp_path / "cache" / inside
    if flaw == "writable":
        directory.mkdir(parents=True)
        directory.chmod(0o777)
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere").mkdir()
        directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidPath, match="MODELYARD_HOME"):
        opened()


def test_a_registry_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    fake = FakeRegistry({"a": b"x", "b": b"y"})
    fake.before = lambda request: httpx2.Response(404) if request.url.path.endswith("b") else None
    with fake.client() as client, pytest.raises(modelyard.ModelyardError):
        cached(client._http, fake.version(), tmp_path, None)
    left = [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]
    assert {each.name for each in left} <= {"lock", f"{fake.version().digest[7:]}.lock"}
