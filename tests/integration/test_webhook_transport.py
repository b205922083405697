"""One attempt against real servers that behave badly: nothing waits, reads, follows or connects further than it may."""

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry.deliveries import sender
from registry.deliveries.outcome import Failure, Outcome
from registry.deliveries.queue import Claim, Rules
from registry.deliveries.sender import Sender
from registry.deliveries.target import Reach, Resolve
from registry.vault import WEBHOOKS, Vault
from tests.servers.ports import free_port
from tests.servers.receiver import Handler, Receiver, certificate, receiver

LOOPBACK = ("http://127.0.0.0/8",)
VAULT = Vault(b"k" * 32, WEBHOOKS)
RULES = Rules(first_s=1, cap_s=1, tries=1, give_up_s=1, deactivate_s=1)
BODY = b'{"type":"webhook.ping"}'
SHORT_S = 0.4
"""All that an attempt may take, where a test waits for its end."""


def attempt(
    url: str,
    *,
    allow: Sequence[str] = LOOPBACK,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
    body: bytes = BODY,
) -> Outcome:
    """What a sender's thread does between claim and settle."""
    now = datetime.now(UTC)
    claim = Claim(
        number=1,
        id="d-1",
        webhook_id="w-1",
        url=url,
        secrets=[VAULT.seal(bytes(32), "w-1")],
        body=body,
        at=now,
        until=now,
        slow=False,
    )
    # No database is needed before it settles.
    return Sender(None, VAULT, Reach(allow, resolve), RULES, tls)._attempt(claim)  # type: ignore[arg-type]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TIMEOUT_S", SHORT_S)


def test_a_delivery_arrives_with_all_that_a_receiver_needs() -> None:
    with receiver() as hook:
        assert attempt(hook.url + "?a=b").delivered
    (got,) = hook.received
    assert (got.method, got.path, got.body) == ("POST", "/hook?a=b", BODY)
    assert got.headers["host"] == f"127.0.0.1:{hook.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("Modelyard/")
    assert {"webhook-id", "webhook-timestamp", "webhook-signature"} <= got.headers.keys()
    assert not {"authorization", "cookie", "accept-encoding"} & got.headers.keys()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_delivery(status: int) -> None:
    with receiver(lambda handler: handler.answer(status)) as hook:
        assert attempt(hook.url).delivered


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 503])
def test_nothing_else_is(status: int) -> None:
    with receiver(lambda handler: handler.answer(status)) as hook:
        outcome = attempt(hook.url)
    assert (outcome.delivered, outcome.status, outcome.gone) == (False, status, status == 410)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with receiver() as elsewhere:
        with receiver(lambda handler: handler.answer(status, Location=elsewhere.url)) as hook:
            assert attempt(hook.url).status == status
        assert (len(hook.received), elsewhere.received) == (1, [])


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as hook:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
        assert attempt(hook.url).delivered
        assert proxy.received == []


def trickle(handler: Handler, piece: bytes, every_s: float) -> int:
    """Send `piece` again and again until the other side hangs up; returns how many bytes it took."""
    sent = 0
    with suppress(OSError):
        while True:
            sent += handler.connection.send(piece)
            time.sleep(every_s)
    return sent


class Greedy:
    """A receiver that writes without end, and counts what was taken."""

    def __init__(self, head: bytes, piece: bytes, every_s: float = 0) -> None:
        self._head, self._piece, self._every_s = head, piece, every_s
        self.taken = 0
        self.over = threading.Event()

    def __call__(self, handler: Handler) -> None:
        handler.connection.sendall(self._head)
        self.taken = trickle(handler, self._piece, self._every_s)
        handler.close_connection = True
        self.over.set()


OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n"
MUCH = 40 << 20
"""More than socket buffers can hold."""


@pytest.mark.parametrize(
    ("head", "piece", "expected"),
    [
        (OK_HEAD, b"x" * 65536, 200),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n" + b"x" * 65536 + b"\r\n",
            200,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 200),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n", Failure.INVALID),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536, Failure.INVALID),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, Failure.INVALID),
        (b"", b"x" * 65536, Failure.INVALID),
    ],
    ids=["10 GB", "chunks", "until closed", "headers", "a long header", "continue, continue", "no HTTP"],
)
def test_an_endless_answer_is_read_to_64_kib(head: bytes, piece: bytes, expected: int | Failure) -> None:
    greedy = Greedy(head, piece)
    with receiver(greedy) as hook:
        outcome = attempt(hook.url)
        assert (outcome.status or outcome.failure) == expected
        assert greedy.over.wait(30)
    assert greedy.taken < MUCH
    assert outcome.duration_ms < 5000


@pytest.mark.parametrize(
    ("head", "piece", "expected"),
    [
        (OK_HEAD, b"x", 200),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", Failure.TIMEOUT),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", Failure.TIMEOUT),
    ],
    ids=["body", "header", "continue"],
)
@pytest.mark.usefixtures("short")
def test_a_slow_drip_ends_at_the_deadline(head: bytes, piece: bytes, expected: int | Failure) -> None:
    """Each byte comes in time; all of them would take for ever."""
    drip = Greedy(head, piece, every_s=SHORT_S / 20)
    with receiver(drip) as hook:
        outcome = attempt(hook.url)
        assert (outcome.status or outcome.failure) == expected
        assert drip.over.wait(30)
    assert outcome.duration_ms >= SHORT_S * 1000 * 0.9
    assert drip.taken < 1000


