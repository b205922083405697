"""Promotions reach a running adapter, and no request is lost or mixed by them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from modelyard import Client
from sklearn.linear_model import LogisticRegression

from tests.servers.adapter import (
    Adapter,
    Load,
    adapters,
    descendants,
    infer_body,
    register_onnx,
    register_script,
    value,
)
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


def register_many(client: Client, model: str, folder: Path, count: int, *, ballast: int = 1) -> None:
    """Versions 1 to `count`; version n answers n."""
    for number in range(1, count + 1):
        version = register_onnx(client, model, folder / str(number), number, ballast=ballast)
        assert version.number == number


def test_swaps_under_load_lose_and_mix_nothing(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """24 promotions and 3 rollbacks while clients keep asking: no failed request, no answer of two versions."""
    register_many(client, "swaps", tmp_path, 24)
    client.promote("swaps", 1)
    adapter = start_adapter(client.url, "swaps")
    adapter.wait_ready()
    with Load(adapter, "swaps") as load:
        for number in range(2, 25):
            client.promote("swaps", number)
            adapter.wait_serving("swaps", number)
            if number % 8 == 0:
                client.rollback("swaps")
                adapter.wait_serving("swaps", number - 1)
    load.assert_perfect()
    assert answered_by(load) == {str(number) for number in range(1, 25)}
    assert adapter.status("swaps")["swaps"] == 27
    assert adapter.status("swaps")["failures"] == 0
    assert adapter.stop() == 0


def test_reloading_leaks_nothing(client: Client, start_adapter: StartAdapter, tmp_path: Path) -> None:
    """30 swaps of a model of 8 MB: threads, descriptors and children as before, memory far below 30 models."""
    count, ballast = 40, 2**20
    register_many(client, "leaks", tmp_path, count, ballast=ballast)
    client.promote("leaks", 1)
    adapter = start_adapter(client.url, "leaks")
    adapter.wait_ready()

    def promote(numbers: range) -> None:
        for number in numbers:
            client.promote("leaks", number)
            adapter.wait_serving("leaks", number)
            assert value(adapter.infer("leaks")) == number

    def counts() -> tuple[int, int, int]:
        process = Path(f"/proc/{adapter.pid}")
        threads, files = (len(list((process / kind).iterdir())) for kind in ("task", "fd"))
        return threads, files, len(descendants(adapter.pid))

    def settled(expected: tuple[int, int, int]) -> bool:
        return all(now <= then for now, then in zip(counts(), expected, strict=True))

    promote(range(2, 11))
    wait_until(lambda: len(descendants(adapter.pid)) == 1, timeout_s=10, what="the last child to be reaped")
    before, memory = counts(), resident_bytes(adapter.pid)
    promote(range(11, count + 1))
    wait_until(
        lambda: settled(before), timeout_s=10, what=f"threads, descriptors and children to be {before} again"
    )
    assert resident_bytes(adapter.pid) - memory < 5 * ballast * 8


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_rollback_takes_the_warm_previous_version(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """It is served again although it takes 2 s to load, twice: it was never unloaded."""
    register_script(client, "warm", tmp_path / "1", {"answer": 1, "load_s": 2})
    register_script(client, "warm", tmp_path / "2", {"answer": 2})
    client.promote("warm", 1)
    adapter = start_adapter(client.url, "warm")
    adapter.wait_ready()
    client.promote("warm", 2)
    adapter.wait_serving("warm", 2)
    client.rollback("warm")
    adapter.wait_serving("warm", 1, timeout_s=3)
    assert value(adapter.infer("warm")) == 1
    assert adapter.status("warm")["previous"]["version"] == 2


def test_a_request_that_spans_two_swaps_is_finished_by_the_version_that_began_it(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_script(client, "spans", tmp_path / "1", {"answer": 1, "predict_s": 3})
    for number in (2, 3):
        register_script(client, "spans", tmp_path / str(number), {"answer": number})
    client.promote("spans", 1)
    adapter = start_adapter(client.url, "spans", threads=4)
    adapter.wait_ready()
    with Load(adapter, "spans") as load:
        wait_until(
            lambda: adapter.status("spans")["requests"] > 4, timeout_s=20, what="requests inside version 1"
        )
        for number in (2, 3):
            client.promote("spans", number)
            adapter.wait_serving("spans", number)
        wait_until(lambda: answered_by(load) >= {"1", "3"}, timeout_s=20, what="answers of versions 1 and 3")
    load.assert_perfect()


def answered_by(load: Load) -> set[str]:
    return {answer.body["model_version"] for answer in load.answers}


def test_a_slow_load_of_one_model_does_not_hold_up_another(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_script(client, "slow", tmp_path / "slow", {"answer": 1, "load_s": 30})
    register_onnx(client, "quick", tmp_path / "quick", 1)
    client.promote("slow", 1)
    client.promote("quick", 1)
    adapter = start_adapter(client.url, "slow", "quick")
    adapter.wait_serving("quick", 1)
    assert adapter.serving("slow") is None
    assert adapter.get("/v2/health/ready").status == 503
    assert adapter.infer("slow").status == 503
    assert value(adapter.infer("quick")) == 1


def test_aliases_versions_and_other_names_are_served_as_they_were_asked_for(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_many(client, "names", tmp_path, 3)
    client.promote("names", 1)
    client.promote("names", 2, "champion")
    adapter = start_adapter(client.url, "names", "best=names@champion", "old=names/1")
    adapter.wait_ready()
    assert [value(adapter.infer(name)) for name in ("names", "best", "old")] == [1, 2, 1]
    assert adapter.get("/v2/models/best/versions/champion").status == 200
    assert adapter.get("/v2/models/best/versions/production").status == 404
    assert adapter.get("/v2/models").body == {"models": ["best", "names", "old"]}
    client.promote("names", 3)
    adapter.wait_serving("names", 3)
    assert [value(adapter.infer(name)) for name in ("names", "best", "old")] == [3, 2, 1]
    client.remove_alias("names", "champion")
    wait_until(
        lambda: adapter.status("best")["note"] is not None, timeout_s=20, what="the alias to be vacant"
    )
    assert value(adapter.infer("best")) == 2


def test_without_names_every_model_in_production_is_served_and_new_ones_too(
    start_registry: StartRegistry, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    registry = start_registry(
        database_url=f"sqlite:///{tmp_path}/registry.db", storage_url=f"file://{tmp_path}/blobs"
    )
    with Client(registry.url) as client:
        register_onnx(client, "first", tmp_path / "first", 1)
        register_onnx(client, "idle", tmp_path / "idle", 1)
        client.promote("first", 1)
        adapter = start_adapter(registry.url)
        adapter.wait_ready()
        assert adapter.get("/v2/models").body == {"models": ["first"]}
        register_onnx(client, "second", tmp_path / "second", 1)
        client.promote("second", 1)
        adapter.wait_serving("second", 1)
        assert adapter.infer("idle").status == 404


@pytest.mark.filterwarnings("ignore::modelyard.CaptureWarning")
@pytest.mark.parametrize("preferred", ["onnx", "sklearn-skops"])
def test_a_published_estimator_answers_as_it_did_in_training(
    client: Client, start_adapter: StartAdapter, preferred: str
) -> None:
    """From a data frame to label and probabilities, through ONNX and through scikit-learn itself."""
    rows = np.random.default_rng(0).normal(size=(50, 2))
    frame = pd.DataFrame({"amount": rows[:, 0], "age": rows[:, 1]})
    estimator = LogisticRegression().fit(frame, np.where(rows.sum(axis=1) > 0, "fraud", "fine"))
    model = f"published-{preferred}"
    client.promote(model, client.publish(model, estimator, example=frame[:5]).number)
    formats = {
        name: f"serving_adapter.runtimes.{name.partition('-')[0]}" for name in ("onnx", "sklearn-skops")
    }
    adapter = start_adapter(client.url, model, formats=formats, prefer=[preferred])
    adapter.wait_ready(timeout_s=120)
    assert adapter.status(model)["current"]["format"] == preferred
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [50, 1], "data": frame[name].tolist()} for name in frame
    ]
    answer = adapter.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode())
    label, probabilities = answer.body["outputs"]
    assert label["data"] == estimator.predict(frame).tolist()
    assert np.allclose(np.reshape(probabilities["data"], (50, 2)), estimator.predict_proba(frame), rtol=1e-3)
    assert adapter.request("POST", f"/v2/models/{model}/infer", infer_body()).status == 400
