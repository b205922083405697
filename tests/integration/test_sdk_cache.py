"""The cache with a real registry: what moves, and what does not."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from modelyard import Client, Version
from modelyard._cache import cached
from modelyard._config import load
from modelyard._http import Http


class Counting(httpx2.HTTPTransport):
    """Passes requests on, and notes what kind of answer each gave."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[str, str]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        self.answers.append((request.url.path, response.headers.get("Content-Type", "")))
        return response

    def bytes_asked(self) -> list[str]:
        """Paths of answers that were no JSON."""
        return [path for path, kind in self.answers if not kind.startswith("application/json")]


@pytest.fixture
def counting(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    with Counting() as transport:
        yield transport


def publish(root: Path, name: str, contents: dict[str, bytes]) -> Version:
    root.mkdir()
    for path, content in contents.items():
        (root / path).write_bytes(content)
    with Client() as client:
        return client.register(name, root)


def test_only_what_is_new_moves(counting: Counting, tmp_path: Path) -> None:
    name = f"cache-{uuid.uuid4().hex}"
    common = {f"layer-{number}": os.urandom(10_000) for number in range(9)}
    first = publish(tmp_path / "1", name, common | {"head": b"one"})
    second = publish(tmp_path / "2", name, common | {"head": b"two"})
    with Client(transport=counting) as client:
        directory = client.download(first)
        assert len(counting.bytes_asked()) == 1  # ten files, one pack

        counting.answers.clear()
        assert client.download(f"{name}/1") == directory
        assert counting.answers
        assert counting.bytes_asked() == []

        counting.answers.clear()
        again = client.download(f"{name}/2")
        [blob] = counting.bytes_asked()
        assert blob.endswith(hashlib.sha256(b"two").hexdigest())
    assert {path.name: path.read_bytes() for path in again.iterdir()} == common | {"head": b"two"}
    assert (directory / "layer-3").samefile(again / "layer-3")

    counting.answers.clear()
    http = Http(load(), timeout_s=5, transport=counting)
    assert cached(http, second, tmp_path / "home", None) == again
    assert cached(None, first, tmp_path / "home", None) == directory
    assert counting.answers == []
    http.close()
