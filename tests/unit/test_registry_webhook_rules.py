"""The rules of webhooks that need no database: URLs, addresses, patterns, signatures, sealed secrets, pauses."""

import base64
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from registry.deliveries import signature
from registry.deliveries.outcome import Failure, NotSent
from registry.deliveries.queue import Rules
from registry.deliveries.target import Allowed, Reach, Target, is_public, parse
from registry.errors import InvalidUrl
from registry.settings import Settings
from registry.vault import Unreadable, Vault

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example.com", Target("https", "hooks.example.com", 443, "/")),
        ("HTTPS://Hooks.Example.COM/A?b=C", Target("https", "hooks.example.com", 443, "/A?b=C")),
        ("https://hooks.example.com:8443/a/../b", Target("https", "hooks.example.com", 8443, "/a/../b")),
        ("https://h?x=1", Target("https", "h", 443, "/?x=1")),
        ("http://10.0.0.1:8080/", Target("http", "10.0.0.1", 8080, "/")),
        ("https://[2606:4700::1]/", Target("https", "2606:4700::1", 443, "/")),
        ("https://xn--bcher-kva.example/%20", Target("https", "xn--bcher-kva.example", 443, "/%20")),
    ],
)
def test_a_url_is_taken_apart_once(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://h.example/", "h.example"),
        ("https://h.example:443/", "h.example"),
        ("https://h.example:80/", "h.example:80"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
def test_the_host_header_names_what_the_url_names(url: str, authority: str) -> None:
    assert parse(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "//hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "https:///path",
        "https:/hooks.example.com",
        "https://user@hooks.example.com/",
        "https://user:password@hooks.example.com/",
        "https://allowed.example@127.0.0.1/",
        "https://127.0.0.1\\@hooks.example.com/",
        "https://hooks.example.com\\.evil.example/",
        "https://hooks.example.com#@127.0.0.1/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:65536/",
        "https://hooks.example.com:-1/",
        "https://hooks.example.com:80:81/",
        "https://hooks.example.com:/",
        "https://hooks.example.com./",
        "https://.example.com/",
        "https://hooks..example.com/",
        "https://-hooks.example.com/",
        "https://%31%32%37.0.0.1/",
        "https://127。0。0。1/",
        "https://ⓔxample.com/",
        "https://bücher.example/",
        "https://hooks.example.com/\r\nX-Injected: yes",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\x00",
        "https://hooks.example.com/é",
        " https://hooks.example.com/",
        "https://hooks.example.com/\n",
        "https://[::1/",
        "https://[::g]/",
        "https://[fe80::1%25eth0]/",
        "https://[1.2.3.4]x/",
        "https://" + "a" * 64 + ".example/",
        "https://hooks.example.com/" + "a" * 2048,
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_none(url: str) -> None:
    with pytest.raises(InvalidUrl):
        parse(url)


NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1
    198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:93.184.215.14 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1
    64:ff9b::5db8:d70e 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1
    2002:a00:1::1 3fff::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1 4000::1
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_for_strangers_are_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(NotSent, match="address_refused"):
        Reach(resolve=lambda _host, _port: [address]).addresses(parse(f"https://{host}/"), 5)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "223.255.255.255", "2606:4700::1111"],
)
def test_public_addresses_are_not(address: str) -> None:
    assert is_public(ip_address(address))
    target = parse("https://hooks.example.com/")
    assert Reach(resolve=lambda _host, _port: [address]).addresses(target, 5) == [address]


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0", "127.0.0.1"]
)
def test_other_ways_to_write_loopback_are_seen_through_by_asking_the_resolver(host: str) -> None:
    with pytest.raises(InvalidUrl):
        Reach().require(parse(f"https://{host}/"), 5)


@pytest.mark.parametrize(
    "answer", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC, "::1"], [PUBLIC, "nonsense"]]
)
def test_one_bad_address_among_several_is_enough(answer: list[str]) -> None:
    with pytest.raises(NotSent, match="address_refused"):
        Reach(resolve=lambda _host, _port: answer).addresses(parse("https://hooks.example.com/"), 5)


def test_a_name_without_address_is_refused_like_one_with_a_private_one() -> None:
    """Whoever may set up webhooks must not learn which names there are inside."""
    said = []
    for answer in ([], ["10.0.0.1"]):
        with pytest.raises(InvalidUrl) as refused:
            Reach(resolve=lambda _host, _port, answer=answer: answer).require(
                parse("https://hooks.example.com/"), 5
            )
        said.append((str(refused.value), refused.value.data))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("entry", "url", "address"),
    [
        ("10.1.0.0/16", "https://hooks.internal/", "10.1.2.3"),
        ("10.1.2.3", "https://10.1.2.3:8443/", "10.1.2.3"),
        ("fd00::/8", "https://hooks.internal/", "fd00::1"),
        ("hooks.internal", "https://hooks.internal/", "10.9.9.9"),
        ("HOOKS.internal", "https://Hooks.Internal/", "10.9.9.9"),
        ("https://hooks.internal", "https://hooks.internal/", "10.9.9.9"),
        ("http://hooks.internal", "https://hooks.internal/", "10.9.9.9"),
        ("http://hooks.internal", "http://hooks.internal/", "10.9.9.9"),
        ("http://10.1.0.0/16", "http://hooks.internal/", "10.1.2.3"),
        ("http://[::1]", "http://[::1]:8080/", "::1"),
        (f"http://{PUBLIC}", "http://hooks.example.com/", PUBLIC),
    ],
)
def test_what_the_operator_allows(entry: str, url: str, address: str) -> None:
    assert Reach([entry], lambda _host, _port: [address]).addresses(parse(url), 5) == [address]


