"""HTTP, and nothing else: requests out, JSON or bytes back, foreign errors translated once.

    path "/…"        ──>  the registry       with the token
    absolute URL     ──>  an object store    by another client, which has no token that it could leak

No redirect is followed and no answer is decompressed or read beyond a limit. Reading is repeated when the connection
breaks or the server is briefly unavailable; anything else only when the request certainly had no effect, or when the
caller says that repeating does no harm. Whoever sends too many requests (429) is told how long to wait, and waits.
"""

import contextlib
import json
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import urllib3

from modelyard._config import Config
from modelyard._errors import ApiError, ConnectionFailed, ModelyardError, UnexpectedAnswer, api_error
from modelyard._parallel import WORKERS
from modelyard._version import __version__
from modelyard._wire import Answer, Piece, Wire, WireFailed, WireUnusable

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 90.0
"""Limits are by the minute: who is told to wait for much longer than that is told so at once."""
MAX_ANSWER = 64 << 20
"""Bytes of JSON that are read at most: 4,096 files with presigned URLs are about an eighth of it."""
MAX_PROBLEM = 64 << 10
CHUNK = 1 << 20

_CONNECT_S = 10.0
_UNAVAILABLE = (502, 503, 504)
_TOO_MANY = 429
# A proxy from the environment is for the world outside, never for this machine.
_NO_PROXY: dict[str, None] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}

Params = Mapping[str, str | int | list[str]]
T = TypeVar("T")


@cache
def _trust(_cert_file: str | None, _cert_dir: str | None) -> ssl.SSLContext:
    """Reading the trusted certificates takes 30 ms or more: once, for all clients."""
    return httpx2.create_ssl_context()


