"""The registry may be gone at any time: what is loaded stays, and following goes on when it is back."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelyard import Client

from tests.servers.adapter import Adapter, Load, adapters, register_onnx, value
from tests.servers.ports import free_port, wait_until
from tests.servers.registry import Registry

StartAdapter = Callable[..., Adapter]
StartRegistry = Callable[..., Registry]


@pytest.fixture
def start_adapter(tmp_path: Path) -> Iterator[StartAdapter]:
    with adapters(tmp_path) as start:
        yield start


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that is not running yet."""
    made = Registry(
        tmp_path / "registry",
        database_url=f"sqlite:///{tmp_path}/registry.db",
        storage_url=f"file://{tmp_path}/blobs",
    )
    yield made
    made.kill()


def stale_s(adapter: Adapter) -> float:
    return float(adapter.get("/status").body["registry"]["stale_s"])


def test_an_outage_costs_no_request_and_ends_by_itself(
    registry: Registry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    registry.start()
    with Client(registry.url) as client:
        for number in (1, 2):
            register_onnx(client, "outage", tmp_path / str(number), number)
        client.promote("outage", 1)
        adapter = start_adapter(registry.url, "outage")
        adapter.wait_ready()
        with Load(adapter, "outage") as load:
            registry.kill()
            wait_until(lambda: stale_s(adapter) > 3, timeout_s=30, what="staleness to grow")
            status = adapter.get("/status").body
            assert status["ready"] is True
            assert "cannot reach the registry" in status["registry"]["error"]
            answered = len(load.answers)
            registry.start()
            client.promote("outage", 2)
            adapter.wait_serving("outage", 2, timeout_s=60)
            assert len(load.answers) > answered
        load.assert_perfect()
    assert adapter.get("/status").body["registry"]["error"] is None
    assert adapter.log.count("what is loaded stays") == 1
    assert adapter.log.count("the registry answers again") == 1


def test_an_adapter_that_starts_before_its_registry_waits_for_it(
    registry: Registry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    adapter = start_adapter(registry.url, "early")
    assert adapter.get("/v2/health/live").status == 200
    wait_until(
        lambda: adapter.status("early")["last_error"] is not None, timeout_s=30, what="a first attempt"
    )
    ready = adapter.get("/v2/health/ready")
    assert ready.status == 503
    assert "cannot reach the registry" in ready.body["error"]
    assert adapter.infer("early").status == 503
    registry.start()
    with Client(registry.url) as client:
        register_onnx(client, "early", tmp_path / "1", 1)
        client.promote("early", 1)
    adapter.wait_ready(timeout_s=60)
    assert value(adapter.infer("early")) == 1


def test_an_adapter_that_restarts_uses_what_it_has_once_it_knows_what_is_wanted(
    registry: Registry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """The files are verified and not fetched again: the store has lost them meanwhile."""
    registry.start()
    with Client(registry.url) as client:
        register_onnx(client, "restarts", tmp_path / "1", 1)
        client.promote("restarts", 1)
    adapter = start_adapter(registry.url, "restarts")
    adapter.wait_ready()
    assert adapter.stop() == 0
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    adapter.start()
    adapter.wait_ready()
    assert value(adapter.infer("restarts")) == 1


def test_a_registry_of_another_kind_changes_nothing(start_adapter: StartAdapter) -> None:
    """Whatever listens there: another adapter, for instance."""
    other = start_adapter(f"http://127.0.0.1:{free_port()}")
    adapter = start_adapter(f"http://127.0.0.1:{other.port}", "m")
    wait_until(lambda: adapter.status("m")["last_error"] is not None, timeout_s=30, what="a first attempt")
    assert adapter.get("/v2/health/live").status == 200
    assert adapter.get("/v2/health/ready").status == 503
