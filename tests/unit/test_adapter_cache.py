"""The cache trusts nothing that it finds, and nothing that somebody else could have put there."""

import os
from pathlib import Path

import pytest
from modelyard import Version
from modelyard._cache import Cache as Content

from serving_adapter.cache import Cache
from serving_adapter.errors import CandidateRejected, UnsafeDirectory
from serving_adapter.upstream import Upstream
from tests.unit.adapter_fakes import FakeClient, make_version

CONTENTS = {"model.json": b"{}", "ä/b.bin": b"123", "a/b.bin": b"456"}


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = FakeClient()
        self.version = make_version("m", 1, CONTENTS)
        self.client.contents[self.version.digest] = CONTENTS
        self.cache = Cache(root, Upstream(self.client, "http://registry"))
        self.cache.prepare()

    def fetch(self, version: Version | None = None) -> Path:
        return self.cache.fetch(version or self.version)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_version_is_fetched_once(bench: Bench) -> None:
    assert contents(bench.fetch()) == CONTENTS
    assert bench.fetch() == bench.fetch()
    assert bench.client.asked == ["download 1"]


def change(directory: Path) -> None:
    (directory / "model.json").chmod(0o644)
    (directory / "model.json").write_bytes(b"[]")


def grow(directory: Path) -> None:
    (directory / "more.py").write_bytes(b"import os")


def shrink(directory: Path) -> None:
    (directory / "model.json").unlink()


def link(directory: Path) -> None:
    content = (directory / "model.json").rename(directory.parent / "elsewhere")
    (directory / "model.json").symlink_to(content)


def link_folder(directory: Path) -> None:
    folder = (directory / "a").rename(directory.parent / "folder")
    (directory / "a").symlink_to(folder)


def special(directory: Path) -> None:
    os.mkfifo(directory / "pipe")


@pytest.mark.parametrize("damage", [change, grow, shrink, link, link_folder, special])
def test_what_was_damaged_on_disk_is_repaired(bench: Bench, damage: object) -> None:
    assert callable(damage)
    damage(bench.fetch())
    assert contents(bench.fetch()) == CONTENTS
    # Only changed bytes are fetched anew: everything else is still in the cache.
    assert bench.client.asked == ["download 1"] * (2 if damage is change else 1)


def test_only_files_that_no_version_in_the_cache_has_are_downloaded(bench: Bench) -> None:
    first = {f"layer-{index}.bin": bytes([index]) * 100 for index in range(9)} | {"model.json": b"{}"}
    second = first | {"model.json": b"[]"}
    versions = [make_version("m", number, files) for number, files in enumerate((first, second), 1)]
    bench.client.contents |= {versions[0].digest: first, versions[1].digest: second}
    one = bench.fetch(versions[0])
    bench.client.fetched.clear()
    two = bench.fetch(versions[1])
    assert bench.client.fetched == ["model.json"]
    assert (contents(one), contents(two)) == (first, second)
    assert (one / "layer-0.bin").samefile(two / "layer-0.bin")


def test_what_is_pinned_stays_until_every_pin_is_closed(bench: Bench) -> None:
    other = Content(bench.root, limit_bytes=0)
    pins = [bench.cache.pin(bench.version.digest) for _ in range(2)]
    directory = bench.fetch()
    for pin in pins:
        assert other.evict() == ()
        assert contents(directory) == CONTENTS
        pin.close()
    assert other.evict() == (bench.version.digest,)


def test_bytes_that_are_wrong_reject_the_version(bench: Bench) -> None:
    bench.client.damaged = True
    with pytest.raises(CandidateRejected, match="not what the digest promises"):
        bench.fetch()
    assert [path.name for path in (bench.root / "versions").iterdir()] == []


def test_a_version_without_a_digest_is_refused(bench: Bench) -> None:
    with pytest.raises(CandidateRejected, match="not a digest"):
        bench.fetch(make_version("m", 1, CONTENTS, digest="sha256:../../etc"))
    with pytest.raises(CandidateRejected, match="not a digest"):
        bench.cache.pin("sha256:../../etc")
    assert bench.client.asked == []


def test_a_link_in_place_of_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeDirectory, match="--cache-dir"):
        Bench(tmp_path / "cache")


@pytest.mark.parametrize("inside", ["", "files", "versions", "manifests", "partial"])
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, inside: str) -> None:
    directory = tmp_path / "cache" / inside
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(UnsafeDirectory):
        Bench(tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65534, 65534)
    with pytest.raises(UnsafeDirectory):
        Bench(tmp_path / "cache")
