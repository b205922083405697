"""Where a webhook may point. One parser reads its URL, once, and what it found is what is connected to.

    text ──parse──> Target ──Reach.addresses: resolve once, check every address──> addresses to connect to

A name can mean another address a moment later: nobody resolves it after the check. Public addresses only, but for what the
operator allows:

    10.1.0.0/16            also these addresses
    hooks.internal         also whatever this very name resolves to
    http://10.1.2.3        the same, and plain http too
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from registry.deliveries.outcome import Failure, NotSent
from registry.errors import InvalidUrl

Scheme = Literal["http", "https"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

MAX_URL = 2048

# What is not written like this is not guessed at: no user, no fragment, no escapes or other letters in the host.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]+\]|" + _LABEL + r"(?:\." + _LABEL + r")*)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>/[a-z0-9\-._~!$&'()*+,;=:@%/]*)?"
    r"(?P<query>\?[a-z0-9\-._~!$&'()*+,;=:@%/?]*)?",
    re.ASCII | re.IGNORECASE,
)
_BARE_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)

# IANA's registries of special-purpose addresses, and one metadata service on an address that looks public.
_SPECIAL_V4 = [
    ipaddress.ip_network(each)
    for each in [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ]
]
# Of IPv6 only what is given out as global unicast. Forms that carry an IPv4 address (mapped, NAT64) are outside of it;
# Teredo and 6to4 are inside.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL_V6 = [
    ipaddress.ip_network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart: `path` includes the query, `host` has no brackets."""

    scheme: Scheme
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What belongs into the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port_of(self.scheme) else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """Take a URL apart. Raises InvalidUrl."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise InvalidUrl(
            "A webhook's URL is https://host[:port]/path[?query] of at most 2,048 characters: no user name or password, no "
            "fragment, other letters percent-encoded (in the host: as xn--)."
        )
    scheme = cast("Scheme", found["scheme"].lower())
    port = int(found["port"] or _port_of(scheme))
    host = found["host"].strip("[]").lower()
    if port > 65535 or (":" in host and _address(host) is None):
        raise InvalidUrl("The URL's port or address does not exist.")
    return Target(scheme, host, port, (found["path"] or "/") + (found["query"] or ""))


@dataclass(frozen=True, slots=True)
class Allowed:
    """One thing that the operator allows: addresses, or a name. `plain`: over http as well."""

    network: Network | None
    host: str
    plain: bool

    @classmethod
    def parse(cls, entry: str) -> "Allowed":
        """Read an entry. Raises ValueError."""
        scheme, _, rest = entry.rpartition("://")
        what = rest.strip("[]").lower()
        if scheme not in ("", "http", "https"):
            raise ValueError(f"{entry!r} is no address, network or host name")
        try:
            network: Network | None = ipaddress.ip_network(what)
        except ValueError:
            network = None
            if not _BARE_HOST.fullmatch(what) or re.fullmatch(r"[0-9.]+", what):
                raise ValueError(f"{entry!r} is no address, network or host name") from None
        return cls(network, what, scheme == "http")

    def covers(self, host: str, address: "_Address") -> bool:
        """Whether this entry is about `address`, which `host` resolved to."""
        return address in self.network if self.network is not None else host == self.host


class Reach:
    """Which addresses webhooks may be sent to."""

    def __init__(self, allow: Sequence[str] = (), resolve: Resolve | None = None) -> None:
        self._allow = [Allowed.parse(entry) for entry in allow]
        self._resolve = resolve or resolve_by_system

    def require(self, target: Target, timeout_s: float) -> None:
        """Raise InvalidUrl unless webhooks may be sent there as things are. It is asked again each time one is sent."""
        try:
            self.addresses(target, timeout_s)
        except NotSent as error:
            # One message for all reasons: the difference would tell a stranger what names there are in this network.
            raise InvalidUrl(
                "The registry sends webhooks over https to public addresses only, and to what its operator allows. This "
                "URL's host has no such address, or none at all."
            ) from error

    def addresses(self, target: Target, timeout_s: float) -> Sequence[str]:
        """Where to connect to for `target`. Raises NotSent: not all of its addresses are allowed, or there is none."""
        addresses = [_address(text) for text in _in_time(self._resolve, target, timeout_s)]
        if not addresses:
            raise NotSent(Failure.UNRESOLVED)
        for address in addresses:
            if address is None or not self._is_allowed(target, address):
                raise NotSent(Failure.REFUSED)
        return [str(address) for address in addresses]

    def _is_allowed(self, target: Target, address: "_Address") -> bool:
        entries = [entry for entry in self._allow if entry.covers(target.host, address)]
        if target.scheme == "http":
            return any(entry.plain for entry in entries)
        return bool(entries) or is_public(address)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: _Address) -> bool:
    """Whether it belongs to somebody on the Internet, for sure."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system's resolver knows them. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _in_time(resolve: Resolve, target: Target, timeout_s: float) -> Sequence[str]:
    """Ask the resolver; it has no time limit of its own, so that a thread waits for it that nobody else waits for."""
    answer: list[Sequence[str]] = []

    def ask() -> None:
        try:
            answer.append(resolve(target.host, target.port))
        except (OSError, UnicodeError):
            answer.append(())

    asking = threading.Thread(target=ask, name="webhook-resolver", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if not answer:
        raise NotSent(Failure.TIMEOUT)
    return answer[0]


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _port_of(scheme: Scheme) -> int:
    return 443 if scheme == "https" else 80
