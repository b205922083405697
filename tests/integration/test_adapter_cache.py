"""What a running adapter keeps on disk, what it fetches, and what becomes of versions that are deleted meanwhile."""

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelyard import Client

from tests.servers.adapter import Adapter, Load, adapters, register_onnx, value
from tests.servers.app import ADMIN
from tests.servers.ports import wait_until
from tests.servers.registry import Registry

StartAdapter = Callable[..., Adapter]
StartRegistry = Callable[..., Registry]


@pytest.fixture
def start_adapter(tmp_path: Path) -> Iterator[StartAdapter]:
    with adapters(tmp_path) as start:
        yield start


@pytest.fixture
def client(registry_url: str) -> Iterator[Client]:
    with Client(registry_url) as client:
        yield client


def on_disk(adapter: Adapter) -> set[str]:
    """The digests of the versions in its cache."""
    return {f"sha256:{path.name}" for path in (adapter.home / "serving" / "versions").iterdir()}


def test_a_cache_for_two_versions_is_enough_to_go_through_many(
    client: Client, start_adapter: StartAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old versions are evicted; the current one, and the previous one that a rollback needs, are not."""
    versions = [register_onnx(client, "small", tmp_path / str(n), n, ballast=2**14) for n in range(1, 10)]
    digests = {version.number: version.digest for version in versions}
    monkeypatch.setenv("MODELYARD_CACHE_BYTES", str(2 * max(version.size for version in versions)))
    client.promote("small", 1)
    adapter = start_adapter(client.url, "small")
    adapter.wait_ready()

    def promote(number: int, previous: int) -> None:
        client.promote("small", number)
        adapter.wait_serving("small", number)
        kept = on_disk(adapter)
        assert {digests[number], digests[previous]} <= kept
        assert len(kept) <= 3  # the one that has just been retired goes when room is needed

    with Load(adapter, "small") as load:
        for number in range(2, 9):
            promote(number, number - 1)
        client.rollback("small")
        adapter.wait_serving("small", 7)
        promote(9, 7)  # although 8 was fetched after 7
    load.assert_perfect()


def test_a_version_that_shares_files_with_the_current_one_is_fetched_without_them(
    start_registry: StartRegistry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """The store has lost the shared bytes, so nobody can have asked for them."""
    blobs = tmp_path / "blobs"
    registry = start_registry(database_url=f"sqlite:///{tmp_path}/registry.db", storage_url=f"file://{blobs}")
    folder = tmp_path / "model"
    folder.mkdir()
    for index in range(8):
        (folder / f"notes-{index}.txt").write_text(f"{index}" * 1000)
    with Client(registry.url) as client:
        register_onnx(client, "shares", folder, 1)
        first = {path for path in blobs.rglob("*") if path.is_file()}
        client.promote("shares", 1)
        adapter = start_adapter(registry.url, "shares")
        adapter.wait_ready()
        register_onnx(client, "shares", folder, 2)
        for path in first:
            path.unlink()
        client.promote("shares", 2)
        adapter.wait_serving("shares", 2)
    assert value(adapter.infer("shares")) == 2


def test_a_version_that_is_deleted_while_it_is_served_goes_on_being_served(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """Nothing points to a version that is named directly; the status tells of its end, and of its return."""
    for number in (1, 2):
        register_onnx(client, "mortal", tmp_path / str(number), number)
    client.promote("mortal", 1)
    adapter = start_adapter(client.url, "mortal", "fixed=mortal/2", poll_s=0.2)
    adapter.wait_ready()
    version = f"{client.url}/api/v1/models/mortal/versions/2"
    ask(version, "DELETE")
    wait_until(
        lambda: "deleted" in last_error(adapter, "fixed"), timeout_s=20, what="the deletion to be told"
    )
    assert value(adapter.infer("fixed")) == 2
    assert adapter.get("/v2/health/ready").status == 200
    ask(f"{version}/restore", "POST")
    wait_until(lambda: not last_error(adapter, "fixed"), timeout_s=30, what="the return to be told")
    client.promote("mortal", 2)  # heard although the feed told of things that concern nobody here
    adapter.wait_serving("mortal", 2)


def last_error(adapter: Adapter, model: str) -> str:
    return str((adapter.status(model)["last_error"] or {}).get("message", ""))


def ask(url: str, method: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=ADMIN), timeout=30):  # noqa: S310 - a test's own
        pass
