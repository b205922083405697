import base64
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import IntegrityError, _http, _parallel, _upload

from tests.unit.sdk_fake import CUTTING, STORE, FakeRegistry, digest_of, problem, small_packs

PACK = 64 << 10
SMALL = {"a": b"a" * 3_000_000, "empty": b"", "same/1": b"same", "same/2": b"same"}
LARGE = random.Random(1).randbytes(5 * PACK)  # noqa: S311 - the same each time


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files, which fit into one pack."""
    return write(tmp_path / "model", SMALL)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file of five small packs or more, beside two small files."""
    small_packs(monkeypatch, PACK)
    return write(tmp_path / "model", {"large": LARGE, "small": b"small", "also/small": b"too"})


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def offers(fake: FakeRegistry) -> int:
    return sum(each.url.path.endswith("/uploads") for each in fake.requests)


def sent(fake: FakeRegistry) -> list[str]:
    """The digests of what was sent, in the order of the attempts."""
    return [each.url.path.rpartition("/")[2] for each in fake.requests if each.method == "PUT"]


def announced(fake: FakeRegistry) -> list[str]:
    """The digests of what was announced, in the order of the attempts."""
    requests = [each for each in fake.requests if each.method == "POST" and each.url.path.endswith("/blobs")]
    return [blob["digest"] for each in requests for blob in json.loads(each.content)["blobs"]]


def test_small_files_go_in_one_pack_each_content_once_and_with_its_length(folder: Path) -> None:
    fake, moved = FakeRegistry(), list[tuple[int, int]]()
    with fake.client() as client:
        version = client.register("fraud", folder, progress=lambda *each: moved.append(each))
    assert fake.published == SMALL
    [request] = [each for each in fake.requests if each.method == "PUT"]
    assert int(request.headers["Content-Length"]) == len(b"".join(fake.received.values())) == 3_000_004
    assert "Transfer-Encoding" not in request.headers
    assert [each.path for each in version.files] == ["a", "empty", "same/1", "same/2"]
    assert (moved[0], moved[-1]) == ((0, 3_000_004), (3_000_004, 3_000_004))


def test_a_thousand_small_files_take_few_requests(tmp_path: Path) -> None:
    contents = {f"{number % 10}/{number}": f"content {number}".encode() for number in range(1000)}
    fake = FakeRegistry()
    with fake.client() as client:
        client.register("fraud", write(tmp_path / "model", contents))
    assert fake.published == contents
    assert len(fake.requests) == 4  # offer, announce, send, commit


def test_a_large_file_goes_in_packs(large: Path) -> None:
    fake, moved = FakeRegistry(), list[tuple[int, int]]()
    with fake.client() as client:
        client.register("fraud", large, progress=lambda *each: moved.append(each))
    assert fake.published == {"large": LARGE, "small": b"small", "also/small": b"too"}
    assert len(fake.received) == 5 + 1  # and one for the small files
    assert max(map(len, fake.received.values())) <= PACK
    assert sum(map(len, fake.received.values())) == len(LARGE) + 8
    assert (moved[0], moved[-1]) == ((0, len(LARGE) + 8), (len(LARGE) + 8, len(LARGE) + 8))


def test_what_the_registry_has_is_not_sent(folder: Path) -> None:
    fake = FakeRegistry(have={digest_of(content): content for content in SMALL.values()})
    with fake.client() as client:
        client.register("fraud", folder)
    assert fake.published == SMALL
    assert fake.asked("PUT", "/put/") == 0


def test_a_large_file_that_may_be_there_is_hashed_first_and_not_sent_when_it_is(large: Path) -> None:
    fake, totals = (
        FakeRegistry(have={digest_of(LARGE): LARGE}, hash_first=["large", "unheard/of"]),
        list[int](),
    )
    with fake.client() as client:
        client.register("fraud", large, progress=lambda _, total: totals.append(total))
    assert fake.asked("POST", "/u1/files") == 1
    assert fake.published["large"] == LARGE
    assert sum(map(len, fake.received.values())) == set(totals).pop() == 8


def test_a_large_file_that_is_not_there_after_all_is_sent(large: Path) -> None:
    fake = FakeRegistry(hash_first=["large"])
    with fake.client() as client:
        client.register("fraud", large)
    assert fake.published["large"] == LARGE


def test_the_same_large_content_twice_is_sent_once(large: Path) -> None:
    (large / "copy").write_bytes(LARGE)
    for hash_first in ([], ["large", "copy"]):
        fake, moved = FakeRegistry(hash_first=hash_first), list[tuple[int, int]]()
        with fake.client() as client:
            client.register("fraud", large, progress=lambda *each, moved=moved: moved.append(each))
        assert fake.published["copy"] == fake.published["large"] == LARGE
        assert len(announced(fake)) == len(sent(fake)) == len(fake.received)
        assert sum(map(len, fake.received.values())) == len(LARGE) + 8
        assert moved[-1] == (len(LARGE) + 8, len(LARGE) + 8)


