import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import IntegrityError, _http, _parallel, _upload

from tests.unit.sdk_fake import STORE, FakeRegistry, digest_of, problem


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, content in {"a": b"a" * 3_000_000, "same/1": b"same", "same/2": b"same", "empty": b""}.items():
        target = tmp_path / "model" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "model"


def test_every_needed_blob_is_sent_once_with_its_length(folder: Path) -> None:
    fake, moved = FakeRegistry(), []
    with fake.client() as client:
        version = client.register("fraud", folder, progress=lambda *each: moved.append(each))
    contents = {digest_of(content): content for content in (b"a" * 3_000_000, b"same", b"")}
    assert fake.received == contents
    assert fake.asked("PUT", "/put/") == 3
    for request in fake.requests:
        if request.method == "PUT":
            assert int(request.headers["Content-Length"]) == len(
                fake.received[request.url.path.rpartition("/")[2]]
            )
            assert "Transfer-Encoding" not in request.headers
    assert [each.path for each in version.files] == ["a", "empty", "same/1", "same/2"]
    assert (moved[0], moved[-1]) == ((0, 3_000_004), (3_000_004, 3_000_004))


def test_what_the_registry_has_is_not_sent(folder: Path) -> None:
    fake = FakeRegistry(
        received={digest_of(b"a" * 3_000_000): b"", digest_of(b""): b"", digest_of(b"same"): b""}
    )
    with fake.client() as client:
        client.register("fraud", folder)
    assert fake.asked("PUT", "/put/") == 0


def fail_first(method: str, part: str, *failures: httpx2.Response | Exception) -> Any:
    """The first matching requests fail in turn."""
    left = list(failures)

    def before(request: httpx2.Request) -> httpx2.Response | None:
        if request.method != method or part not in str(request.url) or not left:
            return None
        failure = left.pop(0)
        if isinstance(failure, Exception):
            raise failure
        return failure

    return before


@pytest.mark.parametrize(
    "failures",
    [
        [httpx2.WriteError("reset"), httpx2.RemoteProtocolError("closed")],
        [problem(503, "store_unavailable"), httpx2.ConnectError("refused")],
        [problem(502, "x"), problem(504, "x"), problem(503, "x"), problem(503, "x")],
    ],
)
@pytest.mark.parametrize("presigned", [False, True])
def test_one_blob_is_retried_when_the_trouble_may_pass(folder: Path, failures: Any, presigned: bool) -> None:
    moved: list[int] = []
    failures = [httpx2.Response(500), *failures[:3]] if presigned else failures
    fake = FakeRegistry(presigned=presigned, before=fail_first("PUT", "/put/", *failures))
    with fake.client() as client:
        client.register("fraud", folder, progress=lambda done, _: moved.append(done))
    assert fake.asked("PUT", "/put/") == 3 + len(failures)
    assert fake.asked("POST", "/versions") == 1
    assert moved[-1] == max(moved) == 3_000_004


def test_a_commit_whose_answer_was_lost_is_repeated_with_the_same_upload(folder: Path) -> None:
    fake = FakeRegistry(before=fail_first("POST", "/versions", httpx2.ReadError("reset"), problem(503, "x")))
    with fake.client() as client:
        client.register("fraud", folder)
    commits = [each.content for each in fake.requests if str(each.url).endswith("/versions")]
    assert len(commits) == 3
    assert len(set(commits)) == 1
    assert fake.asked("POST", "/uploads") == 1


@pytest.mark.parametrize(
    "failure",
    [
        problem(409, "upload_incomplete", missing=["sha256:0"]),
        problem(410, "upload_expired"),
        problem(404, "upload_not_found"),
        problem(400, "digest_mismatch"),
    ],
)
def test_what_was_lost_meanwhile_is_offered_and_sent_anew(folder: Path, failure: httpx2.Response) -> None:
    def lose(request: httpx2.Request) -> httpx2.Response | None:
        if not fail(request):
            return None
        fake.received.pop(digest_of(b"same"))
        return failure

    fail = fail_first("POST", "/versions", failure)
    fake = FakeRegistry(before=lose)
    with fake.client() as client:
        client.register("fraud", folder)
    assert fake.asked("POST", "/uploads") == 2
    assert fake.asked("PUT", "/put/") == 3 + 1


def test_an_expired_presigned_address_is_offered_anew(folder: Path) -> None:
    fake = FakeRegistry(presigned=True, before=fail_first("PUT", STORE, httpx2.Response(403)))
    with fake.client() as client:
        client.register("fraud", folder)
    assert fake.asked("POST", "/uploads") == 2
    assert len(fake.received) == 3


