"""From a fitted estimator to production and back, against a real registry."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skops.io
from modelyard import CaptureWarning, Client, Conflict, InvalidRequest, NotFound, Version
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

X, Y = load_breast_cancer(return_X_y=True)
XR, YR = load_diabetes(return_X_y=True)


@pytest.fixture
def client(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    with Client(registry_url) as opened:
        yield opened


@pytest.fixture
def name() -> str:
    return f"sdk-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def classifier() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


@pytest.fixture
def two(client: Client, name: str, classifier: Any) -> tuple[Version, Version]:
    """Two versions of one model."""
    first = client.publish(name, classifier, example=X[:5])
    return first, client.publish(name, classifier, example=X[:4])


def request_of(folder: Path) -> dict[str, Any]:
    """The example as arrays, as an adapter would feed them."""
    content = json.loads((folder / "modelyard" / "example.json").read_text())
    dtypes = {"FP64": np.float64, "INT64": np.int64, "BYTES": object}
    return {
        t["name"]: np.array(t["data"], dtypes[t["datatype"]]).reshape(t["shape"])
        for t in content["inputs"] + content["outputs"]
    }


def test_a_classifier_is_published_and_comes_back_as_it_was(
    client: Client, name: str, classifier: Any
) -> None:
    version = client.publish(
        name, classifier, example=X[:5], metrics={"auc": 0.97}, description="first", tags={"run": "42"}
    )
    assert (version.model, version.number, version.format, version.stage) == (
        name,
        1,
        "sklearn-skops",
        "none",
    )
    assert (version.metrics, version.description, version.tags) == ({"auc": 0.97}, "first", {"run": "42"})
    assert [each.format for each in version.variants] == ["sklearn-skops", "onnx"]
    assert version.example == "modelyard/example.json"
    assert version.size == sum(each.size for each in version.files)
    assert client.resolve(f"{name}/1") == version

    folder = client.download(version)
    restored = skops.io.load(folder / "model.skops")
    assert (restored.predict_proba(X) == classifier.predict_proba(X)).all()
    recorded = request_of(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"input": recorded["input"]})
    assert (label == recorded["label"]).all()
    np.testing.assert_allclose(probabilities, recorded["probabilities"], rtol=1e-3)


def test_a_regressor_is_published_and_answers_the_same(client: Client, name: str) -> None:
    regressor = make_pipeline(StandardScaler(), Ridge()).fit(XR, YR)
    version = client.publish(name, regressor, example=XR[:5])
    assert version.signature is not None
    assert [(t.name, t.datatype, t.shape) for t in version.signature.outputs] == [
        ("prediction", "FP64", (-1,))
    ]
    session = onnxruntime.InferenceSession(client.download(version) / "model.onnx")
    np.testing.assert_allclose(session.run(None, {"input": XR})[0].ravel(), regressor.predict(XR), rtol=1e-6)


def test_a_data_frame_with_text_and_text_labels_is_published(client: Client, name: str) -> None:
    frame = pd.DataFrame({"age": [20.0, 30.0, 40.0, 50.0], "city": ["oslo", "bern", "oslo", "bern"]})
    labels = np.array(["leaves", "stays", "stays", "leaves"])
    columns = [("age", StandardScaler(), ["age"]), ("city", OneHotEncoder(), ["city"])]
    pipeline = make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(frame, labels)
    version = client.publish(name, pipeline, example=frame)
    assert version.signature is not None
    assert [(t.name, t.datatype, t.shape) for t in version.signature.inputs] == [
        ("age", "FP64", (-1, 1)),
        ("city", "BYTES", (-1, 1)),
    ]
    recorded = request_of(client.download(version))
    assert recorded["label"].tolist() == pipeline.predict(frame).tolist()
    assert recorded["city"].ravel().tolist() == ["oslo", "bern", "oslo", "bern"]


def test_without_an_example_there_is_a_version_and_a_warning(
    client: Client, name: str, classifier: Any
) -> None:
    with pytest.warns(CaptureWarning, match="without an example"):
        version = client.publish(name, classifier)
    assert (version.signature, version.example, len(version.files)) == (None, None, 1)


def test_promotions_and_rollbacks_move_the_pointer_and_are_remembered(
    client: Client, name: str, two: tuple[Version, Version]
) -> None:
    first, second = two
    moved = client.promote(name, first.number, reason="the first")
    assert (moved.moved, moved.stage, moved.number) == (True, "production", 1)
    assert moved.pointer is not None
    assert (moved.pointer.name, moved.pointer.number, moved.pointer.generation) == ("production", 1, 1)
    assert client.promote(name, first.number).moved is False
    client.promote(name, second.number, expected_generation=1, reason="better")
    assert client.resolve(name).number == client.resolve(f"{name}@production").number == 2
    back = client.rollback(name, reason="worse after all")
    assert back.pointer is not None
    assert (back.pointer.number, back.pointer.generation) == (1, 3)
    assert client.resolve(name).digest == first.digest
    history = list(client.history(name, "production"))
    assert [(m.from_number, m.to_number, m.kind, m.reason) for m in history] == [
        (2, 1, "rollback", "worse after all"),
        (1, 2, "promote", "better"),
        (None, 1, "promote", "the first"),
    ]
    assert [m.generation for m in history] == [3, 2, 1]
    assert history[0].previous_digest == history[1].digest


def test_a_promotion_on_a_stale_view_is_a_conflict_that_tells_the_news(
    client: Client, name: str, two: tuple[Version, Version]
) -> None:
    client.promote(name, two[0].number)
    with pytest.raises(Conflict) as caught:
        client.promote(name, two[1].number, expected_generation=0)
    assert (caught.value.code, caught.value.data["generation"], caught.value.data["number"]) == (
        "generation_conflict",
        1,
        1,
    )
    with pytest.raises(Conflict) as caught:
        client.rollback(name)
    assert caught.value.code == "nothing_to_roll_back"


def test_aliases_point_and_can_be_removed(client: Client, name: str, two: tuple[Version, Version]) -> None:
    client.promote(name, two[1].number, "champion")
    assert client.resolve(f"{name}@champion").number == 2
    assert client.resolve(f"{name}@champion").aliases == ("champion",)
    pointer = client.pointer(name, "champion")
    assert (pointer.kind, pointer.number, pointer.generation) == ("alias", 2, 1)
    removed = client.remove_alias(name, "champion", expected_generation=1)
    assert removed.pointer is not None
    assert removed.pointer.number is None
    with pytest.raises(NotFound) as caught:
        client.resolve(f"{name}@champion")
    assert caught.value.code == "pointer_vacant"


def test_what_does_not_exist_is_not_found_by_name(
    client: Client, name: str, two: tuple[Version, Version]
) -> None:
    calls: dict[Callable[[], object], str] = {
        lambda: client.model("no-such-model"): "model_not_found",
        lambda: client.resolve(f"{name}/99"): "version_not_found",
        lambda: client.resolve(f"{name}@nobody"): "pointer_not_found",
        lambda: client.promote(name, 99): "version_not_found",
        lambda: list(client.versions("no-such-model")): "model_not_found",
        lambda: client.download(f"{name}@staging"): "pointer_not_found",
    }
    for act, code in calls.items():
        with pytest.raises(NotFound) as caught:
            act()
        assert caught.value.code == code
    assert len(two) == 2


def test_models_and_versions_are_listed(client: Client, name: str, two: tuple[Version, Version]) -> None:
    assert [each.number for each in client.versions(name)] == [2, 1]
    assert [each.name for each in client.models(search=name[4:])] == [name]
    assert name in {each.name for each in client.models()}
    model = client.model(name)
    assert (model.name, model.latest, model.pointers) == (name, 2, ())
    assert two[0].created_at <= two[1].created_at
    assert model.created_at.utcoffset() is not None


def test_a_request_outside_the_rules_tells_the_rule(
    client: Client, name: str, two: tuple[Version, Version]
) -> None:
    with pytest.raises(InvalidRequest, match="alias"):
        client.promote(name, two[0].number, "latest")
    with pytest.raises(InvalidRequest, match=r"body\.reason"):
        client.promote(name, two[0].number, reason="x" * 20_000)


def test_a_watcher_hears_of_a_promotion_while_it_waits(
    client: Client, name: str, two: tuple[Version, Version]
) -> None:
    start = client.info().revision
    assert client.events(start, models=[name]).events == ()
    heard = []
    watcher = threading.Thread(target=lambda: heard.append(client.events(start, wait_s=30, models=[name])))
    watcher.start()
    moved = client.promote(name, two[0].number)
    watcher.join(timeout=20)
    assert not watcher.is_alive()
    [feed] = heard
    [event] = [each for each in feed.events if each.kind == "pointer.moved"]
    assert (event.model, event.data["pointer"], event.data["to"]) == (name, "production", 1)
    assert moved.revision is not None
    assert event.revision <= moved.revision <= feed.revision


def test_many_publish_at_once_and_each_gets_a_number_of_its_own(
    client: Client, name: str, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    versions: list[Version] = []
    threads = [
        threading.Thread(target=lambda: versions.append(client.register(name, tmp_path / "model.bin")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.number for each in versions) == list(range(1, 9))
    assert len({each.digest for each in versions}) == 1