def test_of_a_changed_file_only_the_changed_chunks_are_sent(large: Path) -> None:
    first = FakeRegistry()
    with first.client() as client:
        client.register("fraud", large)
    changed = b"inserted" + LARGE[: 3 * PACK] + b"!" + LARGE[3 * PACK + 1 :] + b"appended"
    write(large, {"large": changed, "renamed": LARGE})
    second, moved = (
        FakeRegistry(have=dict(first.received), bases=[first.base("large")]),
        list[tuple[int, int]](),
    )
    with second.client() as client:
        client.register("fraud", large, progress=lambda *each: moved.append(each))
    assert second.published["large"] == changed
    assert second.published["renamed"] == LARGE
    sent = sum(map(len, second.received.values()))
    assert 3 * CUTTING.smallest < sent < PACK
    assert moved[-1] == (sent, sent)


def test_a_chunk_that_repeats_is_sent_once_and_found_again(large: Path) -> None:
    """Where chunks are looked up at all, those of the file itself are among them."""
    first = FakeRegistry()
    with first.client() as client:
        client.register("fraud", large)
    (large / "large").write_bytes(bytes(10 * PACK))
    second = FakeRegistry(have=dict(first.received), bases=[first.base("large")])
    with second.client() as client:
        client.register("fraud", large)
    assert second.published["large"] == bytes(10 * PACK)
    assert sum(map(len, second.received.values())) < PACK


def test_what_was_put_together_from_pieces_is_a_base_like_any_other(large: Path) -> None:
    """Its chunks lie across the borders of its segments."""
    registries, content = [FakeRegistry()], LARGE
    for number in range(3):
        fake = registries[-1]
        write(large, {"large": content})
        with fake.client() as client:
            client.register("fraud", large)
        assert fake.published["large"] == content
        stored = {**fake.have, **fake.received}
        registries.append(FakeRegistry(have=stored, bases=[fake.base("large")]))
        content = content[: 70_000 * (number + 1)] + b"inserted" + content[70_000 * (number + 1) :]
    assert sum(map(len, registries[-2].received.values())) < PACK


@pytest.mark.parametrize("listed", [b"", b"\2" + bytes(36), b"\1" + bytes(35), b"\1"])
def test_a_list_of_chunks_of_another_time_is_of_no_use_and_no_harm(large: Path, listed: bytes) -> None:
    base = {"segments": [[digest_of(b"x"), 0, 1]], "chunks": base64.b64encode(listed).decode()}
    fake = FakeRegistry(bases=[base])
    with fake.client() as client:
        client.register("fraud", large)
    assert fake.published["large"] == LARGE


def fail_first(method: str, part: str, *failures: httpx2.Response | BaseException) -> Any:
    """The first matching requests fail in turn."""
    left = list(failures)

    def before(request: httpx2.Request) -> httpx2.Response | None:
        if request.method != method or part not in str(request.url) or not left:
            return None
        failure = left.pop(0)
        if isinstance(failure, BaseException):
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
def test_one_pack_is_retried_when_the_trouble_may_pass(large: Path, failures: Any, presigned: bool) -> None:
    moved: list[int] = []
    failures = [httpx2.Response(500), *failures[:3]] if presigned else failures
    fake = FakeRegistry(presigned=presigned, before=fail_first("PUT", "/put/", *failures))
    with fake.client() as client:
        client.register("fraud", large, progress=lambda done, _: moved.append(done))
    assert fake.published["large"] == LARGE
    assert len(sent(fake)) == len(fake.received) + len(failures)
    assert sorted(announced(fake)) == sorted(fake.received)
    assert (offers(fake), fake.asked("POST", "/versions")) == (1, 1)
    assert moved[-1] == max(moved) == len(LARGE) + 8


def test_an_announcement_whose_answer_was_lost_is_repeated(large: Path) -> None:
    lost = fail_first("POST", "/blobs", httpx2.ReadError("reset"), problem(503, "x"))
    fake = FakeRegistry(before=lost)
    with fake.client() as client:
        client.register("fraud", large)
    assert len(set(announced(fake))) == len(announced(fake)) - 2 == len(sent(fake)) == len(fake.received)


def test_many_parts_are_announced_at_a_time(large: Path) -> None:
    content = random.Random(4).randbytes(60 * PACK)  # noqa: S311 - the same each time
    (large / "large").write_bytes(content)
    fake = FakeRegistry()
    with fake.client() as client:
        client.register("fraud", large)
    assert fake.published["large"] == content
    assert sorted(announced(fake)) == sorted(fake.received)
    assert fake.asked("POST", "/blobs") == 1 + len([1, 2, 4, 8, 16, 16, 13])


