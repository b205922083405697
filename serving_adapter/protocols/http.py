"""HTTP: from the server's request to the handler of a route, and back. Knows no protocol in particular.

    granian (RSGI) ──▶ route ──▶ quick handler, on the event loop: health, metadata, status
                         └─────▶ read body, bounded ──▶ working handler, in the lane: inference

Errors are always {"error": "…"}: one table says which status each class of error has.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]  # public, but imported there under another name

from serving_adapter.errors import (
    AdapterError,
    BadInput,
    ModelFailed,
    NotReady,
    Overloaded,
    TooLarge,
    Unknown,
    UnsupportedContent,
)
from serving_adapter.lane import Lane

log = logging.getLogger(__name__)

# The first class that an error is an instance of decides.
STATUS: tuple[tuple[type[AdapterError], int], ...] = (
    (TooLarge, 413),
    (UnsupportedContent, 415),
    (BadInput, 400),
    (Unknown, 404),
    (NotReady, 503),
    (Overloaded, 503),
    (ModelFailed, 500),
)
_JSON = ("content-type", "application/json")
_ENCODINGS = ("gzip", "deflate")
_AUTO = 32 + zlib.MAX_WBITS  # zlib finds out by itself which of the two it is


@dataclass(frozen=True, slots=True)
class Response:
    """Status, JSON body and further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Quick = Callable[[], Response]
Headers = Mapping[str, str]
Working = Callable[[bytes, Headers], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """What a path can do: `quick` answers GET on the event loop, `working` takes a POST's body and headers in the lane."""

    quick: Quick | None = None
    working: Working | None = None

    @property
    def methods(self) -> str:
        return "GET, HEAD" if self.quick else "POST"


class WireProtocol(Protocol):
    """A set of routes."""

    def route(self, path: Sequence[str]) -> Route | None:
        """The route of a path given by its segments; None if it is not one of this protocol's."""


def answer(content: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, msgspec.json.encode(content), headers)


def refusal(error: AdapterError) -> Response:
    """The answer that says what went wrong."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    headers = (("retry-after", str(error.retry_after_s)),) if isinstance(error, Overloaded) else ()
    return answer({"error": str(error)}, status, headers)


class HttpApp:
    """The RSGI application (github.com/emmett-framework/granian, docs/spec/RSGI.md)."""

    def __init__(self, protocols: Sequence[WireProtocol], lane: Lane, *, max_body_bytes: int) -> None:
        self._protocols = protocols
        self._lane = lane
        self._max_body_bytes = max_body_bytes
        self._stopping = False

    def stop(self) -> None:
        """From now on ask clients to open their next connection elsewhere."""
        self._stopping = True

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        try:
            response = await self._respond(scope, proto)
        except AdapterError as error:
            response = refusal(error)
        except ProtocolClosed:
            return  # the client has hung up
        except Exception:
            # The border of the program: a mistake of ours ends this request and nothing else.
            log.exception("unexpected error while answering")
            response = answer({"error": "internal error"}, 500)
        headers = [_JSON, *response.headers]
        if self._stopping and scope.http_version.startswith("1"):
            headers.append(("connection", "close"))
        proto.response_bytes(response.status, headers, response.body)

    async def _respond(self, scope: Any, proto: Any) -> Response:
        route = self._find(scope.path)
        if route is None:
            return answer({"error": "no such path; GET / lists what there is"}, 404)
        if route.quick is not None and scope.method in ("GET", "HEAD"):
            return route.quick()
        if route.working is None or scope.method != "POST":
            return answer({"error": f"this path takes {route.methods}"}, 405, (("allow", route.methods),))
        _check_content_type(scope.headers)
        work, headers, body = route.working, scope.headers, await self._read(scope, proto)
        encoding = headers.get("content-encoding")
        if encoding is None:
            return await self._lane.submit(lambda: work(body, headers))
        return await self._lane.submit(lambda: work(_inflate(body, encoding, self._max_body_bytes), headers))

    def _find(self, path: str) -> Route | None:
        segments = path.strip("/").split("/")  # the server has decoded percent signs
        return next((route for protocol in self._protocols if (route := protocol.route(segments))), None)

    async def _read(self, scope: Any, proto: Any) -> bytes:
        limit = self._max_body_bytes
        length = scope.headers.get("content-length")
        if length is not None and int(length) <= limit:
            return bytes(await proto())
        body = bytearray()
        async for chunk in proto:
            body += chunk
            if len(body) > limit:
                break
        if len(body) > limit or length is not None:
            raise TooLarge(f"a body may have {limit} bytes")
        return bytes(body)


def _check_content_type(headers: Mapping[str, str]) -> None:
    # tritonclient sends none, Triton's C++ client sends octet-stream: neither means anything but JSON here.
    kind = headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() not in (
        "application/json",
        "application/octet-stream",
    ):
        raise UnsupportedContent("expected a body of content type application/json")


def _inflate(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding.strip().lower() not in _ENCODINGS:
        raise UnsupportedContent(f"expected content encoding {' or '.join(_ENCODINGS)}, or none")
    inflater = zlib.decompressobj(_AUTO)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadInput(f"the body is not valid {encoding.strip().lower()}") from error
    if len(plain) > limit:
        raise TooLarge(f"a body may have {limit} bytes once decompressed")
    if not inflater.eof or inflater.unused_data:
        raise BadInput(f"the body is not one complete {encoding.strip().lower()} stream")
    return plain
