import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import IntegrityError, InvalidPath, _http, _listing

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
    fake.listed = fake.downloads(files)
    for dest in (place / "dest", None):
        with fake.client() as client, pytest.raises(IntegrityError, match="refused, nothing was written"):
            client.download(version_of(files), dest)
    assert fake.asked("GET", "/bytes/") == 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda listed: listed.append({**listed[0], "path": "extra", "digest": digest_of(b"x")}),
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
    fake.listed = fake.downloads()
    change(fake.listed["files"])
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
        {"segments": None},
        {"segments": 7},
        {"segments": [0, 0, 1]},
        {"segments": [[0, 0]]},
        {"segments": [[0, 0, 1, 1]]},
        {"segments": [["0", 0, 1]]},
        {"segments": [[0, 0.0, 1]]},
        {"segments": [[0, 0, True]]},
        {"segments": [[0, -1, 1]]},
        {"segments": [[-1, 0, 1]]},
        {"segments": [[0, 0, 2], [0, 0, -1]]},
    ],
)
def test_a_list_with_the_wrong_types_is_not_understood(place: Path, wrong: dict[str, Any]) -> None:
    fake = FakeRegistry({"a": b"x"})
    fake.listed = fake.downloads()
    fake.listed["files"][0] |= wrong
    with fake.client() as client, pytest.raises(modelyard.UnexpectedAnswer):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


NO_SIZES: list[Any] = [None, "1", 1.0, float("inf"), True, -1, []]
NO_BLOBS: list[Any] = [None, 7, [None], [{}], [{"url": "/bytes/a"}], [{"size": 1}], {}]


@pytest.mark.parametrize("blobs", [*NO_BLOBS, *([{"url": "/bytes/a", "size": size}] for size in NO_SIZES)])
def test_a_list_of_blobs_that_makes_no_sense_is_refused(place: Path, blobs: Any) -> None:
    fake = FakeRegistry({"a": b"x"})
    listed = json.dumps(fake.downloads() | {"blobs": blobs})
    fake.before = lambda request: (
        httpx2.Response(200, content=listed) if request.url.path.endswith("downloads") else None
    )
    with fake.client() as client, pytest.raises((modelyard.UnexpectedAnswer, IntegrityError)):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "segments",
    [[], [[0, 0, 1]], [[0, 0, 3]], [[0, 1, 2]], [[0, 0, 2], [0, 0, 1]], [[1, 0, 2]], [[0, 1 << 62, 2]]],
)
def test_segments_that_do_not_make_up_their_file_are_refused_before_a_byte_is_written(
    place: Path, segments: list[list[int]]
) -> None:
    fake = FakeRegistry({"a": b"xy"})
    fake.listed = fake.downloads()
    fake.listed["files"][0]["segments"] = segments
    with fake.client() as client, pytest.raises(IntegrityError, match="refused, nothing was written"):
        client.download(fake.version(), place / "dest")
    assert fake.asked("GET", "/bytes/") == 0
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


def test_a_broken_connection_costs_one_read_anew_and_no_more(place: Path) -> None:
    moved: list[int] = []
    broken = answer_bytes(
        lambda: httpx2.Response(200, stream=Broken(b"01234")), lambda: problem(503, "x"), None
    )
    fake = FakeRegistry(CONTENTS, before=broken)
    with fake.client() as client:
        found = client.download(fake.version(), place / "dest", progress=lambda done, _: moved.append(done))
    assert tree(found) == CONTENTS
    assert fake.asked("GET", "/bytes/") == 3 + 2  # the empty file is not asked for
    assert moved[-1] == max(moved) == sum(map(len, CONTENTS.values()))


def test_an_expired_address_is_asked_for_anew_once(place: Path) -> None:
    fake = FakeRegistry(CONTENTS, presigned=True, before=answer_bytes(lambda: httpx2.Response(403), None))
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == CONTENTS
    assert fake.asked("GET", "/downloads") == 2
    fake = FakeRegistry(CONTENTS, presigned=True, before=answer_bytes(lambda: httpx2.Response(403)))
    with fake.client() as client, pytest.raises(modelyard.Forbidden, match=f"{STORE} answered 403"):
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


