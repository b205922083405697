"""What every store of blobs promises: one suite, run against each backend and each S3 server."""

import functools
import io
import itertools
import os
import shutil
import traceback
import tracemalloc
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from time import monotonic
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from storage import BlobStore, Ticket, open_store
from storage.errors import (
    BlobNotFound,
    InvalidKey,
    KeyExists,
    SizeMismatch,
    StorageError,
    StoreConfigurationError,
    StoreUnavailable,
)
from storage.layout import new_key
from storage.s3_rules import MAX_SINGLE_PUT, PART_SIZE
from storage.s3_tickets import Sender
from tests.contract.backends import ALL, DISK, MEMORY, MINIO_CEPH, REMOTE, S3_CEPH, S3_RCLONE, Backend
from tests.servers.faults import cutting_proxy
from tests.servers.ports import free_port
from tests.servers.s3 import S3Server

ONE_PART_AND_MORE = 2 * PART_SIZE + 1
SIZES = [0, 1, PART_SIZE, ONE_PART_AND_MORE]


def only(*backends: Backend) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", backends, indirect=True, ids=lambda backend: backend.name)


remote_only = only(*REMOTE)


@pytest.fixture(params=ALL, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, backend: Backend) -> S3Server | None:
    return request.getfixturevalue(backend.server) if backend.server else None


@pytest.fixture(scope="session")
def bucket_of() -> Callable[[S3Server], str]:
    """One bucket per server for the whole suite; tests keep apart by the prefix in their storage URL."""
    return functools.cache(S3Server.new_bucket)


@pytest.fixture
def url(
    backend: Backend, server: S3Server | None, bucket_of: Callable[[S3Server], str], tmp_path: Path
) -> str:
    """The URL of an empty store."""
    if server:
        return server.url(f"{bucket_of(server)}/{uuid.uuid4().hex}", scheme=backend.scheme)
    return "memory://" if backend.scheme == "memory" else (tmp_path / "store").as_uri()


@pytest.fixture
def store(url: str) -> Iterator[BlobStore]:
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def unfinished(server: S3Server | None, url: str) -> Iterator[Callable[[], list[str]]]:
    """The keys of multipart uploads, below this test's prefix, that were neither completed nor aborted."""
    client = server.client() if server else None
    parts = urlsplit(url)

    def listed() -> list[str]:
        if not client:
            return []
        try:
            answer = client.list_multipart_uploads(Bucket=parts.netloc, Prefix=parts.path[1:])
        except client.exceptions.NoSuchUpload:  # so rclone says that this bucket never had any
            return []
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    yield listed
    if client:
        client.close()


def key_for(data: bytes) -> str:
    return new_key(digest_of(data))


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def put(store: BlobStore, data: bytes, key: str | None = None) -> str:
    key = key or key_for(data)
    store.put(key, io.BytesIO(data), size=len(data))
    return key


def read(store: BlobStore, key: str) -> bytes:
    with store.open(key) as blob:
        return blob.read()


def keys(store: BlobStore, prefix: str = "") -> list[str]:
    return sorted(found.key for found in store.iterate(prefix))


def ticket_for(store: BlobStore, key: str, data: bytes) -> Ticket:
    ticket = store.upload_ticket(key, size=len(data), digest=digest_of(data), expires_s=60)
    assert ticket
    return ticket


def assert_nothing_at(store: BlobStore, key: str) -> None:
    assert store.stat(key) is None
    assert keys(store) == []
    with pytest.raises(BlobNotFound):
        store.open(key)


