"""Asking an identity provider: one request, one JSON object, within narrow bounds.

https only (http on loopback), no redirects, no proxies or credentials from the environment, nothing compressed, at most
1 MB and 5 seconds for all of it: a provider that is slow or broken must not take the registry with it.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx2

from registry.settings import is_safe_url

MAX_BYTES = 1_000_000
MAX_SECONDS = 5.0


class FetchFailed(Exception):
    """No answer that can be used. The message repeats nothing that was received; `status` is that of another than 200."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


def get_json(url: str) -> dict[str, Any]:
    """GET an object. Raises FetchFailed. Blocks; not to be called on an event loop."""
    return _fetch("GET", url)


def post_form(
    url: str, form: Mapping[str, str], credentials: tuple[str, str] | None = None
) -> dict[str, Any]:
    """POST a form, with HTTP Basic credentials if given, and return the object that is answered. Raises FetchFailed."""
    # RFC 6749, 2.3.1: both are form-encoded before they become Basic credentials.
    auth = tuple(quote(each, safe="") for each in credentials) if credentials else None
    return _fetch("POST", url, data=dict(form), auth=auth)


def _fetch(method: str, url: str, **options: Any) -> dict[str, Any]:
    if not is_safe_url(url):
        raise FetchFailed("it names an address that is not https")
    try:
        # A loop of its own: only there can one deadline end a request wherever it is. Timeouts of sockets begin anew with
        # each byte, and a server may send its headers one byte at a time.
        content = asyncio.run(_request(method, url, options))
    except TimeoutError as error:
        raise FetchFailed(f"it took longer than {MAX_SECONDS:g} s to answer") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise FetchFailed(f"it cannot be reached ({type(error).__name__})") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FetchFailed("it does not answer with JSON") from error
    if not isinstance(found, dict):
        raise FetchFailed("it does not answer with a JSON object")
    return found


async def _request(method: str, url: str, options: dict[str, Any]) -> bytes:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        asyncio.timeout(MAX_SECONDS),
        httpx2.AsyncClient(
            verify=_tls(), trust_env=False, follow_redirects=False, timeout=MAX_SECONDS
        ) as client,
        client.stream(method, url, headers=headers, **options) as response,
    ):
        if response.status_code != 200:
            raise FetchFailed(f"it answers {response.status_code}", response.status_code)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchFailed("it compresses its answers although it was asked not to")
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > MAX_BYTES:
                raise FetchFailed(f"its answer is longer than {MAX_BYTES} bytes")
        return bytes(content)


@cache
def _tls() -> ssl.SSLContext:
    # Reading the trusted certificates takes 30 ms.
    return httpx2.create_ssl_context()
