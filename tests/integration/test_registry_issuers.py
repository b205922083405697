"""Identity providers that are down, slow, broken or hostile: what they cannot prove is not accepted, and nothing hangs."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from registry import oidc_fetch
from registry.errors import InvalidToken, IssuerUnavailable
from registry.oidc import Providers
from registry.oidc_fetch import FetchFailed
from registry.oidc_keys import FRESH_S, PAUSE_S, REFETCH_S, USABLE_S
from registry.settings import Issuer as Settings
from tests.servers.issuer import Issuer, public_jwk

DISCOVERY = "/.well-known/openid-configuration"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def providers(issuer: Issuer, clock: Clock) -> Providers:
    return Providers([Settings(**issuer.settings)], clock=clock)


def test_nothing_is_asked_before_it_is_needed(issuer: Issuer, providers: Providers) -> None:
    assert issuer.asked == []
    providers.exchanged(issuer.token())
    providers.exchanged(issuer.token("ec"))
    assert issuer.asked == [DISCOVERY, "/keys"]


def garbled(issuer: Issuer) -> dict[str, Callable[[], None]]:
    keys, json = [public_jwk("rsa")], {"Content_Type": "application/json"}
    return {
        "it fails": lambda: issuer.says("/keys", {}, 500),
        "it is gone": lambda: issuer.says("/keys", {}, 404),
        "it answers nothing": lambda: issuer.says("/keys", b""),
        "it answers a page": lambda: issuer.says("/keys", b"<html>Log in to the Wi-Fi</html>"),
        "it answers a list": lambda: issuer.says("/keys", keys),
        "it answers no list": lambda: issuer.says("/keys", {"keys": {"rsa": keys[0]}}),
        "it has no keys": lambda: issuer.says("/keys", {"keys": []}),
        "it has no keys that can be used": lambda: issuer.says(
            "/keys", {"keys": [{"kty": "oct", "k": "AAAA"}]}
        ),
        "it nests beyond reason": lambda: issuer.says("/keys", b"[" * 500_000),
        "it is 10 MB long": lambda: issuer.says("/keys", {"keys": keys, "padding": "x" * 10_000_000}),
        "it is compressed": lambda: issuer.says("/keys", {"keys": keys}, Content_Encoding="gzip"),
        "it is elsewhere": lambda: issuer.says("/keys", b"", 302, Location=f"{issuer.url}/elsewhere"),
        "it is another's": lambda: issuer.says(
            DISCOVERY, issuer.discovery(issuer="https://x.example"), **json
        ),
        "it begins alike": lambda: issuer.says(DISCOVERY, issuer.discovery(issuer=issuer.url + "/")),
        "it keeps its keys in a file": lambda: issuer.says(
            DISCOVERY, issuer.discovery(jwks_uri="file:///etc/keys")
        ),
        "it keeps its keys in the open": lambda: issuer.says(
            DISCOVERY, issuer.discovery(jwks_uri="http://issuer.example/keys")
        ),
        "it keeps its keys nowhere": lambda: issuer.says(DISCOVERY, issuer.discovery(jwks_uri=None)),
        "it keeps its keys in many places": lambda: issuer.says(DISCOVERY, issuer.discovery(jwks_uri=["x"])),
    }


GARBLED = list(garbled(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", GARBLED)
def test_without_keys_no_token_is_accepted(issuer: Issuer, providers: Providers, how: str) -> None:
    issuer.says("/elsewhere", {"keys": issuer.keys})
    garbled(issuer)[how]()
    with pytest.raises(IssuerUnavailable):
        providers.exchanged(issuer.token())
    assert "/elsewhere" not in issuer.asked


@pytest.mark.parametrize("how", GARBLED)
def test_known_keys_are_used_until_there_are_others(
    issuer: Issuer, providers: Providers, clock: Clock, how: str
) -> None:
    providers.exchanged(issuer.token())
    garbled(issuer)[how]()
    clock.now = FRESH_S
    assert providers.exchanged(issuer.token()).subject
    with pytest.raises(IssuerUnavailable):
        providers.exchanged(issuer.token("rsa-new"))
    clock.now = USABLE_S
    with pytest.raises(IssuerUnavailable):
        providers.exchanged(issuer.token())
    issuer.answers.clear()
    clock.now += PAUSE_S
    assert providers.exchanged(issuer.token()).subject


def test_an_issuer_that_is_down_is_heard_of_again(
    issuer: Issuer, new_issuer: Callable[..., Issuer], providers: Providers, clock: Clock
) -> None:
    token, port = issuer.token(), int(issuer.url.rpartition(":")[2])
    issuer.close()
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        providers.exchanged(token)
    new_issuer(port)
    with pytest.raises(IssuerUnavailable):  # it was asked a moment ago
        providers.exchanged(token)
    clock.now = PAUSE_S
    assert providers.exchanged(token).subject


def test_a_new_key_is_fetched_and_an_old_one_forgotten(issuer: Issuer, providers: Providers) -> None:
    providers.exchanged(issuer.token())
    issuer.keys = [public_jwk("rsa-new")]
    assert providers.exchanged(issuer.token()).subject  # not heard of yet
    assert providers.exchanged(issuer.token("rsa-new")).subject
    with pytest.raises(InvalidToken):
        providers.exchanged(issuer.token())


def test_a_key_that_was_taken_back_is_refused_within_the_hour(
    issuer: Issuer, providers: Providers, clock: Clock
) -> None:
    providers.exchanged(issuer.token())
    issuer.keys = [public_jwk("rsa-new")]
    clock.now = FRESH_S
    with pytest.raises(InvalidToken):
        providers.exchanged(issuer.token())


def test_unknown_keys_make_it_ask_once_a_minute(issuer: Issuer, providers: Providers, clock: Clock) -> None:
    providers.exchanged(issuer.token())
    for n in range(20):
        clock.now = n * (REFETCH_S - 1) / 20
        with pytest.raises(InvalidToken):
            providers.exchanged(issuer.token("rsa", {"kid": f"unknown-{n}"}))
    assert issuer.asked.count("/keys") == 2
    issuer.keys = [public_jwk("rsa-new")]
    clock.now = REFETCH_S
    assert providers.exchanged(issuer.token("rsa-new")).subject


def test_a_new_key_while_the_issuer_is_down_is_not_called_wrong(
    issuer: Issuer, providers: Providers, clock: Clock
) -> None:
    """A job may try again later: 503, not 401."""
    providers.exchanged(issuer.token())
    issuer.says("/keys", {}, 500)
    for _ in range(3):
        with pytest.raises(IssuerUnavailable):
            providers.exchanged(issuer.token("rsa-new"))
        clock.now += PAUSE_S + 1
    assert issuer.asked.count("/keys") == 2


def test_whoever_comes_while_another_asks_is_served_from_what_is_known(
    issuer: Issuer, providers: Providers, clock: Clock
) -> None:
    token = issuer.token()
    providers.exchanged(token)
    asked, answer = threading.Event(), threading.Event()

    def slow() -> Any:
        asked.set()
        answer.wait(30)
        return 500, {}, b""

    issuer.answers["/keys"] = slow
    clock.now = FRESH_S
    asking = threading.Thread(target=providers.exchanged, args=[token])
    asking.start()
    asked.wait(30)
    assert providers.exchanged(token).subject
    answer.set()
    asking.join()


def test_many_that_come_at_once_ask_once(issuer: Issuer, providers: Providers) -> None:
    tokens = [issuer.token() for _ in range(8)]
    threads = [threading.Thread(target=providers.exchanged, args=[token]) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert issuer.asked == [DISCOVERY, "/keys"]


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], str]]:
    """Servers that begin with these bytes, and then send one byte after the other, for ever."""
    stopped = threading.Event()

    def start(beginning: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(beginning)
                while not stopped.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    stopped.set()


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_a_server_that_drips_is_given_up_in_time(
    dripping: Callable[[bytes], str], beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_fetch, "MAX_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(FetchFailed, match="longer than"):
        oidc_fetch.get_json(dripping(beginning))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https://x.example:port/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1:80 @evil.example/",
        "https://é.example/",
        "",
    ],
)
def test_only_addresses_that_nobody_can_listen_to_are_asked(url: str) -> None:
    with pytest.raises(FetchFailed, match="not https"):
        oidc_fetch.get_json(url)


def test_a_proxy_of_the_environment_is_not_asked(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert oidc_fetch.get_json(f"{issuer.url}/keys")["keys"]


def test_a_provider_elsewhere_cannot_send_us_to_this_machine(issuer: Issuer) -> None:
    providers = Providers([Settings(**{**issuer.settings, "issuer": "https://issuer.example"})])
    with pytest.raises(FetchFailed, match="jwks_uri"):
        providers.named("ours")._endpoint({"jwks_uri": f"{issuer.url}/keys"}, "jwks_uri")