# --- bytes in, bytes out


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_is_read_back(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    key = put(store, data)
    assert read(store, key) == data
    assert store.stat(key).size == size
    assert keys(store) == [key]


def test_a_blob_is_read_in_pieces_of_any_length(store: BlobStore) -> None:
    data = os.urandom(1_000_000)
    key = put(store, data)
    with store.open(key) as blob:
        pieces = [blob.read(3), blob.read(0), blob.read(700_000), blob.read(), blob.read(1)]
    assert [len(piece) for piece in pieces] == [3, 0, 700_000, 299_997, 0]
    assert b"".join(pieces) == data


def test_a_blob_closed_before_its_end_frees_what_it_held(store: BlobStore) -> None:
    """More blobs than a connection pool holds, closed after the first bytes but still referred to."""
    data = os.urandom(PART_SIZE)
    key = put(store, data)
    closed = []
    before = open_files()
    for _ in range(60):
        with store.open(key) as blob:
            assert blob.read(10) == data[:10]
        closed.append(blob)
    assert open_files() < before + 10
    for blob in closed:
        with pytest.raises(ValueError, match="closed"):
            blob.read(1)
    assert read(store, key) == data


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


# --- ranges

WHOLE = bytes(range(100))
RANGES = [
    (0, None), (0, 100), (0, 1), (0, 0), (7, 13), (7, None), (99, 1), (99, None), (50, 50),
    (99, 2), (0, 101), (40, 10**6), (100, None), (100, 1), (100, 0), (101, None), (10**6, 5), (10**6, 0),
    (1 << 62, 1), (1 << 80, None), (1 << 80, 1 << 80), (5, 1 << 80),
]  # fmt: skip


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_a_range_is_read_as_from_a_file(store: BlobStore, offset: int, length: int | None) -> None:
    """It ends where the blob ends; one that begins there is empty."""
    key = put(store, WHOLE)
    end = None if length is None else offset + length
    with store.open(key, offset=offset, length=length) as blob:
        assert blob.read() == WHOLE[offset:end]
        assert blob.read(1) == b""


@pytest.mark.parametrize(("offset", "length"), [(0, None), (0, 0), (0, 5), (5, None), (5, 5)])
def test_a_range_of_an_empty_blob_is_empty(store: BlobStore, offset: int, length: int | None) -> None:
    key = put(store, b"")
    with store.open(key, offset=offset, length=length) as blob:
        assert blob.read() == b""


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 5), (5, None), (5, 0), (1 << 80, 1)])
def test_a_range_of_no_blob_is_not_found(store: BlobStore, offset: int, length: int | None) -> None:
    with pytest.raises(BlobNotFound):
        store.open(key_for(b"never"), offset=offset, length=length)


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1), (-5, 5)])
def test_no_range_begins_before_the_blob_or_runs_backwards(
    store: BlobStore, offset: int, length: int | None
) -> None:
    key = put(store, WHOLE)
    with pytest.raises(ValueError, match="negative"):
        store.open(key, offset=offset, length=length)


def test_a_range_across_the_parts_of_a_large_blob_is_read_in_pieces(store: BlobStore) -> None:
    data = os.urandom(ONE_PART_AND_MORE)
    key = put(store, data)
    first, length = PART_SIZE - 1000, 1_000_000
    with store.open(key, offset=first, length=length) as blob:
        pieces = [blob.read(3), blob.read(0), blob.read(700_000), blob.read(length), blob.read(1)]
    assert [len(piece) for piece in pieces] == [3, 0, 700_000, 299_997, 0]
    assert b"".join(pieces) == data[first : first + length]


@remote_only
def test_a_range_fetches_no_more_than_its_bytes(url: str, server: S3Server) -> None:
    """The proxy would cut an answer that held the whole blob."""
    data = os.urandom(PART_SIZE)
    direct = open_store(url)
    key = put(direct, data)
    direct.close()
    with through_proxy(url, server, after=100_000) as cut:
        with cut.open(key, offset=4_000_000, length=50_000) as blob:
            assert blob.read() == data[4_000_000:4_050_000]
        with cut.open(key, offset=4_000_000, length=200_000) as blob, pytest.raises(StoreUnavailable):
            blob.read()


@remote_only
def test_a_range_that_is_ignored_on_the_way_is_an_outage(store: BlobStore, backend: Backend) -> None:
    key = put(store, WHOLE)
    if backend.scheme == "s3":
        events = store._client.meta.events
        events.register("before-sign.s3.GetObject", lambda request, **_: request.headers.__delitem__("Range"))
    else:
        whole = store._client.get_object
        store._client.get_object = lambda bucket, name, **_: whole(bucket, name)
    for offset, length in ((0, 10), (10, None), (10, 10)):
        with pytest.raises(StoreUnavailable, match="ignored the range"):
            store.open(key, offset=offset, length=length)


