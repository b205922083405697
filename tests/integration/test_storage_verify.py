"""`storage verify`: it trusts the stores that we support, and says of each broken one what is broken."""

import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from click.testing import CliRunner, Result

from registry.cli_storage import storage
from storage import BlobStat, BlobStore, Ticket, open_store
from storage.errors import StoreUnavailable
from storage.layout import new_key
from storage.memory import MemoryStore
from storage.source import Source
from storage.verify import Report, verify
from storage.verify_races import races
from storage.verify_scratch import Scratch
from tests.servers.ports import free_port
from tests.servers.s3 import S3Server

SERVERS = [("s3", "rclone_s3"), ("s3", "ceph_s3"), ("minio", "rclone_s3"), ("minio", "ceph_s3")]
# what the stores that we know lack, in the order of the table; everything else is ok
LACKS = {
    ("s3", "rclone_s3"): ["refuses wrong bytes", "conditional put"],
    ("s3", "ceph_s3"): [],
    ("minio", "rclone_s3"): ["refuses wrong size", "refuses wrong bytes", "conditional put"],
    ("minio", "ceph_s3"): ["refuses wrong size", "refuses wrong bytes"],
}


def outcomes(report: Report, outcome: str) -> list[str]:
    return [check.name for check in report.checks if check.outcome == outcome]


def run(url: str, *options: str) -> Result:
    return CliRunner().invoke(storage, ["verify", url, *options], catch_exceptions=False)


# --- stores that can be trusted


