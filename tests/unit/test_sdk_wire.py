"""Against real sockets: what a transport of httpx2's would never show."""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from modelyard import Client, ConnectionFailed, UnexpectedAnswer, _http, _wire
from modelyard._wire import Piece, Span, Wire, WireFailed, WireUnusable

from tests.servers.ports import free_port

SECRET = "?X-Amz-Signature=s3cr3t"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


class Server:
    """Answers each request with bytes; counts connections, keeps requests."""

    def __init__(self, answer: Callable[[socket.socket], None] | bytes) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        try:
            while data := connection.recv(1 << 16):
                received += data
                if b"\r\n\r\n" in received:
                    self.requests.append(received)
                    received = b""
                    if isinstance(self._answer, bytes):
                        connection.sendall(self._answer)
                    else:
                        self._answer(connection)
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()


@contextmanager
def serving(answer: Callable[[socket.socket], None] | bytes) -> Iterator[Server]:
    server = Server(answer)
    yield server
    server.close()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    opened = Wire(ssl.create_default_context(), connections=2)
    yield opened
    opened.close()


def ask(wire: Wire, url: str, *, timeout_s: float = 5.0, method: str = "GET") -> tuple[int, bytes]:
    timeout = urllib3.Timeout(timeout_s)
    body = [b"x"] if method == "PUT" else None
    with wire.request(
        method, url, headers={"Content-Length": "1"} if body else {}, body=body, timeout=timeout
    ) as answer:
        return answer.status, b"".join(answer.pieces)


def test_a_connection_is_used_again(wire: Wire) -> None:
    with serving(OK) as server:
        assert [ask(wire, server.url) for _ in range(3)] == [(200, b"ok")] * 3
        assert (len(server.requests), server.connections) == (3, 1)


def test_a_connection_is_used_again_although_nobody_read_the_answer(wire: Wire) -> None:
    with serving(OK) as server:
        for _ in range(3):
            with wire.request("GET", server.url, headers={}, body=None, timeout=urllib3.Timeout(5)):
                pass
        assert (len(server.requests), server.connections) == (3, 1)


def test_an_answer_without_end_that_nobody_reads_is_left_alone(wire: Wire) -> None:
    sent = []

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            sent.append(connection.send(bytes(1 << 16)))

    timeout = urllib3.Timeout(5)
    with (
        serving(endless) as server,
        wire.request("GET", server.url, headers={}, body=None, timeout=timeout) as answer,
    ):
        assert answer.status == 200
    assert sum(sent) < 64 << 20


def test_no_redirect_is_followed(wire: Wire) -> None:
    redirect = b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    with serving(redirect) as server:
        assert ask(wire, server.url) == (307, b"")
        assert ask(wire, server.url, method="PUT") == (307, b"")
        assert len(server.requests) == 2


def test_nothing_is_unpacked(wire: Wire) -> None:
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    with serving(packed) as server:
        assert ask(wire, server.url) == (200, b"ok")
        with (
            Client(server.url, "") as client,
            pytest.raises(UnexpectedAnswer, match="compresses"),
            client._http.stream("/x"),
        ):
            pass


def silent(_: socket.socket) -> None:
    """Never answers."""


def half(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")


def broken(connection: socket.socket) -> None:
    half(connection)
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "timed_out"), [(silent, True), (half, True), (broken, False), (b"nonsense\r\n\r\n", False)]
)
def test_what_is_no_answer_is_told_as_such(
    wire: Wire, answer: Callable[[socket.socket], None] | bytes, timed_out: bool
) -> None:
    with serving(answer) as server, pytest.raises(WireFailed) as caught:
        ask(wire, server.url, timeout_s=0.3)
    assert (caught.value.timed_out, caught.value.arrived) == (timed_out, True)


