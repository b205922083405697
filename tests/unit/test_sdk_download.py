import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import IntegrityError, InvalidPath, _http

from tests.unit.sdk_fake import (
    STORE,
    UNSAFE_PATHS,
    Broken,
    FakeRegistry,
    Handler,
    digest_of,
    file_of,
    problem,
    version_of,
)

CONTENTS = {
    "model.bin": b"0123456789" * 300_000,
    "config/a.json": b"{}",
    "empty": b"",
    "Größe/🙂.txt": b"smile",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.0)
    return tmp_path / "home"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("exists", [False, True])
def test_a_download_fills_a_directory_that_is_new_or_empty(place: Path, exists: bool) -> None:
    if exists:
        (place / "dest").mkdir()
    fake, moved = FakeRegistry(CONTENTS), []
    with fake.client() as client:
        found = client.download(fake.version(), place / "dest", progress=lambda *each: moved.append(each))
    assert found == place / "dest"
    assert tree(found) == CONTENTS
    assert [each.name for each in place.iterdir()] == ["dest"]
    total = sum(map(len, CONTENTS.values()))
    assert (moved[0], moved[-1]) == ((0, total), (total, total))
    assert [done for done, _ in moved] == sorted(done for done, _ in moved)


def test_a_download_has_the_permissions_that_any_new_directory_has(place: Path) -> None:
    fake = FakeRegistry({"a": b"x"})
    (place / "usual").mkdir()
    with fake.client() as client:
        found = client.download(fake.version(), place / "dest")
    assert stat.S_IMODE(found.stat().st_mode) == stat.S_IMODE((place / "usual").stat().st_mode)


def test_a_relative_destination_is_below_the_working_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    fake = FakeRegistry({"a": b"x"})
    with fake.client() as client:
        assert client.download(fake.version(), "dest") == place / "dest"


def test_a_destination_that_cannot_be_filled_is_refused_before_anything_is_fetched(place: Path) -> None:
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("keep")
    (place / "file").write_text("keep")
    (place / "link").symlink_to("nowhere")
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        for dest in ("full", "file", "link", "absent/dest", "file/dest"):
            with pytest.raises(InvalidPath):
                client.download(fake.version(), place / dest)
    assert fake.requests == []
    assert sorted(tree(place)) == ["file", "full/mine"]


@pytest.mark.parametrize("path", [path for path in UNSAFE_PATHS if path != "\ud800"])
def test_a_list_with_an_unsafe_path_is_refused_before_a_byte_is_written(place: Path, path: str) -> None:
    """Even when the manifest's digest is that of the malicious list."""
    files = [file_of("good", b"x"), file_of(path, b"evil")]
    fake = FakeRegistry({"good": b"x", path: b"evil"})
    fake.listed = [{**each.to_wire(), "url": f"/bytes/{each.path}"} for each in files]
    for dest in (place / "dest", None):
        with fake.client() as client, pytest.raises(IntegrityError, match="refused, nothing was written"):
            client.download(version_of(files), dest)
    assert fake.asked("GET", "/bytes/") == 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda listed: listed.append(
            {"path": "extra", "size": 1, "digest": digest_of(b"x"), "url": "/bytes/a"}
        ),
        lambda listed: listed.pop(),
        lambda listed: listed[0].update(path="other"),
        lambda listed: listed[0].update(size=2),
        lambda listed: listed[0].update(digest=digest_of(b"other")),
        lambda listed: listed.append(dict(listed[0])),
        lambda listed: listed.append({**listed[0], "path": "A"}),
        lambda listed: listed.append({**listed[0], "path": "a/below"}),
        lambda listed: listed[0].update(digest="sha256:../../x"),
        lambda listed: listed[0].update(size=-1),
        lambda listed: listed.clear(),
    ],
)
def test_a_list_that_is_not_the_versions_manifest_is_refused_before_a_byte_is_written(
    place: Path, change: Any
) -> None:
    fake = FakeRegistry({"a": b"x", "b": b"y"})
    listed = [{**each.to_wire(), "url": f"/bytes/{each.path}"} for each in fake.files]
    change(listed)
    fake.before = lambda request: (
        httpx2.Response(200, json={"files": listed}) if request.url.path.endswith("downloads") else None
    )
    with fake.client() as client, pytest.raises(IntegrityError):
        client.download(fake.version(), place / "dest")
    assert fake.asked("GET", "/bytes/") == 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": 1},
        {"path": None},
        {"size": "1"},
        {"size": 1.0},
        {"size": True},
        {"digest": None},
        {"url": None},
    ],
)
def test_a_list_with_the_wrong_types_is_not_understood(place: Path, wrong: dict[str, Any]) -> None:
    fake = FakeRegistry({"a": b"x"})
    fake.listed = [{**fake.files[0].to_wire(), "url": "/bytes/a", **wrong}]
    with fake.client() as client, pytest.raises(modelyard.ModelyardError):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