def test_a_commit_whose_answer_was_lost_is_repeated_with_the_same_upload(folder: Path) -> None:
    fake = FakeRegistry(before=fail_first("POST", "/versions", httpx2.ReadError("reset"), problem(503, "x")))
    with fake.client() as client:
        client.register("fraud", folder)
    commits = [each.content for each in fake.requests if str(each.url).endswith("/versions")]
    assert len(commits) == 3
    assert len(set(commits)) == 1
    assert offers(fake) == 1


@pytest.mark.parametrize(
    "failure",
    [
        problem(409, "upload_incomplete", missing=["sha256:0"]),
        problem(410, "upload_expired"),
        problem(404, "upload_not_found"),
        problem(400, "digest_mismatch"),
    ],
)
def test_what_was_lost_meanwhile_is_offered_and_sent_anew(large: Path, failure: httpx2.Response) -> None:
    def lose(request: httpx2.Request) -> httpx2.Response | None:
        if not fail(request):
            return None
        fake.received.popitem()
        return failure

    fail = fail_first("POST", "/versions", failure)
    fake = FakeRegistry(before=lose)
    with fake.client() as client:
        client.register("fraud", large)
    assert offers(fake) == 2
    assert fake.published["large"] == LARGE
    assert len(sent(fake)) == len(fake.received) + 1


def test_an_expired_presigned_address_is_asked_for_anew_for_its_pack_alone(large: Path) -> None:
    fake = FakeRegistry(presigned=True, before=fail_first("PUT", STORE, httpx2.Response(403)))
    with fake.client() as client:
        client.register("fraud", large)
    assert offers(fake) == 1
    assert len(announced(fake)) == len(sent(fake)) == len(fake.received) + 1
    assert fake.published["large"] == LARGE


def test_starting_over_has_an_end(folder: Path) -> None:
    fake = FakeRegistry(
        before=lambda r: problem(409, "upload_incomplete") if r.url.path.endswith("versions") else None
    )
    with fake.client() as client, pytest.raises(modelyard.Conflict):
        client.register("fraud", folder)
    assert offers(fake) == _upload.ROUNDS
    fake = FakeRegistry(presigned=True, before=lambda r: httpx2.Response(403) if r.method == "PUT" else None)
    with fake.client() as client, pytest.raises(modelyard.Forbidden):
        client.register("fraud", folder)
    assert offers(fake) == _upload.ROUNDS


@pytest.mark.parametrize(
    "failure", [problem(401, "unauthorized"), problem(413, "body_too_large"), problem(500, "x")]
)
def test_a_refusal_is_final_and_the_first_one_is_told(large: Path, failure: httpx2.Response) -> None:
    fake = FakeRegistry(before=lambda request: failure if request.method == "PUT" else None)
    with fake.client() as client, pytest.raises(modelyard.ApiError) as caught:
        client.register("fraud", large)
    assert caught.value.status == failure.status_code
    assert fake.asked("POST", "/versions") == 0
    assert offers(fake) == 1


def test_an_interrupted_upload_makes_no_version(large: Path) -> None:
    fake = FakeRegistry(before=fail_first("PUT", "/put/", KeyboardInterrupt()))
    with fake.client() as client, pytest.raises(KeyboardInterrupt):
        client.register("fraud", large)
    assert fake.asked("POST", "/versions") == 0