def test_a_server_that_stops_reading_is_a_timeout(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        body = (bytes(1 << 20) for _ in range(64))
        with (
            pytest.raises(WireFailed) as caught,
            wire.request(
                "PUT", url, headers={"Content-Length": str(64 << 20)}, body=body, timeout=urllib3.Timeout(0.3)
            ),
        ):
            pass
    assert (caught.value.timed_out, caught.value.arrived) == (True, True)


def test_a_refused_connection_certainly_did_not_arrive(wire: Wire) -> None:
    with pytest.raises(WireFailed) as caught:
        ask(wire, f"http://127.0.0.1:{free_port()}")
    assert (caught.value.timed_out, caught.value.arrived) == (False, False)


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_is_for_the_world_outside_and_never_for_this_machine(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with serving(OK) as proxy, serving(OK) as server:
        monkeypatch.setenv(name, proxy.url.replace("http://", "http://me:pass%20word@"))
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            assert ask(wire, url) == (200, b"ok")
        assert proxy.requests == []
        assert ask(wire, "http://store.invalid/x") == (200, b"ok")
        monkeypatch.setenv(name, proxy.url.removeprefix("http://"))
        assert ask(wire, "http://store.invalid/y") == (200, b"ok")
        monkeypatch.setenv("no_proxy", "store.invalid")
        with pytest.raises(WireFailed):
            ask(wire, "http://store.invalid/z")
        first, second = proxy.requests
    assert first.startswith(b"GET http://store.invalid/x ")
    assert b"proxy-authorization: basic bwu6cgfzcyb3b3jk" in first.lower()
    assert second.startswith(b"GET http://store.invalid/y ")


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        *(
            (each, {})
            for each in ("ftp://x/", "file:///x", "", "x", "//x/", "http://", "http://[::1", "http://a b/")
        ),
        *(
            ("http://127.0.0.1:1/", each)
            for each in ({"a": "x\r\nb: y"}, {"a\n": "x"}, {"ü": "x"}, {"a": "\u2028"})
        ),
    ],
)
def test_an_address_or_header_that_cannot_be_sent_is_refused_without_being_repeated(
    wire: Wire, url: str, headers: dict[str, str]
) -> None:
    with (
        pytest.raises(WireUnusable) as caught,
        wire.request("GET", url + SECRET, headers=headers, body=None, timeout=urllib3.Timeout(5)),
    ):
        pass
    assert "s3cr3t" not in str(caught.value)


def test_bytes_come_in_pieces_of_one_mebibyte(wire: Wire) -> None:
    content = bytes(3 << 20) + b"end"
    sent, timeout = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content,
        urllib3.Timeout(5),
    )
    with (
        serving(sent) as server,
        wire.request("GET", server.url, headers={}, body=None, timeout=timeout) as answer,
    ):
        pieces = list(answer.pieces)
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) == _wire.CHUNK


# ── the client above it


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.0)


def test_the_token_goes_to_the_registry_and_not_to_the_store() -> None:
    with serving(OK) as registry, serving(OK) as store, Client(registry.url, "a-token") as client:
        for url in ("/x", f"{store.url}/x"):
            with client._http.stream(url) as pieces:
                assert b"".join(pieces) == b"ok"
            client._http.put(url, [b"x"], size=1, headers={}, wait_s=0)
    assert [b"Bearer a-token" in each for each in registry.requests] == [True, True]
    assert [b"a-token" in each or b"uthorization" in each for each in store.requests] == [False, False]
    assert all(b"Accept-Encoding: identity\r\n" in each for each in store.requests + registry.requests)