def test_a_blob_is_a_file_only_on_a_disk(store: BlobStore, backend: Backend) -> None:
    key = put(store, b"bytes")
    path = store.local_path(key)
    assert (path is not None) == (backend is DISK)
    if path:
        assert path.read_bytes() == b"bytes"


class Driblets(io.RawIOBase):
    """A source that gives fewer bytes than it is asked for, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def read(self, n: int = -1) -> bytes:
        return self._rest.read(max(1, min(n, 100_000)))


@pytest.mark.parametrize("size", [1, 250_000, ONE_PART_AND_MORE])
def test_a_source_may_give_its_bytes_in_driblets(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    key = key_for(data)
    store.put(key, Driblets(data), size=size)
    assert read(store, key) == data


@pytest.mark.parametrize("size", SIZES)
def test_a_source_that_goes_on_is_refused(
    store: BlobStore, size: int, unfinished: Callable[[], list[str]]
) -> None:
    data = os.urandom(size + 1)
    key = key_for(data)
    with pytest.raises(SizeMismatch, match=f"expected exactly {size} bytes"):
        store.put(key, io.BytesIO(data), size=size)
    assert_nothing_at(store, key)
    assert unfinished() == []


@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_a_source_that_ends_early_is_refused(
    store: BlobStore, size: int, unfinished: Callable[[], list[str]]
) -> None:
    data = os.urandom(size - 1)
    key = key_for(data)
    with pytest.raises(SizeMismatch, match=f"the source gave {size - 1}"):
        store.put(key, io.BytesIO(data), size=size)
    assert_nothing_at(store, key)
    assert unfinished() == []


class Breaking(io.RawIOBase):
    """A source that fails with an error of its own after so many bytes."""

    def __init__(self, good: int, error: BaseException) -> None:
        self._good = io.BytesIO(os.urandom(good))
        self._error = error

    def read(self, n: int = -1) -> bytes:
        data = self._good.read(n)
        if not data:
            raise self._error
        return data


@pytest.mark.parametrize("good", [0, 10, ONE_PART_AND_MORE])
def test_an_error_of_the_source_passes_unchanged_and_leaves_nothing(
    store: BlobStore, good: int, unfinished: Callable[[], list[str]]
) -> None:
    error = OSError("the client went away")
    key = key_for(b"")
    with pytest.raises(OSError, match="went away") as caught:
        store.put(key, Breaking(good, error), size=good + PART_SIZE)
    assert caught.value is error
    assert_nothing_at(store, key)
    assert unfinished() == []


class Watching(io.RawIOBase):
    """A source that looks, each time it is read, at what the store shows meanwhile."""

    def __init__(self, data: bytes, look: Callable[[], None]) -> None:
        self._data = io.BytesIO(data)
        self._look = look

    def read(self, n: int = -1) -> bytes:
        self._look()
        return self._data.read(n)


@pytest.mark.parametrize("size", [10, ONE_PART_AND_MORE])
def test_a_blob_is_not_seen_before_it_is_whole(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    key = key_for(data)
    store.put(key, Watching(data, lambda: assert_nothing_at(store, key)), size=size)
    assert read(store, key) == data


@only(DISK, *REMOTE)
def test_a_put_holds_no_more_than_a_few_parts_in_memory(store: BlobStore) -> None:
    size = 8 * PART_SIZE
    tracemalloc.start()
    try:
        with Path("/dev/zero").open("rb") as zeros:
            store.put(key_for(b"zeros"), Limited(zeros, size), size=size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * PART_SIZE


class Limited(io.RawIOBase):
    def __init__(self, source: io.BufferedReader, size: int) -> None:
        self._source = source
        self._left = size

    def read(self, n: int = -1) -> bytes:
        data = self._source.read(min(n, self._left))
        self._left -= len(data)
        return data


# --- keys


def test_a_put_to_a_used_key_never_mixes_two_blobs(store: BlobStore, backend: Backend) -> None:
    """Disk and memory refuse it; S3 cannot promise to, and then one of the two blobs is there, whole."""
    key = put(store, b"first")
    if backend.tells_used_keys:
        with pytest.raises(KeyExists):
            put(store, b"second, and longer", key)
        assert read(store, key) == b"first"
    else:
        put(store, b"second, and longer", key)
        assert read(store, key) == b"second, and longer"


def test_many_puts_at_once_each_find_their_own_bytes(store: BlobStore) -> None:
    blobs = [os.urandom(1000 + n) for n in range(48)]
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(functools.partial(put, store), blobs))
        assert list(pool.map(functools.partial(read, store), stored)) == blobs
    assert keys(store) == sorted(stored)


INVALID_KEYS = [
    "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a\\b", "a\x00b", "a\n", "a b",
    "A/b", "a.b", "a%2e", "é", "~a", "-a", "$a", "a:b", "s3://b/k", "a" * 65,
    "/".join("abcdefghi"), "/".join(["a" * 60] * 5),
]  # fmt: skip
INVALID_PREFIXES = ["..", "/", "a//", "A", "a/../", "*", "a\n", "a" * 65]


@contextmanager
def taken_for_a_mistake(key: str) -> Iterator[None]:
    try:
        yield
    except InvalidKey:
        return
    pytest.fail(f"took {key!r}")


def test_only_keys_of_our_own_making_are_taken(store: BlobStore) -> None:
    verbs: list[Callable[[str], object]] = [
        lambda key: store.put(key, io.BytesIO(b"x"), size=1),
        store.open,
        store.stat,
        store.delete,
        store.local_path,
        lambda key: store.upload_ticket(key, size=1, digest=digest_of(b"x"), expires_s=60),
        lambda key: store.download_url(key, expires_s=60),
    ]
    for verb, key in itertools.product(verbs, INVALID_KEYS):
        with taken_for_a_mistake(key):
            verb(key)


def test_only_the_beginning_of_a_key_is_a_prefix(store: BlobStore) -> None:
    for prefix in INVALID_PREFIXES:
        with taken_for_a_mistake(prefix):
            list(store.iterate(prefix))


# --- looking


def test_stat_tells_size_and_age(store: BlobStore) -> None:
    key = put(store, b"12345")
    found = store.stat(key)
    assert (found.key, found.size) == (key, 5)
    assert found.modified.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=1)


def test_iterate_tells_what_stat_tells(store: BlobStore) -> None:
    key = put(store, b"12345")
    [listed] = store.iterate()
    # to the second: HTTP dates in an answer to HEAD are no finer
    assert (listed.key, listed.size) == (key, 5)
    assert listed.modified.replace(microsecond=0) == store.stat(key).modified.replace(microsecond=0)


def test_nothing_is_found_where_nothing_was_put(store: BlobStore) -> None:
    assert_nothing_at(store, key_for(b"never"))


def test_a_folder_of_blobs_is_no_blob(store: BlobStore) -> None:
    key = put(store, b"x")
    folder = key.rpartition("/")[0]
    assert store.stat(folder) is None
    with pytest.raises(BlobNotFound):
        store.open(folder)


def test_a_prefix_may_end_anywhere_in_a_key(store: BlobStore) -> None:
    stored = sorted(put(store, b"x", key) for key in ["a/b1/c", "a/b1/d", "a/b2/c", "a/b", "aa/b1/c", "b"])
    for prefix in ["", "a", "a/", "a/b", "a/b1", "a/b1/", "a/b1/c", "a/b2", "aa", "b", "b/", "c"]:
        assert keys(store, prefix) == [key for key in stored if key.startswith(prefix)], prefix


@only(MEMORY, DISK, S3_RCLONE, MINIO_CEPH)  # each client and each server once: a thousand puts take seconds
def test_a_listing_goes_on_after_the_first_thousand(store: BlobStore) -> None:
    names = [f"{n % 7}/{n:04}" for n in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: put(store, b"", name), names))
    assert keys(store) == sorted(names)
    assert list(itertools.islice(store.iterate("3/"), 2)), "a listing may be left before its end"


def test_delete_removes_one_blob_and_may_be_repeated(store: BlobStore) -> None:
    key, other = put(store, b"same bytes"), put(store, b"same bytes")
    for _ in range(2):
        store.delete(key)
        assert store.stat(key) is None
        assert keys(store) == [other]
    assert read(store, other) == b"same bytes"


@remote_only
def test_what_others_keep_in_the_bucket_is_not_ours(store: BlobStore, url: str, server: S3Server) -> None:
    """Objects outside our prefix, or under names that we never make, are not listed, and so never swept."""
    key = put(store, b"ours")
    parts = urlsplit(url)
    client = server.client()
    for name in (f"{parts.path[1:]}/Read.me", f"{parts.path[1:]}2/{key}"):
        client.put_object(Bucket=parts.netloc, Key=name, Body=b"theirs")
    client.close()
    assert keys(store) == [key]


# --- presigned requests


def send(ticket: Ticket, data: bytes, **headers: str) -> int:
    """What a client without credentials does with a ticket; returns the HTTP status."""
    return httpx2.request(
        ticket.method, ticket.url, content=data, headers={**ticket.headers, **headers}
    ).status_code


def test_a_store_presigns_both_ways_or_not_at_all(store: BlobStore, backend: Backend) -> None:
    key = key_for(b"x")
    assert (
        store.upload_ticket(key, size=1, digest=digest_of(b"x"), expires_s=60) is not None
    ) == backend.presigns
    assert (store.download_url(key, expires_s=60) is not None) == backend.presigns


@remote_only
@pytest.mark.parametrize("size", [0, 1, PART_SIZE + 1])
def test_a_ticket_uploads_and_a_url_downloads_without_credentials(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    key = key_for(data)
    assert send(ticket_for(store, key, data), data) == 200
    assert read(store, key) == data
    assert httpx2.get(store.download_url(key, expires_s=60)).content == data


@remote_only
@pytest.mark.parametrize("sent", [b"123", b"12345"])
def test_a_ticket_for_four_bytes_with_another_number_of_bytes(
    store: BlobStore, backend: Backend, sent: bytes
) -> None:
    key = key_for(b"1234")
    status = send(ticket_for(store, key, b"1234"), sent, **{"Content-Length": str(len(sent))})
    assert status == (403 if backend.pins_size else 200)
    assert (store.stat(key) is None) == backend.pins_size


@remote_only
def test_a_ticket_signs_the_digest_where_the_client_can_sign_headers(
    store: BlobStore, backend: Backend
) -> None:
    ticket = ticket_for(store, key_for(b"1234"), b"1234")
    assert ("x-amz-checksum-sha256" in ticket.headers) == backend.pins_digest
    if backend.pins_digest:
        assert ticket.headers["x-amz-checksum-sha256"] == b64encode(sha256(b"1234").digest()).decode()
        forged = b64encode(sha256(b"4321").digest()).decode()
        assert send(ticket, b"4321", **{"x-amz-checksum-sha256": forged}) == 403


@remote_only
def test_the_holder_must_send_exactly_the_headers_of_the_ticket(store: BlobStore) -> None:
    """What is signed is what is listed, but for the host, which every request has."""
    ticket = ticket_for(store, key_for(b"1234"), b"1234")
    [signed] = parse_qs(urlsplit(ticket.url).query)["X-Amz-SignedHeaders"]
    assert set(signed.split(";")) - {"host"} <= {name.lower() for name in ticket.headers}


def test_what_a_store_refuses_is_what_it_says_it_refuses(store: BlobStore, backend: Backend) -> None:
    assert store.refuses_wrong_bytes() == backend.refuses_bytes
    assert keys(store) == [], "trying leaves nothing behind"
    if backend.presigns:
        key = key_for(b"1234")
        assert (send(ticket_for(store, key, b"1234"), b"4321") == 400) == backend.refuses_bytes
        assert (store.stat(key) is None) == backend.refuses_bytes


@only(S3_RCLONE, S3_CEPH)
def test_a_store_is_asked_only_once_what_it_refuses(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.refuses_wrong_bytes(), range(16)))
    assert len(set(answers)) == 1
    monkeypatch.setattr(Sender, "send", None)  # would fail if it were called again
    assert store.refuses_wrong_bytes() == answers[0]
    assert ticket_for(store, key_for(b"x"), b"x")


@only(S3_RCLONE, S3_CEPH)
def test_an_outage_is_not_remembered_as_an_answer(
    store: BlobStore, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status in (500, 503, 404, 403):
        with monkeypatch.context() as broken:
            broken.setattr(Sender, "send", lambda *_, status=status: status)
            with pytest.raises(StoreUnavailable):
                store.refuses_wrong_bytes()
            with pytest.raises(StoreUnavailable):
                ticket_for(store, key_for(b"x"), b"x")
    assert store.refuses_wrong_bytes() == backend.refuses_bytes


@only(S3_RCLONE, S3_CEPH)
@pytest.mark.parametrize("nth", [1, 2])
def test_an_outage_in_the_middle_of_trying_is_not_taken_for_a_refusal(
    store: BlobStore, backend: Backend, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    real, count = Sender.send, itertools.count(1)

    def failing_once(sender: Sender, ticket: Ticket, data: bytes) -> int:
        return 503 if next(count) == nth else real(sender, ticket, data)

    monkeypatch.setattr(Sender, "send", failing_once)
    with pytest.raises(StoreUnavailable, match="try again later"):
        store.refuses_wrong_bytes()
    assert store.refuses_wrong_bytes() == backend.refuses_bytes
    assert keys(store) == []


@remote_only
def test_a_session_token_travels_with_the_ticket(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed offline: none of these servers gives out temporary credentials."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token of ours")
    monkeypatch.setattr("storage.s3.refuses", lambda *_: True)
    store = open_store(url)
    assert "X-Amz-Security-Token=token" in ticket_for(store, key_for(b"x"), b"x").url
    store.close()


@pytest.mark.parametrize(
    "digest", ["", "1" * 64, "sha256:" + "A" * 64, "sha256:" + "1" * 63, "md5:" + "1" * 32]
)
def test_a_ticket_is_for_a_digest_only(store: BlobStore, digest: str) -> None:
    with pytest.raises(InvalidKey, match="expected a digest"):
        store.upload_ticket(key_for(b"x"), size=1, digest=digest, expires_s=60)


def test_a_key_need_not_tell_the_digest(store: BlobStore, backend: Backend) -> None:
    if backend.presigns:
        assert send(ticket_for(store, "a/b", b"1234"), b"1234") == 200
        assert read(store, "a/b") == b"1234"


@remote_only
def test_a_ticket_is_good_for_one_key_one_method_and_its_time(store: BlobStore) -> None:
    key, other = put(store, b"kept"), key_for(b"1234")
    ticket = ticket_for(store, other, b"1234")
    download = Ticket("PUT", store.download_url(key, expires_s=60), {})
    assert parse_qs(urlsplit(ticket.url).query)["X-Amz-Expires"] == ["60"]
    for url in (ticket.url.replace(other, key), ticket.url.replace("Expires=60", "Expires=600")):
        assert send(Ticket("PUT", url, ticket.headers), b"1234") == 403
    # Ceph knows no DELETE whose payload is hashed: 501
    assert send(Ticket("DELETE", ticket.url.replace(other, key), ticket.headers), b"1234") in {403, 501}
    assert send(download, b"1234") == 403
    assert keys(store) == [key]
    assert read(store, key) == b"kept"


@remote_only
def test_no_ticket_for_more_than_one_put_can_carry(store: BlobStore) -> None:
    ask = functools.partial(store.upload_ticket, key_for(b""), digest=digest_of(b""), expires_s=60)
    assert ask(size=MAX_SINGLE_PUT)
    assert ask(size=MAX_SINGLE_PUT + 1) is None


@remote_only
def test_a_download_is_an_attachment_whatever_the_uploader_called_it(store: BlobStore) -> None:
    key = key_for(b"<script>")
    ticket = ticket_for(store, key, b"<script>")
    assert send(ticket, b"<script>", **{"Content-Type": "text/html"}) == 200
    answer = httpx2.get(store.download_url(key, expires_s=60))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"


@remote_only
def test_bytes_that_the_uploader_called_gzip_are_read_as_they_are_stored(store: BlobStore) -> None:
    key = key_for(b"not gzip")
    assert send(ticket_for(store, key, b"not gzip"), b"not gzip", **{"Content-Encoding": "gzip"}) == 200
    assert read(store, key) == b"not gzip"


# --- failures


def everything(store: BlobStore) -> list[Callable[[], object]]:
    """Each verb that asks the store something."""
    key = key_for(b"x")
    return [
        store.check,
        lambda: store.put(key, io.BytesIO(b"x"), size=1),
        lambda: store.put(key, io.BytesIO(bytes(PART_SIZE + 1)), size=PART_SIZE + 1),
        lambda: store.open(key),
        lambda: store.open(key, offset=1, length=1),
        lambda: store.open(key, length=0),
        lambda: store.stat(key),
        lambda: list(store.iterate()),
        lambda: store.delete(key),
    ]


def test_a_store_that_is_there_says_so(store: BlobStore) -> None:
    store.check()
    assert keys(store) == [], "a check leaves nothing behind"


@only(DISK, *REMOTE)
def test_a_missing_bucket_or_folder_is_an_outage_not_an_empty_store(
    store: BlobStore, backend: Backend, server: S3Server | None, tmp_path: Path
) -> None:
    if server:
        lost = open_store(server.url("never-made", scheme=backend.scheme))
    else:
        shutil.rmtree(tmp_path / "store")
        lost = store
    for verb in everything(lost):
        with pytest.raises(StoreUnavailable, match=r"check|create"):
            verb()
    lost.close()


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_a_dead_endpoint_is_an_outage_within_seconds(scheme: str) -> None:
    store = open_store(f"{scheme}://bucket?endpoint=http://127.0.0.1:{free_port()}")
    for verb in everything(store):
        began = monotonic()
        with pytest.raises(StoreUnavailable, match="bucket bucket gave no usable answer"):
            verb()
        assert monotonic() - began < 10
    store.close()


@remote_only
@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong-hunter2"), ("AWS_ACCESS_KEY_ID", "nobody")]
)
def test_refused_credentials_are_an_outage_and_are_not_told(
    url: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    store = open_store(url)
    for verb in everything(store):
        with pytest.raises(StoreUnavailable) as refusal:
            verb()
        told = "".join(traceback.format_exception(refusal.value))
        assert "hunter2" not in told
        assert "modelyard-secret" not in told
    store.close()


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize("scheme", ["s3", "minio"])
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_credentials_are_told_when_the_store_is_opened(
    scheme: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(StoreConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        open_store(f"{scheme}://bucket?endpoint=http://127.0.0.1:{free_port()}")


@remote_only
def test_a_stream_that_breaks_off_does_not_look_like_the_end(url: str, server: S3Server) -> None:
    data = os.urandom(PART_SIZE)
    direct = open_store(url)
    key = put(direct, data)
    direct.close()
    with through_proxy(url, server, after=PART_SIZE // 2) as cut:
        with cut.open(key) as blob, pytest.raises(StoreUnavailable):
            blob.read()
        with cut.open(key) as blob, pytest.raises(StoreUnavailable):
            list(iter(lambda: blob.read(100_000), b""))


@contextmanager
def through_proxy(url: str, server: S3Server, *, after: int) -> Iterator[BlobStore]:
    """The store at `url`, with every connection to it cut after so many bytes of answers."""
    with cutting_proxy(server.endpoint, after=after) as proxy:
        address = urlsplit(server.endpoint).netloc.replace(":", "%3A")
        cut = open_store(url.replace(address, urlsplit(proxy).netloc))
        yield cut
        cut.close()


def test_every_error_is_a_storage_error() -> None:
    errors = {BlobNotFound, InvalidKey, KeyExists, SizeMismatch, StoreConfigurationError, StoreUnavailable}
    assert set(StorageError.__subclasses__()) == errors