Answer = Callable[[], httpx2.Response] | BaseException | None


def answer_bytes(*answers: Answer) -> Handler:
    """Answer requests for model.bin in turn, None meaning as usual; the last answer counts for ever."""
    asked = []

    def before(request: httpx2.Request) -> httpx2.Response | None:
        if not request.url.path.endswith("model.bin"):
            return None
        asked.append(request)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if answer else None

    return before


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
        lambda: httpx2.Response(200, stream=Broken(b"012")),
        lambda: httpx2.Response(200, content=CONTENTS["model.bin"][:-1]),
        lambda: httpx2.Response(200, content=CONTENTS["model.bin"] + b"x"),
        lambda: httpx2.Response(200, content=b"x" * 3_000_000),
        lambda: problem(404, "file_not_found"),
        lambda: problem(503, "store_unavailable"),
        lambda: httpx2.Response(302, headers={"Location": "/"}),
        KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_download_that_fails_midway_leaves_nothing(place: Path, answer: Answer, exists: bool) -> None:
    if exists:
        (place / "dest").mkdir()
    fake = FakeRegistry(CONTENTS, before=answer_bytes(answer))
    with fake.client() as client, pytest.raises((modelyard.ModelyardError, KeyboardInterrupt)):
        client.download(fake.version(), place / "dest")
    assert [each.name for each in place.iterdir()] == (["dest"] if exists else [])
    assert tree(place) == {}


def test_an_endless_file_does_not_fill_the_disk(place: Path) -> None:
    class Endless(httpx2.SyncByteStream):
        sent = 0

        def __iter__(self) -> Any:
            while True:
                self.sent += 1
                yield b"x" * 100_000

    stream = Endless()
    fake = FakeRegistry(
        {"model.bin": b"x" * 500_000}, before=answer_bytes(lambda: httpx2.Response(200, stream=stream))
    )
    with fake.client() as client, pytest.raises(IntegrityError):
        client.download(fake.version(), place / "dest")
    assert stream.sent < 20


def test_a_broken_connection_costs_one_file_anew_and_no_more(place: Path) -> None:
    moved: list[int] = []
    broken = answer_bytes(
        lambda: httpx2.Response(200, stream=Broken(b"01234")), lambda: problem(503, "x"), None
    )
    fake = FakeRegistry(CONTENTS, before=broken)
    with fake.client() as client:
        found = client.download(fake.version(), place / "dest", progress=lambda done, _: moved.append(done))
    assert tree(found) == CONTENTS
    assert fake.asked("GET", "/bytes/") == len(CONTENTS) + 2
    assert moved[-1] == max(moved) == sum(map(len, CONTENTS.values()))


def test_an_expired_address_is_asked_for_anew_once(place: Path) -> None:
    fake = FakeRegistry(CONTENTS, presigned=True, before=answer_bytes(lambda: httpx2.Response(403), None))
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == CONTENTS
    assert fake.asked("GET", "/downloads") == 2
    fake = FakeRegistry(CONTENTS, presigned=True, before=answer_bytes(lambda: httpx2.Response(403)))
    with fake.client() as client, pytest.raises(modelyard.Unauthorized, match=f"{STORE} answered 403"):
        client.download(fake.version(), place / "other")
    assert fake.asked("GET", "/downloads") == 2


def test_a_destination_that_is_filled_meanwhile_is_not_overwritten(place: Path) -> None:
    (place / "dest").mkdir()

    def interfere(request: httpx2.Request) -> None:
        if "/bytes/" in request.url.path:
            (place / "dest" / "mine").write_text("keep")

    fake = FakeRegistry({"a": b"x"}, before=interfere)
    with fake.client() as client, pytest.raises(InvalidPath):
        client.download(fake.version(), place / "dest")
    assert tree(place) == {"dest/mine": b"keep"}


def test_a_version_that_does_not_fit_is_not_begun(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1))
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client, pytest.raises(InvalidPath, match="only 1 are free"):
        client.download(fake.version(), place / "dest")
    assert fake.asked("GET", "/bytes/") == 0
    assert list(place.iterdir()) == []


