"""What the API refuses before any handler sees it: JSON that parsers disagree about, strangers' Host headers.

The middleware also gives every request its id and every answer its security headers.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.domain import WORKSPACE_NAME
from registry.errors import RegistryError
from registry.http.deps import Guard
from registry.http.errors import problem
from registry.http.schemas import ProblemDetails
from registry.settings import is_loopback

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDetails, "content": {"application/problem+json": {}}}
    for status in ("4XX", "5XX")
}
"""What every operation may answer."""

_WORKSPACE = re.compile(rf"/w/(?P<name>{WORKSPACE_NAME})(?=/)", re.ASCII)


def parse_json(body: bytes) -> Any:
    """Parse JSON as RFC 8259 and nothing beyond it.

    Python's parser takes NaN, numbers that become infinite, repeated keys (which of them counts?) and text that no
    database can store. Raises json.JSONDecodeError for all of them, as for every other malformed body.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique_keys
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates fail here
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError("not strict JSON", "", 0) from error
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated key")
    return found


class _StrictRequest(Request):
    limit = "max_body_bytes"

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await self._bounded_body(getattr(self.app.state.settings, self.limit))
        return self._body

    async def _bounded_body(self, limit: int) -> bytes:
        announced = self.headers.get("content-length", "")
        received = bytearray()
        if not (announced.isdigit() and int(announced) > limit):
            async for chunk in self.stream():
                received += chunk
                if len(received) > limit:
                    break
            else:
                return bytes(received)
        raise HTTPException(413, f"A body may have at most {limit} bytes.")

    async def json(self) -> Any:
        return parse_json(await self.body())


class _LongRequest(_StrictRequest):
    limit = "max_manifest_bytes"


class StrictRoute(APIRoute):
    """A route whose body is bounded, and parsed by `parse_json`. (FastAPI's own bound answers in another error shape.)"""

    request_class: type[_StrictRequest] = _StrictRequest

    def __init__(self, *path: Any, responses: dict[int | str, Any] | None = None, **options: Any) -> None:
        super().__init__(*path, responses={**PROBLEMS, **(responses or {})}, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand a request with the strict parser to FastAPI, once its caller may make it: strangers' bodies are not read."""
        handle = super().get_route_handler()
        guard = guard_of(self)

        async def strictly(request: Request) -> Response:
            try:
                if not guard.admit_at_once(request):
                    await to_thread.run_sync(guard.admit, request)
                return await handle(self.request_class(request.scope, request.receive))
            except RegistryError as error:
                if error.denied:
                    denied = request.scope["caller"], request.method, request.scope["path"], error
                    await to_thread.run_sync(request.app.state.denials.record, *denied)
                raise

        return strictly


def guard_of(route: APIRoute) -> Guard:
    """The one guard of a route. Raises RuntimeError for a route that says not, or twice, what it needs."""
    found = [each.call for each in route.dependant.dependencies if isinstance(each.call, Guard)]
    if len(found) != 1:
        raise RuntimeError(f"{route.methods} {route.path} must name the one permission that it needs")
    return found[0]


class LongRoute(StrictRoute):
    """A route whose body may list many files and segments."""

    request_class = _LongRequest


class Gate:
    """The outermost layer: /w/<workspace> in front of a path selects a workspace.

    A registry for the user of this machine alone answers only requests that name this machine: a web page whose host name
    suddenly resolves to 127.0.0.1 (DNS rebinding) names another.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = uuid.uuid4().hex
        if found := _WORKSPACE.match(scope["path"]):
            # Whatever stands before the API's own paths is the root path: routing leaves it out.
            scope["workspace"], scope["root_path"] = found["name"], found[0]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = scope["request_id"]
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                if not scope["path"].startswith("/docs"):
                    headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
            await send(message)

        if self._loopback_only and not is_loopback(_host_without_port(Headers(scope=scope).get("host", ""))):
            refusal = problem(
                Request(scope),
                421,
                "wrong_host",
                "This registry answers to loopback names only.",
            )
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _host_without_port(host: str) -> str:
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