def test_starting_over_has_an_end(folder: Path) -> None:
    fake = FakeRegistry(
        before=lambda r: problem(409, "upload_incomplete") if r.url.path.endswith("versions") else None
    )
    with fake.client() as client, pytest.raises(modelyard.Conflict):
        client.register("fraud", folder)
    assert fake.asked("POST", "/uploads") == _upload.ROUNDS


@pytest.mark.parametrize(
    "failure", [problem(401, "unauthorized"), problem(413, "body_too_large"), problem(500, "x")]
)
def test_a_refusal_is_final_and_the_first_one_is_told(folder: Path, failure: httpx2.Response) -> None:
    fake = FakeRegistry(before=lambda request: failure if request.method == "PUT" else None)
    with fake.client() as client, pytest.raises(modelyard.ApiError) as caught:
        client.register("fraud", folder)
    assert caught.value.status == failure.status_code
    assert fake.asked("POST", "/versions") == 0
    assert fake.asked("POST", "/uploads") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"b" * 3_000_000),
        lambda path: path.write_bytes(b"a" * 2_999_999 + b"b"),
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.open("ab").write(b"x"),
        lambda path: path.with_name("empty").write_bytes(b"x"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_that_changes_meanwhile_is_noticed_and_named_and_nothing_is_committed(
    folder: Path, change: Any
) -> None:
    changed: list[object] = []

    def interfere(request: httpx2.Request) -> None:
        if request.url.path.endswith("/uploads") and not changed:
            changed.append(change(folder / "a"))

    fake = FakeRegistry(before=interfere)
    with (
        fake.client() as client,
        pytest.raises(IntegrityError, match=r"'(a|empty)' changed while it was being uploaded"),
    ):
        client.register("fraud", folder)
    assert fake.asked("POST", "/versions") == 0
    assert all(digest_of(content) == digest for digest, content in fake.received.items())


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"a" * 3_000_000)

    def interfere(request: httpx2.Request) -> None:
        if request.url.path.endswith("/uploads"):
            (folder / "a").unlink()
            (folder / "a").symlink_to(tmp_path / "secret")

    fake = FakeRegistry(before=interfere)
    with fake.client() as client, pytest.raises(modelyard.InvalidPath):
        client.register("fraud", folder)
    assert fake.asked("POST", "/versions") == 0


@pytest.mark.parametrize(
    "offer", [{}, [], {"id": "u"}, {"id": "u", "needs": [{"digest": "sha256:0", "url": "/"}]}, None]
)
def test_an_offer_that_makes_no_sense_is_not_understood(folder: Path, offer: Any) -> None:
    fake = FakeRegistry(
        before=lambda r: httpx2.Response(201, json=offer) if r.url.path.endswith("uploads") else None
    )
    with fake.client() as client, pytest.raises(modelyard.UnexpectedAnswer):
        client.register("fraud", folder)


def test_nobody_waits_for_what_was_not_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file fails for good; those that wait for a thread are given up at once."""
    for number in range(40):
        (folder / f"f{number}").write_bytes(os.urandom(10))
    fake = FakeRegistry(before=lambda r: problem(400, "size_mismatch") if r.method == "PUT" else None)
    monkeypatch.setattr(_parallel, "GRACE_S", 60.0)
    started = time.monotonic()
    with fake.client() as client, pytest.raises(modelyard.InvalidRequest):
        client.register("fraud", folder)
    assert time.monotonic() - started < _parallel.GRACE_S / 2
    assert fake.asked("POST", "/versions") == 0


def test_a_failure_stops_the_others_between_two_pieces() -> None:
    meter = _parallel.Meter(0, None)
    working, gave_up = threading.Event(), threading.Event()

    def act(task: str) -> None:
        if task == "fails":
            assert working.wait(10)
            raise KeyError(task)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            working.set()
            try:
                meter.add(1)
            except _parallel.Stopped:
                gave_up.set()
                raise

    with pytest.raises(KeyError):
        _parallel.in_parallel(act, ["fails", "works"], meter.stop)
    assert gave_up.is_set()


def test_a_file_leaves_the_disk_in_pieces_of_one_mebibyte(tmp_path: Path) -> None:
    size = 10_000_000
    (tmp_path / "zeros").write_bytes(bytes(size))
    pieces = list(_upload._chunks(tmp_path / "zeros", modelyard.File("zeros", size, digest_of(bytes(size)))))
    assert max(map(len, pieces)) == 1 << 20
    assert sum(map(len, pieces)) == size


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_json_cannot_carry_is_named(folder: Path, value: float) -> None:
    fake = FakeRegistry()
    with fake.client() as client, pytest.raises(modelyard.ModelyardError, match="Metric 'auc'"):
        client.register("fraud", folder, metrics={"auc": value})
    assert fake.requests == []


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    fake = FakeRegistry()
    with fake.client() as client, pytest.raises(modelyard.InvalidPath, match="nowhere"):
        client.register("fraud", tmp_path / "nowhere")
