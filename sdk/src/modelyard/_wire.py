"""Bytes in bulk, to and from the registry or an object store: urllib3, whose reads cost a fifteenth of httpx2's CPU time.

One request, one try: whoever asks decides about repeating. No redirect is followed and nothing is decompressed.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
import urllib3.connection
from urllib3 import exceptions

CHUNK = 1 << 20
M = TypeVar("M", bound=urllib3.PoolManager)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class WireUnusable(Exception):
    """An address or a header that no request can be made of. Never leaves this package."""


class WireFailed(Exception):
    """No answer, or one that broke off. Never leaves this package."""

    def __init__(self, reason: str, *, arrived: bool, timed_out: bool) -> None:
        super().__init__(reason)
        self.arrived = arrived
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers of an answer, and its body in pieces of at most CHUNK bytes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes of an open file, from `offset` on: a piece of a body that plain HTTP sends without reading it."""

    stream: BinaryIO
    offset: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __bytes__(self) -> bytes:
        """Raises OSError if the file has become shorter."""
        self.stream.seek(self.offset)
        content = self.stream.read(self.size)
        _require_whole(len(content), self)
        return content


Piece = bytes | memoryview | Span


class _SendsSpans:
    """A connection whose `send` takes spans, too."""

    sock: socket.socket

    def send(self, piece: Any) -> None:
        if not isinstance(piece, Span):
            super().send(piece)  # type: ignore[misc]  # of the connection that this is mixed into
        elif type(self.sock) is socket.socket:
            _require_whole(self.sock.sendfile(piece.stream, piece.offset, piece.size), piece)
        else:  # TLS of some kind, perhaps inside the TLS of a proxy, whose sockets have no sendfile
            self.sock.sendall(bytes(piece))


class _Connection(_SendsSpans, urllib3.connection.HTTPConnection):
    pass


class _TlsConnection(_SendsSpans, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Wire:
    """Pooled connections; safe to use from several threads. `tls` is the SSL context for https."""

    def __init__(self, tls: ssl.SSLContext, *, connections: int) -> None:
        self._options: dict[str, Any] = {"ssl_context": tls, "maxsize": connections, "retries": False}
        self._direct = _with_spans(urllib3.PoolManager(**self._options))
        self._proxied: dict[str, urllib3.ProxyManager] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Iterable[Piece] | None,
        timeout: urllib3.Timeout,
    ) -> Iterator[Answer]:
        """Raises WireFailed for anything but an answer, also while its pieces are read; WireUnusable before asking."""
        _check(url, headers)
        with _translated():
            response = self._manager(url).request(
                method,
                url,
                headers=headers,
                body=body,  # type: ignore[arg-type]  # urllib3 sends whatever a socket takes
                timeout=timeout,
                preload_content=False,
                decode_content=False,
                redirect=False,
            )
        try:
            reason, pieces = response.reason or "", _pieces(response)
            yield Answer(response.status, reason, response.headers, pieces)
            _drain(response)
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def close(self) -> None:
        self._direct.clear()
        for manager in self._proxied.values():
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        """A proxy from the environment is for the world outside, never for this machine."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        if not proxy or host in _LOOPBACK or proxy_bypass(host):
            return self._direct
        with self._lock:
            if proxy not in self._proxied:
                self._proxied[proxy] = self._through(proxy)
            return self._proxied[proxy]

    def _through(self, proxy: str) -> urllib3.ProxyManager:
        url = proxy if "://" in proxy else f"http://{proxy}"
        login = urllib3.util.parse_url(url).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        return _with_spans(urllib3.ProxyManager(url, proxy_headers=headers, **self._options))


def _require_whole(count: int, span: Span) -> None:
    if count < span.size:
        raise OSError("the file has become shorter")


def _with_spans(manager: M) -> M:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def _check(url: str, headers: Mapping[str, str]) -> None:
    """The other side chose them. Messages do not repeat them: an address may be a secret."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WireUnusable("it is not an http or https address")
    except ValueError as error:
        raise WireUnusable("its address cannot be read") from error
    if not all(text.isascii() and text.isprintable() for each in headers.items() for text in each):
        raise WireUnusable("a header that it asks for cannot be sent")


def _drain(response: urllib3.BaseHTTPResponse) -> None:
    """Read what is left, so that the connection can be used again; but nobody reads without end."""
    with contextlib.suppress(exceptions.HTTPError):
        if len(response.read(CHUNK)) < CHUNK:
            return
    response.close()


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while True:
        with _translated():
            piece = response.read(CHUNK)
        if not piece:
            return
        yield piece


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exceptions.LocationValueError as error:
        raise WireUnusable("its address cannot be read") from error
    except exceptions.HTTPError as error:
        # while it sends, urllib3 tells a timeout as ProtocolError("Connection aborted.", TimeoutError(…))
        timed_out = any(
            isinstance(each, (TimeoutError, exceptions.TimeoutError)) for each in (error, *error.args)
        )
        raise WireFailed(
            str(error) or type(error).__name__,
            # a refused connection; urllib3 calls it a timeout, too
            arrived=not isinstance(error, exceptions.NewConnectionError),
            timed_out=timed_out and not isinstance(error, exceptions.NewConnectionError),
        ) from error
