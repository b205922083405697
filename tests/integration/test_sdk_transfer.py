"""What travels, and what need not: counted in bytes and requests, against real registries on disk and on S3."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import modelyard
import pytest
from modelyard import Client, Version

from tests.servers.ports import wait_until
from tests.servers.registry import Registry
from tests.servers.s3 import S3Server
from tests.unit.sdk_fake import small_packs

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["disk", "rclone", "ceph"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a registry that stores on its own disk, and of those that send us to S3."""
    with Client(request.getfixturevalue(f"{request.param}_url")) as opened:
        yield opened


@contextmanager
def serving(home: Path, storage_url: str) -> Iterator[str]:
    """A registry that soon lists the chunks of what it got."""
    registry = Registry(
        home,
        database_url=f"sqlite:///{home / 'registry.db'}",
        storage_url=storage_url,
        environment={"MODELYARD_REGISTRY_VERIFY_POLL_S": "0.1"},
    )
    try:
        yield registry.start().url
    finally:
        registry.kill()


@pytest.fixture(scope="module")
def disk_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("disk-registry")
    with serving(home, (home / "blobs").as_uri()) as url:
        yield url


@pytest.fixture(scope="module")
def rclone_url(rclone_s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry"), rclone_s3.url(rclone_s3.new_bucket())) as url:
        yield url


@pytest.fixture(scope="module")
def ceph_url(ceph_s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry"), ceph_s3.url(ceph_s3.new_bucket())) as url:
        yield url


@pytest.fixture
def name() -> str:
    return f"sdk-{uuid.uuid4().hex}"


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def register(client: Client, name: str, path: Path) -> tuple[Version, int]:
    """A version that is verified and whose chunks are known, and how many bytes were sent for it."""
    moved: list[tuple[int, int]] = []
    version = client.register(name, path, progress=lambda *each: moved.append(each))
    ref = f"{name}/{version.number}"
    wait_until(lambda: client.resolve(ref).verified, timeout_s=60, what=f"{ref} to be verified")
    large = {file.digest for file in version.files if file.size >= 16 * MIB}
    if large and moved[-1][0]:  # else they are those of an earlier version
        offer = {"packed": True, "unhashed": [{"path": "x", "size": 1}]}
        uploads = f"/api/v1/models/{name}/uploads"
        wait_until(
            lambda: len(client._http.send("POST", uploads, offer)["bases"]) >= min(version.number, 3),
            timeout_s=60,
            what=f"the chunks of {ref} to be listed",
        )
    assert moved[-1][0] == moved[-1][1]
    return version, moved[-1][0]


# ── what need not be sent


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(40 * MIB)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "regions": lambda c: (
        c[: 9 * MIB] + b"changed" + c[9 * MIB + 7 : 30 * MIB] + b"changed" + c[30 * MIB + 7 :]
    ),
    "inserted": lambda c: b"in front of everything" + c,
    "appended": lambda c: c + os.urandom(MIB),
    "cut out": lambda c: c[: 17 * MIB] + c[17 * MIB + 12_345 :],
}


def test_of_a_changed_file_little_is_sent_and_it_comes_back_as_it_is(
    client: Client, name: str, tmp_path: Path, content: bytes
) -> None:
    folder = write(tmp_path / "model", {"weights": content})
    _, sent = register(client, name, folder)
    assert sent == len(content)
    for what, change in CHANGES.items():
        content = change(content)
        (folder / "weights").write_bytes(content)
        version, sent = register(client, name, folder)
        assert 0 < sent < 4 * MIB, what
    assert tree(client.download(version, tmp_path / "dest")) == {"weights": content}
    (folder / "weights").rename(folder / "renamed")
    assert register(client, name, folder)[1] == 0
    assert register(client, f"{name}-other", folder)[1] == 0
    assert tree(client.download(f"{name}-other/1", tmp_path / "other")) == {"renamed": content}


def test_the_same_content_twice_in_one_version_is_sent_once(
    client: Client, name: str, tmp_path: Path, content: bytes
) -> None:
    part = content[: 17 * MIB]
    small = os.urandom(32)
    contents = {"a": part, "b/same": part, "small": small, "small too": small, "empty": b""}
    version, sent = register(client, name, write(tmp_path / "model", contents))
    assert sent == len(part) + len(small)
    fetched: list[int] = []
    found = client.download(version, tmp_path / "dest", progress=lambda done, _: fetched.append(done))
    assert tree(found) == contents
    assert fetched[-1] == len(part) + len(small)


def test_a_thousand_small_files_are_one_blob(client: Client, name: str, tmp_path: Path) -> None:
    # From 32 bytes on: a single random byte is, now and then, a file that the registry has already.
    contents = {f"{number % 7}/{number}": os.urandom(32 + number) for number in range(1000)}
    version, sent = register(client, name, write(tmp_path / "model", contents))
    assert sent == sum(map(len, contents.values()))
    assert len(client._http.get(f"/api/v1/models/{name}/versions/1/downloads")["blobs"]) == 1
    assert tree(client.download(version, tmp_path / "dest")) == contents


# ── interrupted

VICTIM = textwrap.dedent(
    """
    import sys, time
    from modelyard import Client, _packs, _upload

    _packs.PACK = _packs.PART = _upload.PACK = 1 << 20

    def watch(done, total):
        if done >= 12 << 20:
            print("half", flush=True)
            time.sleep(600)

    Client(sys.argv[1]).register(sys.argv[2], sys.argv[3], progress=watch)
    """
)


def test_what_a_killed_upload_had_sent_is_not_sent_again_from_another_home(
    client: Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(os.urandom(24 * MIB))
    command = [sys.executable, "-c", VICTIM, client.url, name, str(tmp_path / "weights")]
    environment = os.environ | {"MODELYARD_HOME": str(tmp_path / "one")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"half\n"
        victim.send_signal(signal.SIGKILL)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "two"))
    small_packs(monkeypatch, MIB)
    with pytest.raises(modelyard.NotFound):
        client.resolve(f"{name}/1")
    version, sent = register(client, name, tmp_path / "weights")
    assert 0 < sent <= (24 - 12 + 4) * MIB  # four were on their way
    assert tree(client.download(version, tmp_path / "dest"))["weights"] == (tmp_path / "weights").read_bytes()


class Faulty(BaseHTTPRequestHandler):
    """Forwards to an S3 server, whose signatures hold because the Host header stays. Fails once, if told to."""

    protocol_version = "HTTP/1.1"
    target: tuple[str, int]
    fault: tuple[str, int | None] | None = None  # the method, and a status or None: the connection breaks
    seen: Counter[tuple[str, str]]
    failed: Counter[tuple[str, str]]
    lock: threading.Lock

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = (self.command, urlsplit(self.path).path)
        with self.lock:
            own = self.headers["User-Agent"].startswith("modelyard/")  # rather than the registry's
            self.seen[key] += own
            fault, cls = None, type(self)
            if cls.fault and cls.fault[0] == self.command and own:
                fault, cls.fault = cls.fault, None
                self.failed[key] += 1
        if fault and fault == ("PUT", None):
            self._break_off()
            return
        if fault and fault[1]:
            self.send_response(fault[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = HTTPConnection(*self.target)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for header, value in self.headers.items():
            connection.putheader(header, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        for header, value in answer.getheaders():
            if header.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(header, value)
        self.end_headers()
        if fault:
            self.wfile.write(content[: len(content) // 2])
            self._break_off()
            return
        self.wfile.write(content)

    def _break_off(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def faulty(rclone_s3: S3Server, tmp_path: Path) -> Iterator[tuple[Client, type[Faulty]]]:
    """A client of a registry whose S3 store can be told to fail, and that store."""
    target = urlsplit(rclone_s3.endpoint)

    class Handler(Faulty):
        lock = threading.Lock()

    Handler.seen, Handler.failed = Counter(), Counter()
    Handler.target = (target.hostname or "", target.port or 80)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxied = S3Server(f"http://127.0.0.1:{server.server_port}")
        try:
            storage_url = proxied.url(rclone_s3.new_bucket())
            with serving(tmp_path / "registry", storage_url) as url, Client(url) as client:
                yield client, Handler
        finally:
            server.shutdown()


@pytest.mark.parametrize("status", [500, 503, 403, None])
def test_a_part_that_fails_is_sent_or_fetched_again_alone(
    faulty: tuple[Client, type[Faulty]],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
) -> None:
    client, store = faulty
    small_packs(monkeypatch, MIB)
    monkeypatch.setattr("modelyard._listing.READ_BYTES", MIB)
    contents = {"weights": os.urandom(6 * MIB), "small": b"x"}
    store.fault = ("PUT", status)
    version, sent = register(client, name, write(tmp_path / "model", contents))
    puts = {key: count for key, count in store.seen.items() if key[0] == "PUT" and count}
    assert sent == 6 * MIB + 1
    assert sorted(puts.values()) == [1] * 6 + [2]
    assert [puts[key] for key in store.failed] == [2]
    store.seen.clear()
    store.failed.clear()
    store.fault = ("GET", status)
    assert tree(client.download(version, tmp_path / "dest")) == contents
    gets = {key: count for key, count in store.seen.items() if key[0] == "GET" and count}
    assert sorted(gets.values()) == [1] * 6 + [2]
    assert [gets[key] for key in store.failed] == [2]


# ── memory

MEASURED = textwrap.dedent(
    """
    import resource, sys
    from modelyard import Client

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    client = Client(sys.argv[1])
    client.register(f"{sys.argv[2]}-small", sys.argv[4])
    before = peak()
    version = client.register(sys.argv[2], sys.argv[3])
    uploaded = peak()
    client.download(version, sys.argv[5])
    print(uploaded - before, peak() - uploaded)
    """
)


def test_memory_stays_small_when_a_large_file_is_compared_with_its_last_version(
    disk_url: str, name: str, tmp_path: Path
) -> None:
    """KiB of the whole process: the cutter's own memory is not Python's."""
    content = os.urandom(200 * MIB)
    (tmp_path / "weights").write_bytes(content)
    (tmp_path / "small").write_bytes(b"x")
    with Client(disk_url) as client:
        register(client, name, tmp_path / "weights")
    with (tmp_path / "weights").open("r+b") as stream:
        stream.write(os.urandom(100 * MIB))
    del content
    command = [
        sys.executable,
        "-c",
        MEASURED,
        disk_url,
        name,
        *map(str, (tmp_path / "weights", tmp_path / "small")),
    ]
    done = subprocess.run([*command, tmp_path / "dest"], capture_output=True, text=True, check=True)
    for grown in map(int, done.stdout.split()):
        assert grown < 128 << 10