class Http:
    """The connections to one registry and to the object stores that it points to. Safe to use from several threads."""

    def __init__(
        self, config: Config, *, timeout_s: float, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._url = config.url
        self._timeout_s = timeout_s
        headers = {"User-Agent": f"modelyard/{__version__}", "Accept-Encoding": "identity"}
        authorization = {"Authorization": f"Bearer {config.token}"} if config.token else {}
        tls = _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        self._registry = httpx2.Client(
            headers=headers | authorization, verify=tls, transport=transport, mounts=_NO_PROXY
        )
        self._elsewhere = httpx2.Client(headers=headers, verify=tls, transport=transport, mounts=_NO_PROXY)
        self._headers, self._authorization = headers, authorization
        self._wire = None if transport else Wire(tls, connections=2 * WORKERS)
        for name in ("httpx2", "urllib3.connectionpool"):
            logging.getLogger(name).addFilter(_hide_signatures)

    def close(self) -> None:
        self._registry.close()
        self._elsewhere.close()
        if self._wire:
            self._wire.close()

    def get(self, path: str, params: Params | None = None, *, wait_s: float = 0.0) -> Any:
        """GET JSON from the registry. `wait_s`: how long the answer may take beyond the timeout."""
        return retrying(lambda: self._call("GET", path, params=params, wait_s=wait_s))

    def send(
        self, method: str, path: str, body: Any = None, *, params: Params | None = None,
        wait_s: float = 0.0, repeatable: bool = False,
    ) -> Any:  # fmt: skip
        """Change something. `repeatable`: doing it twice is the same as once."""
        return retrying(
            lambda: self._call(method, path, json=body, params=params, wait_s=wait_s), repeatable=repeatable
        )

    def put(
        self,
        url: str,
        pieces: Iterable[Piece],
        *,
        size: int,
        headers: Mapping[str, str],
        wait_s: float,
    ) -> None:
        """PUT exactly `size` bytes to the registry or a store, once: the caller repeats it with new pieces."""
        headers = {**headers, "Content-Length": str(size)}
        with self._transfer("PUT", url, headers=headers, body=pieces, wait_s=wait_s):
            pass

    @contextlib.contextmanager
    def stream(self, url: str, *, range_: tuple[int, int] | None = None) -> Iterator[Iterator[bytes]]:
        """GET bytes from the registry or a store, once: all of them, or (offset, length); pieces as they arrive."""
        headers = {} if range_ is None else {"Range": f"bytes={range_[0]}-{sum(range_) - 1}"}
        with self._transfer("GET", url, headers=headers, body=None, wait_s=0.0) as answer:
            if range_ is not None and answer.status != 206 and not _is_wanted(answer, range_):
                raise UnexpectedAnswer(f"{self._place(url)} sent the whole where a part was asked for.")
            yield answer.pieces

    @contextlib.contextmanager
    def _transfer(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Iterable[Piece] | None,
        wait_s: float,
    ) -> Iterator[Answer]:
        place = self._place(url)
        try:
            with self._answer(method, url, headers, body, wait_s) as answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    # Unpacked, a small answer can be of any size; and what is hashed are the bytes themselves.
                    raise UnexpectedAnswer(f"{place} compresses its answers although it was asked not to.")
                if not 200 <= answer.status < 300:
                    raise _refused(answer, place, own=_is_own(url))
                yield answer
        except WireFailed as error:
            message = _unreachable(str(error), place, own=_is_own(url), timed_out=error.timed_out)
            raise ConnectionFailed(message, arrived=error.arrived, timed_out=error.timed_out) from error
        except WireUnusable as error:
            raise UnexpectedAnswer(f"{place} cannot be used: {error}.") from error

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Iterable[Piece] | None,
        wait_s: float,
    ) -> Iterator[Answer]:
        if self._wire is None:
            content = None if body is None else (bytes(piece) for piece in body)
            with self._open(method, url, wait_s=wait_s, headers=headers, content=content) as response:
                yield _answer_of(response)
            return
        own = _is_own(url)
        headers = {**self._headers, **(self._authorization if own else {}), **headers}
        target = self._url + url if own else url
        timeout = urllib3.Timeout(
            connect=self._timeout_s if body else min(self._timeout_s, _CONNECT_S),
            read=self._timeout_s + wait_s,
        )
        with self._wire.request(method, target, headers=headers, body=body, timeout=timeout) as answer:
            yield answer

    def _call(self, method: str, path: str, **options: Any) -> Any:
        with self._open(method, path, **options) as response:
            content = _read(response.iter_bytes(), MAX_ANSWER)
        if not content:
            return None
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UnexpectedAnswer(
                f"{self._url} did not answer with JSON. Is it a Modelyard registry?"
            ) from error

    @contextlib.contextmanager
    def _open(
        self, method: str, url: str, *, wait_s: float = 0.0, **options: Any
    ) -> Iterator[httpx2.Response]:
        own = _is_own(url)
        client, target = (self._registry, self._url + url) if own else (self._elsewhere, url)
        place = self._place(url)
        try:
            with client.stream(method, target, timeout=self._timeout(wait_s), **options) as response:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    # Unpacked, a small answer can be of any size; and what is hashed are the bytes themselves.
                    raise UnexpectedAnswer(f"{place} compresses its answers although it was asked not to.")
                if not response.is_success:
                    raise _refused(_answer_of(response), place, own=own)
                yield response
        except httpx2.TransportError as error:
            timed_out = isinstance(error, httpx2.TimeoutException)
            late = timed_out and not isinstance(error, httpx2.ConnectTimeout)
            reason = str(error) or type(error).__name__
            raise ConnectionFailed(
                _unreachable(reason, place, own=own, timed_out=late),
                arrived=not isinstance(error, httpx2.ConnectError),
                timed_out=timed_out,
            ) from error
        except (httpx2.InvalidURL, httpx2.RequestError) as error:
            raise UnexpectedAnswer(f"{place} cannot be used: {error}.") from error

    def _place(self, url: str) -> str:
        """What to call the other side. Presigned URLs are secrets until they expire: messages name the host only."""
        return f"the registry at {self._url}" if _is_own(url) else f"the object store at {_origin(url)}"

    def _timeout(self, wait_s: float = 0.0) -> httpx2.Timeout:
        return httpx2.Timeout(
            self._timeout_s,
            connect=min(self._timeout_s, _CONNECT_S),
            read=self._timeout_s + wait_s,
        )