def test_a_gzip_bomb_stays_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(10 << 20))
    for unpack in ("decompress", "decompressobj"):
        monkeypatch.delattr(zlib, unpack)
    with receiver(lambda handler: handler.answer(200, bomb, Content_Encoding="gzip")) as hook:
        assert attempt(hook.url).delivered


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that speaks no protocol; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        serve(connection)

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@pytest.mark.usefixtures("short")
def test_a_receiver_that_says_nothing_is_given_up() -> None:
    for scheme in ("http", "https"):
        over = threading.Event()
        with raw_server(lambda _connection, over=over: over.wait(30)) as port:
            assert attempt(f"{scheme}://127.0.0.1:{port}/").failure is Failure.TIMEOUT
            over.set()


@pytest.mark.usefixtures("short")
def test_a_receiver_that_reads_slowly_is_given_up() -> None:
    """Each piece is taken in time; all of them would take for ever."""
    over, taken = threading.Event(), 0

    def sip(connection: socket.socket) -> None:
        nonlocal taken
        with suppress(OSError):
            while (piece := connection.recv(256 << 10)) and not over.wait(SHORT_S / 20):
                taken += len(piece)

    with raw_server(sip) as port:
        body = bytes(64 << 20)
        assert attempt(f"http://127.0.0.1:{port}/", body=body).failure is Failure.TIMEOUT
        over.set()
    assert taken < len(body) / 2


def test_a_receiver_that_hangs_up_is_a_failure() -> None:
    with raw_server(lambda connection: connection.recv(65536) and None) as port:
        assert attempt(f"http://127.0.0.1:{port}/").failure in (Failure.INVALID, Failure.UNREACHABLE)


def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    assert attempt(f"http://127.0.0.1:{free_port()}/").failure is Failure.UNREACHABLE


class Resolver:
    """Answers in turn, and counts how often it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, _host: str, _port: int) -> Sequence[str]:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return answer


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to() -> None:
    """Whoever asked again would be led elsewhere."""
    with receiver() as hook, receiver(host="127.0.0.2", port=hook.port) as trap:
        resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
        url = f"http://hooks.example.com:{hook.port}/x"
        assert attempt(url, allow=["http://127.0.0.1"], resolve=resolver).delivered
        assert (resolver.asked, len(hook.received), trap.received) == (1, 1, [])
        assert hook.received[0].headers["host"] == f"hooks.example.com:{hook.port}"
        assert attempt(url, allow=["http://127.0.0.1"], resolve=resolver).failure is Failure.REFUSED
        assert (len(hook.received), trap.received) == (1, [])


def test_allowed_and_other_addresses_mixed_are_refused_before_anything_is_sent() -> None:
    with receiver() as hook:
        for answer in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"]):
            url = f"http://hooks.example.com:{hook.port}/"
            outcome = attempt(url, allow=["http://127.0.0.1"], resolve=Resolver(answer))
            assert outcome.failure is Failure.REFUSED
        assert hook.received == []


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with receiver() as hook:
        resolver = Resolver(["127.0.0.3", "127.0.0.1"])
        assert attempt(f"http://hooks.example.com:{hook.port}/", resolve=resolver).delivered


def test_a_name_that_does_not_resolve_is_a_failure() -> None:
    def fails(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    assert attempt("http://hooks.example.com/", resolve=fails).failure is Failure.UNRESOLVED


def test_a_url_that_was_saved_under_other_rules_is_refused() -> None:
    assert attempt("https://user@hooks.example.com/").failure is Failure.REFUSED


def by_name(hook: Receiver, name: str, tls: ssl.SSLContext | None) -> Outcome:
    return attempt(f"https://{name}:{hook.port}/x", resolve=Resolver(["127.0.0.1"]), tls=tls)


def test_tls_is_verified_against_the_name_in_the_url(tmp_path: Path) -> None:
    """It is the address that is connected to, but the name that is asked for (SNI) and that the certificate must have."""
    ours, trusting = certificate(tmp_path, "hooks.example.com", "127.0.0.1")
    asked: list[str | None] = []
    ours.sni_callback = lambda _socket, name, _context: asked.append(name)
    with receiver(tls=ours) as hook:
        assert by_name(hook, "hooks.example.com", trusting).delivered
        assert attempt(hook.url, tls=trusting).delivered
        assert by_name(hook, "other.example.com", trusting).failure is Failure.TLS
        assert by_name(hook, "hooks.example.com", None).failure is Failure.TLS  # nobody vouches for it
        assert asked == ["hooks.example.com", None, "other.example.com", "hooks.example.com"]
        assert len(hook.received) == 2


def test_plain_http_behind_an_https_url_is_a_failure() -> None:
    with receiver() as hook:
        assert attempt(hook.url.replace("http:", "https:")).failure is Failure.TLS
        assert hook.received == []


def test_nothing_that_is_sent_says_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    with receiver() as hook:
        attempt(hook.url)
    from registry.deliveries.signature import written

    (got,) = hook.received
    secret = written(bytes(32))
    assert secret not in str(got)
    assert secret.removeprefix("whsec_") not in str(got)
    assert secret not in caplog.text
