"""The main job end to end, in real processes: train, register, promote, predict, reload under load, roll back.

On SQLite and disk, and on PostgreSQL and S3.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import Stack
from examples import demo, house_price
from tests.servers.ports import free_port


@pytest.fixture(params=["sqlite+disk", "postgresql+s3@rclone", "postgresql+s3@ceph", "postgresql+minio@ceph"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    environment = {}
    if request.param != "sqlite+disk":
        scheme, _, server = request.param.partition("+")[2].partition("@")
        store = request.getfixturevalue(f"{server}_s3")
        environment = {
            "MODELYARD_REGISTRY_DATABASE_URL": request.getfixturevalue("postgres").new_database(),
            "MODELYARD_REGISTRY_STORAGE_URL": store.url(store.new_bucket(), scheme=scheme),
        }
    with Stack(tmp_path, free_port(), free_port(), environment=environment) as running:
        yield running


def test_the_demo_and_the_house_prices_hold(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One after the other on the same servers, for starting those takes longer than either."""
    monkeypatch.setenv("MODELYARD_URL", stack.registry_url)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "client"))
    monkeypatch.setattr(house_price, "ADAPTER", stack.adapter_url)
    with stack.client() as client:
        monkeypatch.setattr("modelyard._default._made", [client])
        assert house_price.main() == pytest.approx([68_000.0, 78_000.0], abs=0.01)
        outcome = demo.story(stack, client)
    assert (outcome["failed"], outcome["served_version"]) == (0, 1)
    assert outcome["requests"] > 0
    assert "None failed" in capsys.readouterr().out


def test_a_failed_request_fails_the_demo(tmp_path: Path) -> None:
    """The demo's own witness can fail: killing the adapter under load is noticed."""
    with Stack(tmp_path, free_port(), free_port()) as stack, stack.client() as client:
        data = demo.breast_cancer()
        model, _ = demo.train(data, components=1)
        client.publish(demo.MODEL, model, example=data.features[:5])
        client.promote(demo.MODEL, 1)
        demo.wait_for_version(stack.adapter_url, demo.MODEL, 1)
        with demo.Load(stack, data.held_out, {1: model}) as load:
            seen = threading.Event()
            while load.requests < 5:
                seen.wait(0.01)
            stack.adapter.stop()
            while not load.failures:
                seen.wait(0.01)
        with pytest.raises(demo.Failed, match="requests failed"):
            load.check()
