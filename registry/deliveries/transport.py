"""One POST to an address that was checked: no redirects, no proxies, no connection that is used twice.

The stream under the HTTP parser is where the limits are: whatever a receiver does, nothing above it can wait beyond the
deadline or read more than MAX_READ bytes, headers included. The answer's body is read only so that the receiver sees an orderly
end; it is neither decoded nor kept.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpcore2

from registry.deliveries.outcome import Failure, NotSent
from registry.deliveries.target import Target

MAX_READ = 64 * 1024


class TooMuch(Exception):
    """The receiver sent more than anybody wants to read."""


def post(
    target: Target,
    addresses: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tls: ssl.SSLContext,
    deadline: float,
) -> int:
    """Send `body`; returns the status of the answer. `deadline` is a time.monotonic(). Raises NotSent."""
    sock = _connect(addresses, target.port, deadline)
    try:
        if target.scheme == "https":
            sock = _wrap(sock, tls, target.host, deadline)
        return _exchange(_Stream(sock, deadline), target, headers, body)
    finally:
        sock.close()


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that answers; each has its share of the time that is left."""
    for tried, address in enumerate(addresses):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.settimeout(_left(deadline) / (len(addresses) - tried))
            sock.connect((address, port))
        except OSError:
            sock.close()
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise NotSent(Failure.TIMEOUT if time.monotonic() >= deadline else Failure.UNREACHABLE)


def _wrap(sock: socket.socket, tls: ssl.SSLContext, host: str, deadline: float) -> ssl.SSLSocket:
    try:
        sock.settimeout(_left(deadline))
        return tls.wrap_socket(sock, server_hostname=host)
    except TimeoutError as error:
        raise NotSent(Failure.TIMEOUT) from error
    except (OSError, ValueError) as error:
        raise NotSent(Failure.TLS) from error


def _exchange(stream: "_Stream", target: Target, headers: Mapping[str, str], body: bytes) -> int:
    url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    connection = httpcore2.HTTP11Connection(origin=url.origin, stream=stream)
    own = {"Host": target.authority, "Content-Length": str(len(body)), "Connection": "close"}
    request = httpcore2.Request("POST", url, headers=[*own.items(), *headers.items()], content=body)
    try:
        response = connection.handle_request(request)
    except TimeoutError as error:
        raise NotSent(Failure.TIMEOUT) from error
    except OSError as error:
        raise NotSent(Failure.UNREACHABLE) from error
    except (httpcore2.ProtocolError, TooMuch) as error:
        raise NotSent(Failure.INVALID) from error
    with contextlib.suppress(OSError, httpcore2.ProtocolError, TooMuch), contextlib.closing(connection):
        for _ in response.iter_stream():
            pass
    return response.status


class _Stream(httpcore2.NetworkStream):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._unread = MAX_READ

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline decides
        if self._unread <= 0:
            raise TooMuch
        self._sock.settimeout(_left(self._deadline))
        received = self._sock.recv(min(max_bytes, self._unread))
        self._unread -= len(received)
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline decides
        rest = memoryview(buffer)
        while rest:
            self._sock.settimeout(_left(self._deadline))
            rest = rest[self._sock.send(rest) :]

    def close(self) -> None:
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:  # noqa: ARG002 - nobody needs to know
        return None


def _left(deadline: float) -> float:
    """Seconds until `deadline`. Raises TimeoutError when it has passed: 0 would mean not to wait for what is there."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