def test_everything_is_on_disk_before_it_appears(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order matters after a power failure: files, then their directories, then the name that makes them visible."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(
            "sync "
            + (target.name if target.is_file() else "directory" if "content" in str(target) else "parent")
        )
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    fake = FakeRegistry({"sub/a": b"x"})
    with fake.client() as client:
        client.download(fake.version(), place / "dest")
    assert steps == ["sync a", "sync directory", "sync directory", "rename", "sync parent"]


def test_the_cache_is_filled_once_and_checked_each_time(home: Path) -> None:
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        found = client.download(fake.version())
        assert found == home / "cache" / "versions" / fake.version().digest.removeprefix("sha256:")
        assert tree(found) == CONTENTS
        asked = len(fake.requests)
        assert client.download(fake.version()) == found
    assert len(fake.requests) == asked
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700


def flip_a_bit(entry: Path) -> None:
    content = bytearray((entry / "model.bin").read_bytes())
    content[1000] ^= 1
    (entry / "model.bin").write_bytes(content)


def become_a_link(entry: Path) -> None:
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def become_a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("x")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        become_a_link,
        become_a_file,
        lambda entry: (entry / "empty").unlink(),
        lambda entry: (entry / "extra").write_text("x"),
        lambda entry: os.truncate(entry / "model.bin", 10),
        lambda entry: (entry / "link").symlink_to("model.bin"),
        lambda entry: [each.unlink() for each in entry.rglob("*") if each.is_file()],
    ],
)
def test_a_damaged_cache_entry_is_replaced(damage: Any) -> None:
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        found = client.download(fake.version())
        damage(found)
        assert client.download(fake.version()) == found
    assert tree(found) == CONTENTS
    assert not found.is_symlink()
    assert [each.name for each in found.parent.iterdir()] == [found.name]


def test_a_failed_repair_leaves_what_was_there_and_no_litter() -> None:
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        found = client.download(fake.version())
        flip_a_bit(found)
        fake.before = answer_bytes(lambda: problem(404, "file_not_found"))
        with pytest.raises(modelyard.NotFound):
            client.download(fake.version())
    assert [each.name for each in found.parent.iterdir()] == [found.name]


def test_two_that_fetch_the_same_version_both_get_it() -> None:
    """The second finds the goal taken when it is done, checks it and uses it."""
    contents = {"model.bin": b"x"}
    other, fake = FakeRegistry(contents), FakeRegistry(contents)

    def overtake(request: httpx2.Request) -> None:
        if "/bytes/" in request.url.path:
            with other.client() as faster:
                faster.download(other.version())

    fake.before = overtake
    with fake.client() as client:
        found = client.download(fake.version())
    assert tree(found) == contents
    assert [each.name for each in found.parent.iterdir()] == [found.name]


def test_what_a_killed_download_left_is_removed_after_a_day(home: Path) -> None:
    versions = home / "cache" / "versions"
    for name, age_h in {".modelyard-old": 25, ".modelyard-new": 1}.items():
        (versions / name / "content").mkdir(parents=True)
        then = time.time() - age_h * 3600
        os.utime(versions / name, (then, then))
    fake = FakeRegistry({"a": b"x"})
    with fake.client() as client:
        found = client.download(fake.version())
    assert {each.name for each in versions.iterdir()} == {".modelyard-new", found.name}


def test_a_cache_that_others_could_write_to_is_refused(home: Path, tmp_path: Path) -> None:
    versions = home / "cache" / "versions"
    versions.mkdir(parents=True)
    versions.chmod(0o777)
    fake = FakeRegistry({"a": b"x"})
    with fake.client() as client:
        with pytest.raises(InvalidPath, match="MODELYARD_HOME"):
            client.download(fake.version())
        versions.rmdir()
        (tmp_path / "elsewhere").mkdir()
        versions.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InvalidPath, match="MODELYARD_HOME"):
            client.download(fake.version())
    assert fake.requests == []


@pytest.mark.parametrize("digest", ["sha256:../../../x", "../x", "", "sha256:" + "A" * 64])
def test_a_version_without_a_real_digest_names_no_place_in_the_cache(digest: str) -> None:
    fake = FakeRegistry({"a": b"x"})
    with fake.client() as client, pytest.raises(IntegrityError):
        client.download(version_of(fake.files, digest=digest or "x"))
    assert fake.requests == []


def test_more_files_than_threads_all_arrive(place: Path) -> None:
    contents = {f"{number % 7}/{number}": os.urandom(number) for number in range(200)}
    fake = FakeRegistry(contents)
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == contents


def test_a_reference_is_resolved_first(place: Path) -> None:
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        assert tree(client.download("fraud/1", place / "dest")) == CONTENTS
