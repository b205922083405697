"""A registry's answers for the SDK's tests of what a real registry would never do: lie, break off, forget.

What a real registry does is tested against a real one, in tests/integration.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from modelyard import Client, File, Version, _packs, _upload
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

CUTTING = _packs.Cutting(1 << 10, 4 << 10, 16 << 10, 2)
Handler = Callable[[httpx2.Request], httpx2.Response | None]


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def file_of(path: str, content: bytes) -> File:
    return File(path, len(content), digest_of(content))


def small_packs(monkeypatch: pytest.MonkeyPatch, pack: int = 64 << 10) -> None:
    """Packs of `pack` bytes, so that small files do what large ones do. The chunks of a FakeRegistry match them."""
    monkeypatch.setattr(_packs, "PACK", pack)
    monkeypatch.setattr(_packs, "PART", pack)
    monkeypatch.setattr(_upload, "PACK", pack)


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

    `requests` lists what arrived, `received` the blobs that uploads brought, `published` the files that the last commit
    made of them. `have`, `hash_first` and `bases` go into the answer to an offer. With `presigned`, bytes go to and come
    from STORE. `listed` replaces the list of downloads, which may name `blobs` besides the contents.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, Any] | None = None
    presigned: bool = False
    before: Handler = lambda _: None
    have: dict[str, bytes] = field(default_factory=dict)
    hash_first: list[str] = field(default_factory=list)
    bases: list[dict[str, Any]] = field(default_factory=list)
    requests: list[httpx2.Request] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)
    published: dict[str, bytes] = field(default_factory=dict)

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

    def downloads(self, files: list[File] | None = None) -> dict[str, Any]:
        """The list of downloads: each content is a blob of its own, and files with the same content share one."""
        files = self.files if files is None else files
        firsts = {file.digest: file for file in reversed(files) if file.size}
        order = {digest: index for index, digest in enumerate(firsts)}
        place = STORE if self.presigned else ""
        return {
            "blobs": [
                {"digest": each.digest, "size": each.size, "url": f"{place}/bytes/{each.path}"}
                for each in firsts.values()
            ],
            "files": [
                {
                    **each.to_wire(),
                    "url": f"{place}/bytes/{each.path}",
                    "segments": [[order[each.digest], 0, each.size]] if each.size else [],
                }
                for each in files
            ],
        }

    def base(self, path: str) -> dict[str, Any]:
        """What a registry tells the next upload about a large file that was published."""
        commit = json.loads(next(each for each in reversed(self.requests) if each.method == "POST").content)
        segments = next(each["segments"] for each in commit["files"] if each["path"] == path)
        cut = CUTTING.chunks(_packs.Hashing(io.BytesIO(self.published[path])), _packs.KnownChunks())
        listed = b"".join(chunk + len(data).to_bytes(4, "big") for chunk, data in cut)
        return {
            "segments": [[commit["blobs"][blob], at, length] for blob, at, length in segments],
            "chunks": base64.b64encode(b"\1" + listed).decode(),
        }

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.before(request) or self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path = unquote(request.url.path)
        match request.method, path.rpartition("/")[2]:
            case "POST", "uploads":
                return httpx2.Response(201, json=self._offer())
            case "POST", "files":
                offered = {each["digest"] for each in json.loads(request.read())["files"]}
                return httpx2.Response(200, json={"have": sorted(offered & self.have.keys())})
            case "POST", "blobs":
                return httpx2.Response(200, json={"needs": self._needs(json.loads(request.read())["blobs"])})
            case "PUT", digest:
                content = request.read()
                if digest_of(content) != digest:
                    return problem(400, "digest_mismatch")
                self.received[digest] = content
                return httpx2.Response(204)
            case "POST", "versions":
                return self._commit(json.loads(request.read()))
            case "GET", "downloads":
                return httpx2.Response(200, json=self.listed or self.downloads())
            case "GET", _ if path.startswith("/bytes/"):
                name = path.removeprefix("/bytes/")
                return _part(request, {**self.contents, **self.blobs}[name])
            case "GET", "1":
                return httpx2.Response(200, json=version_wire(self.files))
        return problem(404, "not_found")

    def _offer(self) -> dict[str, Any]:
        return {
            "id": "u1",
            "expires_at": "?",
            "needs": [],
            "have": sorted(self.have),
            "hash_first": self.hash_first,
            "cutting": asdict(CUTTING),
            "bases": self.bases,
        }

    def _needs(self, blobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        place = STORE if self.presigned else ""
        return [
            {
                "digest": each["digest"],
                "size": each["size"],
                "method": "PUT",
                "url": f"{place}/put/{each['digest']}",
                "headers": {},
            }
            for each in blobs
            if each["digest"] not in self.received
        ]

    def _commit(self, body: dict[str, Any]) -> httpx2.Response:
        """As strict as a real one: every file must come out of the bytes that are there."""
        stored = {**self.have, **self.received}
        if missing := [digest for digest in body["blobs"] if digest not in stored]:
            return problem(409, "upload_incomplete", missing=missing)
        blobs = [stored[digest] for digest in body["blobs"]]
        for file in body["files"]:
            if "segments" in file:
                parts = [blobs[blob][at : at + length] for blob, at, length in file["segments"]]
            elif file["digest"] in self.have:
                parts = [self.have[file["digest"]]]
            else:
                return problem(409, "upload_incomplete", missing=[file["digest"]])
            content = b"".join(parts)
            if (len(content), digest_of(content)) != (file["size"], file["digest"]):
                return problem(422, "segments_are_wrong")
            self.published[file["path"]] = content
        return httpx2.Response(201, json=version_wire([File.from_wire(each) for each in body["files"]]))


def _part(request: httpx2.Request, content: bytes) -> httpx2.Response:
    """The whole, or the range that was asked for."""
    if "Range" not in request.headers:
        return httpx2.Response(200, content=content)
    first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return httpx2.Response(206, content=content[first : last + 1], headers=headers)


class Broken(httpx2.SyncByteStream):
    """A body that ends in a broken connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx2.ReadError("the connection broke")
