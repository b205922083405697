"""A registry's answers for the SDK's tests of what a real registry would never do: lie, break off, forget.

What a real registry does is tested against a real one, in tests/integration.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx2
from modelyard import Client, File, Version
from modelyard._manifest import manifest_digest

URL = "http://registry.test"
STORE = "http://store.test"
TOKEN = "a-token-for-tests"
UNSAFE_PATHS = [
    *("", "/", "/etc/passwd", "//x", "a//b", "a/", "../a", "a/../b", "a/..", "..", ".", "./a", "a/./b"),
    *("a\\b", "..\\a", "C:\\a", "C:", "C:/a", "\\\\host\\share", "s3://bucket/a", "file:a", "a:b"),
    *("a\0b", "a\nb", "a\r", "\x1b[31m", "a\x7f", "a\x85b"),
    *("~", "~root/x", "a/~b", "-rf", "a/-b", "$HOME", "a/$b", "a.", "a ", "a./b", "a /b", " ."),
    *("con", "CON", "nul.txt", "a/Aux", "prn.tar.gz", "com1", "LPT9.log", "com0"),
    *("x" * 256, "a/" + "x" * 256, "ü" * 128, "/".join("a" * 65), "/".join(["x" * 250] * 5), "\ud800"),
]
"""Paths that no version may have, whoever sends them: the table of names and paths of threats, and more."""

Handler = Callable[[httpx2.Request], httpx2.Response | None]


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def file_of(path: str, content: bytes) -> File:
    return File(path, len(content), digest_of(content))


def version_wire(files: list[File], *, number: int = 1, digest: str | None = None) -> dict[str, Any]:
    """A version as the registry tells it."""
    return {
        "model": "fraud",
        "number": number,
        "digest": digest or manifest_digest(files),
        "format": "files",
        "variants": [],
        "signature": None,
        "example": None,
        "description": "",
        "metrics": {},
        "tags": {},
        "files": [each.to_wire() for each in files],
        "size": sum(each.size for each in files),
        "stage": "none",
        "aliases": [],
        "created_at": "2026-11-22T07:00:00.000000Z",
        "created_by": "tests",
    }


def version_of(files: list[File], *, digest: str | None = None) -> Version:
    return Version.from_wire(version_wire(files, digest=digest))


def problem(status: int, code: str, **data: Any) -> httpx2.Response:
    body = {
        "type": "about:blank",
        "title": "?",
        "status": status,
        "code": code,
        "detail": f"It is {code}.",
        **data,
    }
    return httpx2.Response(
        status, content=json.dumps(body), headers={"Content-Type": "application/problem+json"}
    )


@dataclass
class FakeRegistry:
    """Serves the `contents` of version fraud/1 and takes uploads; `before` may answer any request first.

    `requests` lists what arrived, `received` the bodies of uploads. With `presigned`, bytes go to and come from STORE.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    listed: list[dict[str, Any]] | None = None
    presigned: bool = False
    before: Handler = lambda _: None
    requests: list[httpx2.Request] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> list[File]:
        return [file_of(path, content) for path, content in sorted(self.contents.items())]

    def version(self) -> Version:
        return version_of(self.files)

    def client(self, **options: Any) -> Client:
        return Client(URL, TOKEN, transport=httpx2.MockTransport(self._handle), **options)

    def asked(self, method: str, part: str) -> int:
        """How many requests of `method` had `part` in their URL."""
        return sum(each.method == method and part in str(each.url) for each in self.requests)

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.before(request) or self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        place = STORE if self.presigned else ""
        path = unquote(request.url.path)
        match request.method, path.rpartition("/")[2]:
            case "POST", "uploads":
                files = json.loads(request.read())["files"]
                needs = [
                    {
                        "digest": digest,
                        "size": 0,
                        "method": "PUT",
                        "url": f"{place}/put/{digest}",
                        "headers": {},
                    }
                    for digest in {each["digest"] for each in files}
                    if digest not in self.received
                ]
                return httpx2.Response(201, json={"id": "u1", "expires_at": "?", "needs": needs})
            case "PUT", digest:
                self.received[digest] = request.read()
                return httpx2.Response(204)
            case "POST", "versions":
                body = json.loads(request.read())
                return httpx2.Response(
                    201, json=version_wire([File.from_wire(each) for each in body["files"]])
                )
            case "GET", "downloads":
                listed = self.listed or [
                    {**each.to_wire(), "url": f"{place}/bytes/{each.path}"} for each in self.files
                ]
                return httpx2.Response(200, json={"files": listed})
            case "GET", _ if path.startswith("/bytes/"):
                return httpx2.Response(200, content=self.contents[path.removeprefix("/bytes/")])
            case "GET", "1":
                return httpx2.Response(200, json=version_wire(self.files))
        return problem(404, "not_found")


class Broken(httpx2.SyncByteStream):
    """A body that ends in a broken connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx2.ReadError("the connection broke")
