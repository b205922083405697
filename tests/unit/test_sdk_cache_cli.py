"""`modelyard cache`, in this process, on a cache that a fake registry filled."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from modelyard import _cache, _shell
from modelyard._cache import Cache, cached
from modelyard._cache_cli import cache as group

from tests.unit.sdk_fake import URL, FakeRegistry


@click.group()
def app() -> None:
    """Stands for the program that the group is part of."""


app.add_command(group)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    monkeypatch.setenv("MODELYARD_URL", URL)
    monkeypatch.setenv("MODELYARD_CACHE_BYTES", "5000")
    yield tmp_path
    release()


def release() -> None:
    while _cache._held:
        _cache._held.popitem()[1].close()


@pytest.fixture
def digest(home: Path) -> str:
    """Of fraud/1, which lies in the cache and was production when last seen."""
    fake = FakeRegistry({"a": b"x" * 1500, "b": b"y"})
    with fake.client() as client:
        version = client.resolve("fraud/1")
        cached(client._http, version, home, None)
    Cache(home / "cache", registry=URL).refs.remember("fraud@production", version)
    release()
    return version.digest


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert _shell.run(app, ["cache", *arguments]) == status
        told = self._capsys.readouterr()
        return told.out if status == 0 else told.out + told.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_ls_tells_what_is_there(shell: Shell, digest: str, home: Path) -> None:
    listed = shell.json("ls")
    assert (listed["bytes"], listed["limit_bytes"]) == (1501, 5000)
    [entry] = listed["versions"]
    assert entry.pop("used_at").endswith("Z")
    assert entry == {
        "digest": digest,
        "refs": ["fraud/1", "fraud@production"],
        "files": 2,
        "size": 1501,
        "pinned": False,
        "in_use": False,
    }
    table = shell("ls")
    assert f"{digest[7:19]}  fraud/1, fraud@production  2      1.5 kB" in table
    assert table.endswith(f"1.5 kB of 5.0 kB in {home / 'cache'}\n")


def test_an_empty_cache_says_so(shell: Shell) -> None:
    assert "Nothing is cached yet." in shell("ls")
    assert "Nothing is cached yet." in shell("verify")
    assert shell.json("clear") == {"removed": []}


def test_a_pinned_version_survives_clear(shell: Shell, digest: str) -> None:
    assert shell("pin", "fraud/1") == f"fraud/1 is pinned ({digest}).\n"
    assert shell.json("ls")["versions"][0]["pinned"]
    assert shell("clear") == "0 versions removed.\n"
    assert shell.json("unpin", "fraud/1") == {"ref": "fraud/1", "unpinned": True}
    assert shell("unpin", "fraud/1") == "fraud/1 is not pinned.\n"
    assert shell.json("clear") == {"removed": [digest]}
    assert "not_cached" in shell("pin", "fraud/1", "--json", status=1)


def test_what_was_never_fetched_cannot_be_pinned(shell: Shell, digest: str) -> None:
    assert digest
    assert f"'fraud/2' was never fetched from {URL}" in shell("pin", "fraud/2", status=1)
    assert "cannot be a model's name" in shell("pin", "../x", status=1)


def test_verify_names_what_is_damaged(shell: Shell, digest: str, home: Path) -> None:
    assert "intact" in shell("verify")
    path = home / "cache" / "versions" / digest[7:] / "b"
    path.chmod(0o644)
    path.write_bytes(b"z")
    told = shell("verify", status=1)
    assert "damaged" in told
    assert "error: 1 of 1 versions in the cache are damaged" in told
    listed, _ = json.JSONDecoder().raw_decode(shell("verify", "--json", status=1))
    assert (listed[0]["intact"], listed[0]["damaged"]) == (False, ["b"])


def test_path_prints_where_it_is_and_creates_nothing(shell: Shell, home: Path) -> None:
    assert shell("path") == f"{home / 'cache'}\n"
    assert shell.json("path") == {"path": str(home / "cache")}
    assert list(home.iterdir()) == []


def test_the_commands_cost_nothing_until_they_are_used() -> None:
    code = "import sys, modelyard._cache_cli; sys.exit('httpx2' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