@pytest.mark.parametrize(
    ("entry", "url", "address"),
    [
        ("10.1.0.0/16", "https://hooks.internal/", "10.2.0.1"),
        ("10.1.0.0/16", "http://hooks.internal/", "10.1.2.3"),
        ("10.1.0.0/16", "https://hooks.internal/", "::ffff:10.1.2.3"),
        ("hooks.internal", "https://hooks.internal.evil.example/", "10.9.9.9"),
        ("hooks.internal", "https://evil-hooks.internal/", "10.9.9.9"),
        ("hooks.internal", "https://a.hooks.internal/", "10.9.9.9"),
        ("hooks.internal", "http://hooks.internal/", "10.9.9.9"),
        ("http://10.1.0.0/16", "http://hooks.example.com/", PUBLIC),
    ],
)
def test_is_exactly_that(entry: str, url: str, address: str) -> None:
    with pytest.raises(NotSent, match="address_refused"):
        Reach([entry], lambda _host, _port: [address]).addresses(parse(url), 5)


def test_plain_http_is_refused_even_to_public_addresses() -> None:
    with pytest.raises(NotSent, match="address_refused"):
        Reach(resolve=lambda _host, _port: [PUBLIC]).addresses(parse("http://hooks.example.com/"), 5)


def test_a_resolver_that_hangs_does_not_hang_the_sender() -> None:
    done = threading.Event()
    reach = Reach(resolve=lambda _host, _port: [PUBLIC] if done.wait(30) else [])
    with pytest.raises(NotSent, match=Failure.TIMEOUT):
        reach.addresses(parse("https://hooks.example.com/"), 0.05)
    done.set()


@pytest.mark.parametrize(
    "entry", ["", "ftp://x", "10.1.0.0/33", "10.1.2.3/16", "1.2.3", "a b", "http://", "x/y", "*.internal"]
)
def test_an_operator_who_allows_nonsense_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        Allowed.parse(entry)
    with pytest.raises(ValidationError):
        Settings(webhook_allow=(entry,))


SECRET = bytes(range(32))


@pytest.fixture
def now() -> datetime:
    """Of the test, not of its collection: the library takes what is at most five minutes old."""
    return datetime.now(UTC)


def test_receivers_verify_with_the_library_of_the_specification(now: datetime) -> None:
    body = '{"type":"ping","data":{"x":"ü"}}'.encode()
    headers = signature.headers("d-1", now, body, [SECRET])
    assert Webhook(signature.written(SECRET)).verify(body, headers) == {"type": "ping", "data": {"x": "ü"}}


def test_after_a_rotation_both_secrets_verify(now: datetime) -> None:
    other = bytes(32)
    headers = signature.headers("d-1", now, b"{}", [other, SECRET])
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (other, SECRET):
        Webhook(signature.written(secret)).verify(b"{}", headers)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "d-2"},
        {"webhook-timestamp": None},
        {"webhook-signature": "v1," + base64.b64encode(bytes(32)).decode()},
    ],
)
def test_what_is_signed_cannot_be_changed(change: dict[str, str | None], now: datetime) -> None:
    later = str(int(now.timestamp()) + 1)
    headers = signature.headers("d-1", now, b"{}", [SECRET])
    headers |= {name: value or later for name, value in change.items()}
    with pytest.raises(WebhookVerificationError):
        Webhook(signature.written(SECRET)).verify(b"{}", headers)


def test_an_old_request_cannot_be_replayed(now: datetime) -> None:
    headers = signature.headers("d-1", now - timedelta(minutes=6), b"{}", [SECRET])
    with pytest.raises(WebhookVerificationError):
        Webhook(signature.written(SECRET)).verify(b"{}", headers)


KEY = b"k" * 32


def test_a_sealed_secret_opens_for_its_row_its_purpose_and_its_key_only() -> None:
    sealed = Vault(KEY, "webhooks").seal(SECRET, "row")
    assert SECRET not in sealed
    assert Vault(KEY, "webhooks").open(sealed, "row") == SECRET
    others = [
        (Vault(KEY, "webhooks"), sealed, "other"),
        (Vault(KEY, "other"), sealed, "row"),
        (Vault(b"l" * 32, "webhooks"), sealed, "row"),
        (Vault(KEY, "webhooks"), sealed[:-1] + bytes([sealed[-1] ^ 1]), "row"),
        (Vault(KEY, "webhooks"), b"", "row"),
    ]
    for vault, blob, row in others:
        with pytest.raises(Unreadable):
            vault.open(blob, row)


def test_the_same_secret_is_never_sealed_alike() -> None:
    vault = Vault(KEY, "webhooks")
    assert vault.seal(SECRET, "row") != vault.seal(SECRET, "row")


RULES = Rules(first_s=10, cap_s=3600, tries=100, give_up_s=86400, deactivate_s=259200)


@pytest.mark.parametrize(
    ("tries", "most"), [(1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (99, 3600), (5000, 3600)]
)
def test_pauses_grow_to_the_cap_and_are_picked_from_all_of_it(tries: int, most: float) -> None:
    pauses = [RULES.pause_s(tries) for _ in range(300)]
    assert max(pauses) <= most
    assert min(pauses) < most / 4 < most * 3 / 4 < max(pauses)
