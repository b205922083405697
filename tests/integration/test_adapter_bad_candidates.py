"""Bad versions are promoted while clients keep asking: the old version answers, and the status says what is wrong."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modelyard import Client, Variant

from tests.servers.adapter import (
    X_TO_Y,
    Adapter,
    Load,
    adapters,
    register_onnx,
    register_script,
    value,
    write_example,
)
from tests.servers.adapter_runtime import FORMAT
from tests.servers.registry import Registry

StartAdapter = Callable[..., Adapter]
StartRegistry = Callable[..., Registry]

SCRIPTS: list[tuple[dict[str, Any], str, str]] = [
    ({"load": "raise"}, "load", "does not want to be loaded"),
    ({"load": "hang"}, "load", "did not finish within 1 s"),
    ({"load": "exit"}, "load", "exited with code 3"),
    ({"load": "segfault"}, "load", "signal 11"),
    ({"load": "memory"}, "load", "emory"),
    ({"answer": "nan"}, "example", "not finite"),
    ({"answer": "shape"}, "example", "must be FP64 of shape"),
    ({"answer": "type"}, "example", "must be FP64 of shape"),
    ({"answer": "nothing"}, "example", "without the output"),
    ({"answer": 99}, "example", "differs from what was recorded"),
]


@pytest.fixture
def start_adapter(tmp_path: Path) -> Iterator[StartAdapter]:
    with adapters(tmp_path) as start:
        yield start


@pytest.fixture
def client(registry_url: str) -> Iterator[Client]:
    with Client(registry_url) as client:
        yield client


def register_bad(client: Client, folder: Path, script: dict[str, Any]) -> int:
    """A version that says that it answered 7, and does something else."""
    folder.mkdir()
    write_example(folder, 7)
    return register_script(client, "bad", folder, script, example="example.json").number


def register_garbage(client: Client, folder: Path) -> int:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"\x00garbage" * 1000)
    variants = (Variant("onnx", "model.onnx"),)
    return client.register("bad", folder, format="onnx", variants=variants, signature=X_TO_Y).number


def test_no_bad_version_costs_a_request(client: Client, start_adapter: StartAdapter, tmp_path: Path) -> None:
    """Every kind of bad version one after the other under load, then a good one."""
    assert register_onnx(client, "bad", tmp_path / "good", 1).number == 1
    client.promote("bad", 1)
    adapter = start_adapter(client.url, "bad", load_timeout_s=1)
    adapter.wait_ready()
    with Load(adapter, "bad") as load:
        for index, (script, phase, message) in enumerate(SCRIPTS):
            number = register_bad(client, tmp_path / str(index), script)
            client.promote("bad", number)
            error = adapter.wait_rejected("bad", number)
            assert error["phase"] == phase
            assert message in error["message"]
            assert str(tmp_path) not in error["message"]
            assert adapter.serving("bad") == 1
            assert adapter.status("bad")["candidate"] is None
        number = register_garbage(client, tmp_path / "garbage")
        client.promote("bad", number)
        assert "not an ONNX model" in adapter.wait_rejected("bad", number)["message"]
        number = register_bad(client, tmp_path / "unserved", {"answer": 7})
        good = register_onnx(client, "bad", tmp_path / "next", number + 1).number
        client.promote("bad", good)
        adapter.wait_serving("bad", good)
        assert adapter.status("bad")["last_error"] is None
    load.assert_perfect()
    assert {answer.body["model_version"] for answer in load.answers} == {"1", str(good)}
    assert adapter.status("bad")["failures"] == 0
    assert adapter.get("/v2/health/ready").status == 200


def test_a_rejected_version_is_tried_again_when_it_is_promoted_again(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """Its process is killed at load the first time, and the second time something has been repaired."""
    model = "again"
    register_onnx(client, model, tmp_path / "1", 1)
    client.promote(model, 1)
    repaired = tmp_path / "repaired"
    variants = (Variant(FORMAT, "model.json"),)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "model.json").write_text(json.dumps({"answer": 2, "needs": str(repaired)}))
    client.register(model, tmp_path / "2", format=FORMAT, variants=variants, signature=X_TO_Y)
    adapter = start_adapter(client.url, model)
    adapter.wait_ready()
    client.promote(model, 2)
    adapter.wait_rejected(model, 2)
    repaired.touch()
    assert adapter.serving(model) == 1
    client.promote(model, 1)
    client.promote(model, 2)
    adapter.wait_serving(model, 2)
    assert value(adapter.infer(model)) == 2


def test_bytes_that_were_damaged_in_the_store_are_never_loaded(
    start_registry: StartRegistry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    blobs = tmp_path / "blobs"
    registry = start_registry(database_url=f"sqlite:///{tmp_path}/registry.db", storage_url=f"file://{blobs}")
    with Client(registry.url) as client:
        register_onnx(client, "damaged", tmp_path / "1", 1)
        client.promote("damaged", 1)
        adapter = start_adapter(registry.url, "damaged")
        adapter.wait_ready()
        kept = {path for path in blobs.rglob("*") if path.is_file()}
        register_onnx(client, "damaged", tmp_path / "2", 2)
        for path in {path for path in blobs.rglob("*") if path.is_file()} - kept:
            path.chmod(0o600)
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
        client.promote("damaged", 2)
        error = adapter.wait_rejected("damaged", 2)
    assert error["phase"] == "fetch"
    assert value(adapter.infer("damaged")) == 1


def test_a_version_in_no_served_format_is_refused_by_name(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    client.register("formless", tmp_path / "notes.txt")
    client.promote("formless", 1)
    adapter = start_adapter(client.url, "formless")
    error = adapter.wait_rejected("formless", 1)
    assert (error["phase"], "['scripted', 'onnx']" in error["message"]) == ("select", True)
    ready = adapter.get("/v2/health/ready")
    assert (ready.status, ready.body["ready"]) == (503, False)
    assert "this adapter serves" in ready.body["error"]