def register_while(
    fake: FakeRegistry, folder: Path, change: Callable[[Path], object], at: str = "/uploads"
) -> None:
    """Register `folder`, and change it once it was offered."""
    changed: list[object] = []

    def interfere(request: httpx2.Request) -> None:
        if request.url.path.endswith(at) and not changed:
            changed.append(change(folder))

    fake.before = interfere
    with fake.client() as client:
        client.register("fraud", folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").write_bytes(b"b" * 3_000_000),
        lambda root: (root / "a").write_bytes(b"a" * 2_999_999 + b"b"),
        lambda root: os.truncate(root / "a", 100),
        lambda root: os.truncate(root / "a", 0),
        lambda root: (root / "a").open("ab").write(b"x"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_that_changes_meanwhile_is_noticed_and_named_and_nothing_is_committed(
    folder: Path, change: Any
) -> None:
    fake = FakeRegistry()
    with pytest.raises(IntegrityError, match=r"'a' changed while it was being uploaded"):
        register_while(fake, folder, change)
    assert fake.asked("POST", "/versions") == 0


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda root: os.truncate(root / "large", 100),
        lambda root: os.truncate(root / "large", 0),
        lambda root: (root / "large").open("ab").write(b"x"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_large_file_that_changes_meanwhile_is_noticed_and_named_and_nothing_is_committed(
    large: Path, change: Any, hashed: bool
) -> None:
    fake = FakeRegistry(hash_first=["large"] if hashed else [])
    with pytest.raises(IntegrityError, match=r"'large' changed while it was being uploaded"):
        register_while(fake, large, change, at="/files" if hashed else "/uploads")
    assert fake.asked("POST", "/versions") == 0


def test_a_large_file_whose_size_stays_is_noticed_when_it_was_hashed_before(large: Path) -> None:
    fake = FakeRegistry(hash_first=["large"])
    with pytest.raises(IntegrityError, match="'large' changed"):
        register_while(fake, large, lambda root: (root / "large").write_bytes(LARGE[:-1] + b"!"), at="/files")
    assert fake.asked("POST", "/versions") == 0


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(large: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes((large / name).read_bytes())

    def become_a_link(root: Path) -> None:
        (root / name).unlink()
        (root / name).symlink_to(tmp_path / "secret")

    fake = FakeRegistry()
    with pytest.raises(modelyard.InvalidPath):
        register_while(fake, large, become_a_link)
    assert fake.asked("POST", "/versions") == 0


CHUNK = base64.b64encode(b"\1" + bytes(35) + b"\1").decode()
CUT = {"smallest": 1024, "target": 4096, "largest": 16384, "normalization": 2}
OFFER: dict[str, Any] = {"id": "u", "have": [], "hash_first": ["large"], "cutting": CUT, "bases": []}
NO_OFFERS: list[Any] = [
    *({}, [], None, {"id": "u"}, 7),
    *(OFFER | {name: None} for name in ("have", "hash_first", "cutting", "bases")),
    *(OFFER | {"have": [{}]}, OFFER | {"have": [7]}, OFFER | {"hash_first": [[]]}),
]
NO_CUTTINGS: list[dict[str, Any]] = [
    *({"smallest": 0}, {"smallest": -1}, {"smallest": 1}, {"smallest": "1024"}),
    *({"target": 512}, {"target": True}, {"largest": 1 << 40}, {"largest": 2048}),
    *({"normalization": 9}, {"normalization": None}),
]
NO_BASES: list[tuple[Any, Any]] = [
    *(([], CHUNK), ([["sha256:0", 0, 0]], CHUNK), ([["sha256:0", 0, -1]], CHUNK), (None, CHUNK)),
    *(([7], CHUNK), ([["sha256:0"]], CHUNK), ([["sha256:0", "0", 1]], CHUNK)),
    *(([["sha256:0", -1, 1]], CHUNK), ([[7, 0, 1]], CHUNK), ([["sha256:0", 0, 1.0]], CHUNK)),
    *(([], "no base64"), ([], "ü"), ([], 7), ([], None)),
]
NO_HAVES: list[Any] = [None, [], {}, {"have": None}, {"have": [{}]}, {"have": 7}]
NO_NEEDS: list[Any] = [
    *(None, [], {}, {"needs": None}, {"needs": [{"url": "/x"}]}),
    *({"needs": [{"url": "/put/x", "headers": each}]} for each in (None, 7, ["x"])),
]


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        *(("/uploads", each) for each in NO_OFFERS),
        *(("/uploads", OFFER | {"cutting": CUT | each}) for each in NO_CUTTINGS),
        *(("/uploads", OFFER | {"bases": [{"segments": s, "chunks": c}]}) for s, c in NO_BASES),
        *(("/files", each) for each in NO_HAVES),
        *(("/blobs", each) for each in NO_NEEDS),
    ],
)
def test_an_answer_that_makes_no_sense_is_not_understood(large: Path, part: str, answer: Any) -> None:
    fake = FakeRegistry(hash_first=["large"])
    fake.before = lambda r: httpx2.Response(201, json=answer) if r.url.path.endswith(part) else None
    with fake.client() as client, pytest.raises(modelyard.UnexpectedAnswer):
        client.register("fraud", large)
    assert fake.asked("POST", "/versions") == 0


def test_nobody_waits_for_what_was_not_begun(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pack fails for good; those that wait for a thread are given up at once."""
    fake = FakeRegistry(before=lambda r: problem(400, "size_mismatch") if r.method == "PUT" else None)
    (large / "more").write_bytes(os.urandom(40 * PACK))
    monkeypatch.setattr(_parallel, "GRACE_S", 60.0)
    started = time.monotonic()
    with fake.client() as client, pytest.raises(modelyard.InvalidRequest):
        client.register("fraud", large)
    assert time.monotonic() - started < _parallel.GRACE_S / 2
    assert len(sent(fake)) < 20
    assert fake.asked("POST", "/versions") == 0


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