def test_a_directory_appears_by_one_rename_which_is_made_durable(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are left to the system to write: a power failure soon after may cost them."""
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
    assert steps == ["rename", "sync parent"]


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
    (entry / "model.bin").chmod(0o644)
    (entry / "model.bin").write_bytes(content)


def truncate(entry: Path) -> None:
    (entry / "model.bin").chmod(0o644)
    os.truncate(entry / "model.bin", 10)


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
        truncate,
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


def packed(contents: dict[str, bytes], segments: dict[str, list[list[int]]], **blobs: bytes) -> FakeRegistry:
    """A registry whose files are those segments of those blobs."""
    fake = FakeRegistry(contents, blobs={f"blob-{name}": content for name, content in blobs.items()})
    fake.listed = fake.downloads()
    fake.listed["blobs"] = [
        {"digest": digest_of(content), "size": len(content), "url": f"/bytes/{name}"}
        for name, content in fake.blobs.items()
    ]
    for file in fake.listed["files"]:
        file["segments"] = segments[file["path"]]
    return fake


def ranges(fake: FakeRegistry) -> list[tuple[str, str | None]]:
    """What was asked for: blobs, and the ranges of them."""
    return sorted(
        (each.url.path.rpartition("-")[2], each.headers.get("Range"))
        for each in fake.requests
        if "/bytes/" in each.url.path
    )


def test_files_of_one_pack_are_read_together_and_others_are_not_read(place: Path) -> None:
    contents = {"a": b"aaa", "b": b"bb", "c": b"", "d": b"dddd", "e": b"wholly"}
    segments = {"a": [[0, 5, 3]], "b": [[0, 8, 2]], "c": [], "d": [[0, 20, 4]], "e": [[1, 0, 6]]}
    fake = packed(contents, segments, x=b"-----aaabb----------dddd---", y=b"wholly")
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == contents
    assert ranges(fake) == [("x", "bytes=20-23"), ("x", "bytes=5-9"), ("y", None)]


def test_what_repeats_is_fetched_once_and_written_wherever_it_belongs(place: Path) -> None:
    contents = {"a": b"01" * 1000, "b": b"1" + b"01" * 3, "c": b"01"}
    segments = {"a": [[0, 1, 2]] * 1000, "b": [[0, 2, 1], *[[0, 1, 2]] * 3], "c": [[0, 1, 2]]}
    fake, moved = packed(contents, segments, x=b"-01-"), []
    with fake.client() as client:
        found = client.download(fake.version(), place / "dest", progress=lambda *each: moved.append(each))
    assert tree(found) == contents
    assert ranges(fake) == [("x", "bytes=1-2"), ("x", "bytes=2-2")]


def test_a_blob_that_many_files_share_is_fetched_once(place: Path) -> None:
    contents = {f"{number}": b"shared" for number in range(50)}
    fake = packed(contents, {path: [[0, 0, 6]] for path in contents}, x=b"shared")
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == contents
    assert ranges(fake) == [("x", None)]


def test_long_files_are_read_in_parts_of_a_limited_length(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listing, "READ_BYTES", 1000)
    contents = {"a": os.urandom(2500), "b": os.urandom(300)}
    fake = packed(contents, {"a": [[0, 0, 2500]], "b": [[0, 2500, 300]]}, x=contents["a"] + contents["b"])
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == contents
    assert ranges(fake) == [("x", "bytes=0-999"), ("x", "bytes=1000-1999"), ("x", "bytes=2000-2799")]


SEGMENTS = {"a": [[0, 1, 3], [1, 0, 3]], "b": [[1, 3, 2]]}
PACKED = {"a": b"abcdef", "b": b"gh"}


def test_a_wrong_byte_in_any_segment_is_noticed_and_its_file_named(place: Path) -> None:
    for x, y, path in ((b"-abX-", b"defgh-", "a"), (b"-abc-", b"dXfgh-", "a"), (b"-abc-", b"defgX-", "b")):
        fake = packed(PACKED, SEGMENTS, x=x, y=y)
        with fake.client() as client, pytest.raises(IntegrityError, match=f"bytes received for '{path}'"):
            client.download(fake.version(), place / "dest")
        assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"ab", IntegrityError),
        (b"", IntegrityError),
        (b"abcX", IntegrityError),
        (b"abc" * 1000, IntegrityError),
    ],
)
def test_a_range_that_ends_early_or_goes_on_is_noticed(
    place: Path, content: bytes, error: type[Exception]
) -> None:
    fake = packed(PACKED, SEGMENTS, x=b"-abc-", y=b"defgh-")
    fake.before = lambda r: httpx2.Response(206, content=content) if r.url.path.endswith("-x") else None
    with fake.client() as client, pytest.raises(error):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


def test_a_server_that_knows_no_ranges_is_told_as_such(place: Path) -> None:
    """Otherwise the whole blob would be taken for the part."""
    fake = packed(PACKED, SEGMENTS, x=b"-abc-", y=b"defgh-")
    fake.before = lambda r: httpx2.Response(200, content=b"-abc-") if r.url.path.endswith("-x") else None
    with fake.client() as client, pytest.raises(modelyard.UnexpectedAnswer, match="the whole where a part"):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


def test_bytes_that_were_put_elsewhere_meanwhile_are_not_guessed_at(place: Path) -> None:
    """An address expired, and the new list cuts its blobs in another way: indexes mean something else."""
    fake = packed(PACKED, SEGMENTS, x=b"-abc-", y=b"defgh-")

    def expire(request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path.endswith("-y"):
            fake.listed = FakeRegistry({**PACKED}).downloads()
            return problem(403, "store_refused")
        return None

    fake.before = expire
    with fake.client() as client, pytest.raises(modelyard.UnexpectedAnswer, match="elsewhere meanwhile"):
        client.download(fake.version(), place / "dest")
    assert list(place.iterdir()) == []


def test_more_files_than_threads_all_arrive(place: Path) -> None:
    contents = {f"{number % 7}/{number}": os.urandom(number) for number in range(200)}
    fake = FakeRegistry(contents)
    with fake.client() as client:
        assert tree(client.download(fake.version(), place / "dest")) == contents


def test_a_reference_is_resolved_first(place: Path) -> None:
    fake = FakeRegistry(CONTENTS)
    with fake.client() as client:
        assert tree(client.download("fraud/1", place / "dest")) == CONTENTS


def test_an_empty_file_that_should_not_be_empty_is_noticed(place: Path) -> None:
    """No byte arrives for it, which nobody would check otherwise."""
    files = [modelyard.File("a", 0, digest_of(b"x"))]
    fake = FakeRegistry()
    fake.listed = fake.downloads(files)
    with fake.client() as client, pytest.raises(IntegrityError, match="'a'"):
        client.download(version_of(files), place / "dest")
    assert list(place.iterdir()) == []