def retrying(act: Callable[[], T], *, repeatable: bool = True) -> T:
    """Call `act` until it succeeds, fails for good, or has failed ATTEMPTS times; waits a little longer each time."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return act()
        except ModelyardError as error:
            if not is_transient(error, repeatable=repeatable):
                raise
            told = _told_to_wait(error)
        # Jitter, so that many clients do not come back in step.
        pause = FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - no secret, only spread
        time.sleep(told + pause)
    return act()


def is_transient(error: ModelyardError, *, repeatable: bool = True) -> bool:
    """Whether the same request may succeed in a moment, and repeating it does no harm."""
    if isinstance(error, ConnectionFailed):
        # A timeout has cost its time once already.
        return (repeatable and not error.timed_out) or not error.arrived
    if isinstance(error, ApiError) and error.status == _TOO_MANY and error.code != "too_many_attempts":
        # Refused before anything was done. (Whoever mistyped a password is told to wait, and not kept waiting.)
        return _told_to_wait(error) <= LONGEST_PAUSE_S
    if not (repeatable and isinstance(error, ApiError)):
        return False
    # S3 documents 500 as "try again"; a registry that answers it has a fault that will not go away.
    return error.status in _UNAVAILABLE or (error.status, error.code) == (500, "store_refused")


def _told_to_wait(error: ModelyardError) -> int:
    """Seconds that an answer of 429 told to wait."""
    told = error.data.get("retry_after_s") if isinstance(error, ApiError) else 0
    return told if type(told) is int and told > 0 else 0


def _answer_of(response: httpx2.Response) -> Answer:
    pieces = response.iter_bytes(CHUNK)
    return Answer(response.status_code, response.reason_phrase, response.headers, pieces)


def _is_wanted(answer: Answer, range_: tuple[int, int]) -> bool:
    """Whether this is what was asked for although its status is 200: rclone sends a part like this, or it is all there is."""
    told = answer.headers.get("Content-Range", "").startswith(f"bytes {range_[0]}-{sum(range_) - 1}/")
    return told or (range_[0] == 0 and answer.headers.get("Content-Length") == str(range_[1]))


def _is_own(url: str) -> bool:
    return url.startswith("/")


def _unreachable(reason: str, place: str, *, own: bool, timed_out: bool) -> str:
    if timed_out:
        return f"{place} did not answer in time. A longer `timeout_s` may help, if it is only slow."
    if not own:
        return f"cannot reach {place}: {reason}. The registry sent us there: can this machine connect to it?"
    return f"cannot reach {place}: {reason}. Is it running? Start one with `modelyard-registry serve`, or set MODELYARD_URL."


def _refused(answer: Answer, place: str, *, own: bool) -> ModelyardError:
    """The error that a problem+json answer describes, or the best guess for an answer of another kind."""
    status = answer.status
    told = f"{place} answered {status} {answer.reason}."
    waiting = _retry_after(answer)
    if not own:
        return api_error("store_refused", status, told, waiting)
    if 300 <= status < 400:
        return UnexpectedAnswer(
            f"{place} points elsewhere, which is not followed: set MODELYARD_URL to the right address."
        )
    try:
        problem = json.loads(_read(answer.pieces, MAX_PROBLEM))
        code, detail = str(problem.pop("code")), str(problem.pop("detail"))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, UnexpectedAnswer):
        return api_error(f"http_{status}", status, f"{told} Is it a Modelyard registry?", waiting)
    data = {key: value for key, value in problem.items() if key not in ("type", "title", "status")}
    return api_error(code, status, detail + _rules_broken(data.get("errors")), data | waiting)


def _retry_after(answer: Answer) -> dict[str, int]:
    """How long a refusal for too many requests says to wait; a date, as some proxies send it, is not understood."""
    told = answer.headers.get("Retry-After", "")
    if answer.status == _TOO_MANY and told.isascii() and told.isdigit() and len(told) < 10:
        return {"retry_after_s": int(told)}
    return {}


def _rules_broken(errors: object) -> str:
    """Which field broke which rule, when the answer lists them."""
    if not isinstance(errors, list):
        return ""
    told = [f"{each.get('location')}: {each.get('message')}" for each in errors if isinstance(each, dict)]
    return f" [{'; '.join(told)}]" if told else ""


def _read(pieces: Iterable[bytes], limit: int) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > limit:
            raise UnexpectedAnswer(f"The answer is longer than {limit} bytes. Is it a Modelyard registry?")
    return bytes(content)


def _hide_signatures(record: logging.LogRecord) -> bool:
    """A filter: HTTP libraries log whole URLs, but whoever has a presigned one needs no token until it expires."""
    if isinstance(record.args, tuple):
        record.args = tuple(_without_signature(each) for each in record.args)
    return True


def _without_signature(each: object) -> object:
    if isinstance(each, httpx2.URL) and b"ignature" in each.query:
        return each.copy_with(query=b"...")
    if isinstance(each, str) and "ignature" in each.partition("?")[2]:
        return each.partition("?")[0] + "?..."
    return each


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "an address that cannot be read"