@pytest.fixture(params=SERVERS, ids="@".join)
def remote(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """A storage URL with others' blobs around it, and what that store lacks."""
    scheme, fixture = request.param
    server: S3Server = request.getfixturevalue(fixture)
    return server.url(f"{server.new_bucket()}/models", scheme=scheme), LACKS[request.param]


def test_a_remote_store_is_trusted_and_found_as_it_was(remote: tuple[str, list[str]]) -> None:
    url, lacks = remote
    store = open_store(url)
    key = new_key(f"sha256:{'1' * 64}")
    store.put(key, io.BytesIO(b"a model"), size=7)
    report = verify(lambda: open_store(url))
    assert report.trusted, report.failed
    assert outcomes(report, "no") == lacks
    assert outcomes(report, "n/a") == []
    assert [found.key for found in store.iterate()] == [key]
    with store.open(key) as blob:
        assert blob.read() == b"a model"
    store.close()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_local_store_is_trusted(scheme: str, tmp_path: Path) -> None:
    done = run((tmp_path / "blobs").as_uri() if scheme == "file" else "memory://", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["trusted"] is True
    assert {check["outcome"] for check in told["checks"]} == {"ok", "n/a"}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- stores that cannot


class Broken(MemoryStore):
    """A store in memory that does one thing wrong, in the subclasses below."""

    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count(1)


class LosesEveryFifthPut(Broken):
    def put(self, key: str, source: Source, *, size: int) -> None:
        if next(self.count) % 5:
            super().put(key, source, size=size)


class LosesPutsOfMany(Broken):
    """Correct as long as only one thread writes."""

    def put(self, key: str, source: Source, *, size: int) -> None:
        if threading.current_thread() is threading.main_thread() or next(self.count) % 20:
            super().put(key, source, size=size)


class AltersWhatWasRead(Broken):
    """The blobs of many writers are right when they are read at once, and altered soon after."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        blob = super().open(key, offset=offset, length=length)
        data, at = self._blobs[key]
        if threading.current_thread() is not threading.main_thread() and len(data) < 2000:
            self._blobs[key] = b"altered", at
        return blob


class ReadsTheDeleted(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.deleted: dict[str, bytes] = {}

    def delete(self, key: str) -> None:
        if key in self._blobs:
            self.deleted[key] = self._blobs[key][0]
        super().delete(key)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        stale = self.deleted.get(key)
        return io.BytesIO(stale) if stale else super().open(key, offset=offset, length=length)


class KeepsTheOld(Broken):
    """Acknowledges a second put to a key, and drops it."""

    def put(self, key: str, source: Source, *, size: int) -> None:
        if key not in self._blobs:
            super().put(key, source, size=size)


class IgnoresRanges(Broken):
    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:  # noqa: ARG002
        return super().open(key)


class IgnoresLengths(Broken):
    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        return super().open(key, offset=offset, length=None if length else length)


class FailsBeyondTheEnd(Broken):
    """As S3 does: 416."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        if offset and offset >= len(super().open(key).read()):
            raise StoreUnavailable("InvalidRange")
        return super().open(key, offset=offset, length=length)


class ForgetsAListing(Broken):
    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        for n, found in enumerate(super().iterate(prefix)):
            if n != 3:
                yield found


class ListsTheDeleted(Broken):
    def delete(self, key: str) -> None:
        if key in self._blobs:
            self._blobs[key] = b"", self._blobs[key][1]


class ListsNeighbours(Broken):
    def iterate(self, prefix: str = "") -> Iterator[BlobStat]:
        return super().iterate(prefix[:6])


class FlipsABit(Broken):
    """In the second part of what is sent in parts."""

    def put(self, key: str, source: Source, *, size: int) -> None:
        super().put(key, source, size=size)
        data, at = self._blobs[key]
        if size > 10 << 20:
            self._blobs[key] = data[: 9 << 20] + b"\0\0\0\0" + data[(9 << 20) + 4 :], at


class TakesTheShort(Broken):
    def put(self, key: str, source: Source, *, size: int) -> None:
        data = source.read(size)
        super().put(key, io.BytesIO(data), size=len(data))


class DeletesWidely(Broken):
    """A delete takes the blobs of other prefixes with it."""

    def delete(self, key: str) -> None:
        if next(self.count) == 20:
            self._blobs.clear()
        super().delete(key)


class MixesReaders(Broken):
    """Two reads at once share one buffer."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        if threading.current_thread() is not threading.main_thread() and next(self.count) % 50 == 0:
            return io.BytesIO(b"somebody else's")
        return super().open(key, offset=offset, length=length)


class FailsOften(Broken):
    def stat(self, key: str) -> BlobStat | None:
        raise StoreUnavailable(f"down again: {key}")


@pytest.mark.parametrize(
    ("broken", "failed"),
    [
        (LosesEveryFifthPut, {"read after write", "list after write", "races"}),
        (LosesPutsOfMany, {"races"}),
        (AltersWhatWasRead, {"races"}),
        (ReadsTheDeleted, {"read after delete", "races"}),
        (KeepsTheOld, {"overwrite"}),
        (IgnoresRanges, {"ranges", "races"}),
        (IgnoresLengths, {"ranges", "races"}),
        (FailsBeyondTheEnd, {"ranges"}),
        (ForgetsAListing, {"list after write", "races"}),
        (ListsTheDeleted, {"read after delete", "list after delete", "cleans up"}),
        (ListsNeighbours, {"prefixes"}),
        (FlipsABit, {"large blob"}),
        (TakesTheShort, {"whole or not at all"}),
        (DeletesWidely, {"others untouched"}),
        (MixesReaders, {"races"}),
        (FailsOften, {"read after write", "read after delete"}),
    ],
)
def test_a_broken_store_is_a_clear_no(broken: type[Broken], failed: set[str]) -> None:
    report = verify(broken)
    assert not report.trusted
    assert failed <= {check.name for check in report.failed}
    assert all(check.detail for check in report.failed)


# --- tickets that lie


class Lying:
    """A real store, with a few of its verbs replaced."""

    def __init__(self, store: BlobStore, **verbs: Callable[..., Any]) -> None:
        self._store = store
        self.__dict__.update(verbs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def real(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
    """Asked only for its tickets: the other checks have their own broken stores above."""
    monkeypatch.setattr("storage.verify.CHECKS", [])
    monkeypatch.setattr("storage.verify.RACES", [])
    store = open_store(rclone_s3.url(rclone_s3.new_bucket()))
    yield store
    store.close()


def check_lies(real: BlobStore, **verbs: Callable[..., Any]) -> list[str]:
    report = verify(lambda: Lying(real, close=lambda: None, **verbs))
    assert list(real.iterate()) == []
    return [check.name for check in report.failed]


def test_a_ticket_that_never_expires_is_found_out(real: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.verify_tickets.PATIENCE_S", 3.0)

    def forever(key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:
        return real.upload_ticket(key, size=size, digest=digest, expires_s=expires_s + 3600)

    assert check_lies(real, upload_ticket=forever) == ["expired ticket"]


def test_a_ticket_that_puts_elsewhere_is_found_out(real: BlobStore) -> None:
    def elsewhere(key: str, *, size: int, digest: str, expires_s: int) -> Ticket | None:
        other = key[:-1] + ("0" if key[-1] != "0" else "1")
        return real.upload_ticket(other, size=size, digest=digest, expires_s=expires_s)

    report = verify(lambda: Lying(real, close=lambda: None, upload_ticket=elsewhere))
    assert [check.name for check in report.failed] == ["presigned upload"]
    assert list(real.iterate()) == [], "what the tickets put elsewhere in the folder is deleted, too"


def test_a_store_that_only_says_it_refuses_wrong_bytes_is_found_out(real: BlobStore) -> None:
    assert check_lies(real, refuses_wrong_bytes=lambda: True) == ["refuses wrong bytes"]


def test_a_download_of_something_else_is_found_out(real: BlobStore) -> None:
    other = new_key(f"sha256:{'2' * 64}")
    assert check_lies(
        real, download_url=lambda _, expires_s: real.download_url(other, expires_s=expires_s)
    ) == [
        "presigned download",
        "presigned range",
    ]


def test_a_download_from_nowhere_is_found_out_and_its_url_not_told(real: BlobStore) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/blob?X-Amz-Signature=hunter2"
    report = verify(lambda: Lying(real, close=lambda: None, download_url=lambda _, **__: nowhere))
    assert [check.name for check in report.failed] == ["presigned download", "presigned range"]
    assert "hunter2" not in str(report)


# --- interrupted


class Interrupted(MemoryStore):
    """Ctrl-C comes in the middle of the n-th put."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def put(self, key: str, source: Source, *, size: int) -> None:
        super().put(key, source, size=size)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("nth", [1, 2, 10, 40, 50, 75])
def test_ctrl_c_leaves_nothing_behind(nth: int) -> None:
    store = Interrupted(nth)
    with pytest.raises(KeyboardInterrupt):
        verify(lambda: store)
    assert list(store.iterate()) == []


def test_ctrl_c_ends_the_races_before_it_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that went on would write behind the back of the cleaning."""
    scratch = Scratch(MemoryStore())
    monkeypatch.setattr("storage.verify_races._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        races(scratch)
    assert threading.active_count() == before
    scratch.clean_up()
    assert list(scratch.store.iterate()) == []


# --- the command


def test_the_table_says_yes_and_what_each_line_means(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    done = run(url)
    assert done.exit_code == 0
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == (url, "yes: this store can be trusted")
    assert "ok   ranges               a part of a blob is read alone, and is the right part" in done.stdout
    assert "n/a  presigned upload " in done.stdout
    assert done.stderr == ""


def test_the_table_says_no_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.cli_storage.open_store", lambda _: IgnoresRanges())
    done = run("memory://")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith(
        "no: this store cannot be trusted: ranges: 100 bytes from byte 0"
    )


def test_the_documentation_names_every_check_in_order() -> None:
    told = (Path(__file__).parents[2] / "docs" / "storage.md").read_text()
    names = [check.name for check in verify(MemoryStore).checks]
    assert names == [line[5:25].strip() for line in told.splitlines() if line[:5] in {"ok   ", "no   "}]


def test_json_is_one_object_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.cli_storage.open_store", lambda _: KeepsTheOld())
    done = run("memory://", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert list(told) == ["url", "trusted", "checks"]
    assert told["url"] == "memory://"
    assert told["trusted"] is False
    [failed] = [check for check in told["checks"] if check["outcome"] == "no"]
    assert list(failed) == ["name", "meaning", "outcome", "required", "detail"]
    assert (failed["name"], failed["required"]) == ("overwrite", True)


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize(
    "url",
    [
        "s3://user:hunter2@bucket",
        "https://x:hunter2@y",
        "hunter2",
        "hunter2:x",
        "s3://b?endpoint=http://a:hunter2@b",
    ],
)
def test_a_url_that_cannot_be_right_is_not_repeated(url: str) -> None:
    for options in ([], ["--json"]):
        done = run(url, *options)
        assert done.exit_code == 1
        assert "hunter2" not in done.stdout + done.stderr
        assert "opens" in done.stdout


@pytest.mark.usefixtures("s3_credentials")
def test_a_store_that_does_not_answer_is_not_asked_any_further() -> None:
    report = verify(lambda: open_store(f"s3://bucket?endpoint=http://127.0.0.1:{free_port()}"))
    assert [(check.name, check.outcome) for check in report.checks] == [("opens", "no")]
    assert "gave no usable answer" in report.checks[0].detail