def test_a_presigned_url_is_a_secret_that_no_log_and_no_message_repeats(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """urllib3 logs every URL at level DEBUG."""
    with (
        caplog.at_level(logging.DEBUG),
        serving(OK) as store,
        Client("http://127.0.0.1:1", "") as client,
        client._http.stream(f"{store.url}/key{SECRET}") as pieces,
    ):
        assert b"".join(pieces) == b"ok"
    assert "/key?..." in caplog.text
    assert "s3cr3t" not in caplog.text
    for url in (f"http://127.0.0.1:{free_port()}/key{SECRET}", f"http://a b/{SECRET}"):
        with (
            Client("http://127.0.0.1:1", "") as client,
            pytest.raises((ConnectionFailed, UnexpectedAnswer)) as caught,
            client._http.stream(url),
        ):
            pass
        assert "s3cr3t" not in str(caught.value)


def test_a_range_is_asked_for_and_must_be_what_comes() -> None:
    with serving(OK) as store, Client("http://127.0.0.1:1", "") as client:
        with client._http.stream(store.url, range_=(0, 2)) as pieces:
            assert b"".join(pieces) == b"ok"  # it is all there is
        with (
            pytest.raises(UnexpectedAnswer, match="the whole"),
            client._http.stream(store.url, range_=(1, 2)),
        ):
            pass
    assert [each.split(b"Range: ")[1].split(b"\r\n")[0] for each in store.requests] == [
        b"bytes=0-1",
        b"bytes=1-2",
    ]


def test_a_part_is_taken_from_a_server_that_tells_its_range_but_not_its_status() -> None:
    """As rclone does."""
    part = OK.replace(b"\r\n\r\n", b"\r\nContent-Range: bytes 3-4/9\r\n\r\n")
    with serving(part) as store, Client("http://127.0.0.1:1", "") as client:
        with client._http.stream(store.url, range_=(3, 2)) as pieces:
            assert b"".join(pieces) == b"ok"
        with pytest.raises(UnexpectedAnswer), client._http.stream(store.url, range_=(3, 3)):
            pass


# ── what is sent


class Receiving(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    server: "Receiver"

    def do_PUT(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Receiver(ThreadingHTTPServer):
    received: list[bytes]

    def handle_error(self, *_: object) -> None:
        """A request that broke off."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + signed.public_bytes(Encoding.PEM)
    )
    return file


@pytest.fixture(params=["http", "https"])
def receiver(request: pytest.FixtureRequest, certificate: Path) -> Iterator[tuple[str, Receiver, Wire]]:
    """An address, what it received, and a wire that trusts it."""
    tls = ssl.create_default_context(cafile=str(certificate))
    wire = Wire(tls, connections=1)
    with Receiver(("127.0.0.1", 0), Receiving) as server:
        server.received = []
        if request.param == "https":
            own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            own.load_cert_chain(certificate)
            server.socket = own.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{request.param}://127.0.0.1:{server.server_port}", server, wire
        wire.close()
        server.shutdown()


def put(wire: Wire, url: str, body: list[Piece]) -> int:
    headers = {"Content-Length": str(sum(map(len, body)))}
    with wire.request("PUT", url, headers=headers, body=body, timeout=urllib3.Timeout(5)) as answer:
        return answer.status


def test_spans_of_a_file_are_sent_as_what_they_hold(
    receiver: tuple[str, Receiver, Wire], tmp_path: Path
) -> None:
    url, server, wire = receiver
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as stream:
        body = [b"front", Span(stream, 7, 2_000_000), Span(stream, 2_500_000, 1), memoryview(b"back")]
        assert [put(wire, url, body), put(wire, url, body)] == [200, 200]
    sent = b"front" + content[7:2_000_007] + content[2_500_000:2_500_001] + b"back"
    assert server.received == [sent, sent]


def test_a_file_that_became_shorter_is_a_broken_request(
    receiver: tuple[str, Receiver, Wire], tmp_path: Path
) -> None:
    url, _, wire = receiver
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as stream, pytest.raises(WireFailed, match="shorter"):
        put(wire, url, [Span(stream, 0, 6)])


def test_a_span_needs_no_more_of_a_socket_than_that_it_sends(tmp_path: Path) -> None:
    """TLS inside the TLS of a proxy is no socket of the system."""
    (tmp_path / "file").write_bytes(b"content")
    sent: list[bytes] = []
    connection = _wire._TlsConnection("127.0.0.1")
    connection.sock = SimpleNamespace(sendall=sent.append, close=lambda: None)
    with (tmp_path / "file").open("rb") as stream:
        connection.send(Span(stream, 1, 3))
    assert sent == [b"ont"]
