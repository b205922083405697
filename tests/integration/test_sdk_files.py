"""Files and directories to a real registry and back: on its own disk, and by presigned addresses in a real S3 store."""

import os
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import modelyard
import numpy as np
import pytest
from modelyard import Client, Signature, Tensor, Variant
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from tests.servers.registry import Registry
from tests.servers.s3 import S3Server

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["disk", "s3"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a registry that stores on its own disk, and of one that sends us to S3."""
    url = request.getfixturevalue("registry_url" if request.param == "disk" else "s3_registry_url")
    with Client(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def s3_registry_url(rclone_s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry whose bytes are in S3, for all tests of this module."""
    home = tmp_path_factory.mktemp("s3-registry")
    storage = rclone_s3.url(rclone_s3.new_bucket())
    registry = Registry(home, database_url=f"sqlite:///{home / 'registry.db'}", storage_url=storage)
    try:
        yield registry.start().url
    finally:
        registry.kill()


@pytest.fixture
def name() -> str:
    return f"sdk-{uuid.uuid4().hex}"


def write(root: Path, contents: dict[str, bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


CONTENTS = {
    "weights.bin": os.urandom(3_000_000),
    "empty": b"",
    "same/1": b"twice",
    "same/2": b"twice",
    "Größe 100%/模型 #1?.txt": "ünïcode".encode(),
    "a&b=c+d;e,f'g(h)!.txt": b"characters that URLs care about",
    ".hidden": b"x",
}


def test_a_directory_comes_back_byte_for_byte(client: Client, name: str, tmp_path: Path) -> None:
    version = client.register(name, write(tmp_path / "model", CONTENTS))
    assert (version.format, version.variants, version.signature) == ("files", (), None)
    assert {each.path: each.size for each in version.files} == {
        path: len(each) for path, each in CONTENTS.items()
    }
    assert tree(client.download(version, tmp_path / "dest")) == CONTENTS
    assert tree(client.download(f"{name}/1")) == CONTENTS


def test_one_empty_file_is_a_version(client: Client, name: str, tmp_path: Path) -> None:
    version = client.register(name, write(tmp_path, {"nothing": b""}) / "nothing")
    assert (version.size, [each.path for each in version.files]) == (0, ["nothing"])
    assert tree(client.download(version)) == {"nothing": b""}


def test_bytes_that_the_registry_has_are_not_sent_again(client: Client, name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"big": os.urandom(100_000), "small": b"1"})
    first = client.register(name, folder)
    (folder / "small").write_bytes(os.urandom(10))
    sent = []
    second = client.register(name, folder, progress=lambda _, total: sent.append(total))
    assert set(sent) == {10}
    assert (second.number, second.digest == first.digest) == (2, False)
    assert client.register(name, folder).digest == second.digest


def test_memory_stays_small_however_big_the_file(client: Client, name: str, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as big:
        for _ in range(200):
            big.write(os.urandom(1_000_000))
    tracemalloc.start()
    try:
        version = client.register(name, tmp_path / "big")
        client.download(version)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20  # five packs of 16 MiB, and what is read at once


def test_a_file_that_changes_meanwhile_makes_no_version(client: Client, name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"log": b"0" * 5_000_000})

    def grow(*_: int) -> None:
        with (folder / "log").open("ab") as stream:
            stream.write(b"more")

    with pytest.raises(modelyard.IntegrityError, match="'log' changed"):
        client.register(name, folder, progress=grow)
    with pytest.raises(modelyard.NotFound):
        client.model(name)


def test_what_the_caller_says_about_a_version_is_kept(client: Client, name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"m.ubj": b"x", "check/example.json": b"{}"})
    signature = Signature((Tensor("x", "FP32", (-1, 3)),), (Tensor("y", "FP32", (-1,)),))
    version = client.register(
        name,
        folder,
        format="xgboost",
        variants=[Variant("xgboost", "m.ubj")],
        signature=signature,
        example="check/example.json",
        metrics={"rmse": 1.5},
        tags={"team": "risk"},
        description="by hand",
    )
    again = client.resolve(f"{name}/1")
    assert again == version
    assert (again.format, again.variants) == ("xgboost", (Variant("xgboost", "m.ubj"),))
    assert (again.signature, again.example) == (signature, "check/example.json")
    assert (again.metrics, again.tags, again.description) == ({"rmse": 1.5}, {"team": "risk"}, "by hand")


def test_a_published_estimators_graph_registers_on_its_own_with_its_signature(
    client: Client, name: str
) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    published = client.publish(name, LogisticRegression().fit(x / 100, y), example=x[:3] / 100)
    version = client.register(name, client.download(published) / "model.onnx")
    assert (version.format, version.variants) == ("onnx", (Variant("onnx", "model.onnx"),))
    assert published.signature is not None
    assert version.signature == published.signature


@pytest.mark.filterwarnings("ignore:.*MLflow doesn't validate the data for this type:UserWarning")
def test_an_mlflow_model_comes_back_and_predicts_the_same(client: Client, name: str, tmp_path: Path) -> None:
    # Imported here: it takes seconds, and warns about types of its own.
    import mlflow.pyfunc
    import mlflow.sklearn

    x, y = load_breast_cancer(return_X_y=True)
    estimator = LogisticRegression().fit(x / 100, y)
    mlflow.sklearn.save_model(estimator, tmp_path / "saved", pip_requirements=["scikit-learn"])
    version = client.register(name, tmp_path / "saved")
    assert (version.format, version.variants) == ("mlflow", (Variant("mlflow", "."),))
    loaded = mlflow.pyfunc.load_model(str(client.download(version)))
    np.testing.assert_array_equal(loaded.predict(x / 100), estimator.predict(x / 100))


def test_with_s3_bytes_go_past_the_registry(
    s3_registry_url: str, rclone_s3: S3Server, tmp_path: Path, name: str
) -> None:
    """Downloads name the store, not the registry."""
    with Client(s3_registry_url) as client:
        client.register(name, write(tmp_path / "model", {"a": b"x"}))
        listed = client._http.get(f"/api/v1/models/{name}/versions/1/downloads")
    assert listed["blobs"][0]["url"].startswith(rclone_s3.endpoint)


def test_a_token_opens_the_registry_and_travels_no_further(
    start_registry: Callable[..., Registry], rclone_s3: S3Server, tmp_path: Path, name: str
) -> None:
    """An S3 server refuses a request that carries a signature and an Authorization header at once."""
    running = start_registry(
        database_url=f"sqlite:///{tmp_path / 'registry.db'}",
        storage_url=rclone_s3.url(rclone_s3.new_bucket()),
        environment={"MODELYARD_REGISTRY_TOKEN": TOKEN},
    )
    folder = write(tmp_path / "model", CONTENTS)
    for wrong in ("", "another-token-entirely"):
        with Client(running.url, wrong) as client, pytest.raises(modelyard.Unauthorized):
            client.register(name, folder)
    with Client(running.url, TOKEN) as client:
        assert tree(client.download(client.register(name, folder))) == CONTENTS


def test_a_registry_that_restarts_is_waited_for(
    start_registry: Callable[..., Registry], tmp_path: Path, name: str
) -> None:
    """Between stop and start nothing listens: the first attempt is refused, a later one succeeds."""
    running = start_registry(
        database_url=f"sqlite:///{tmp_path / 'registry.db'}", storage_url=(tmp_path / "blobs").as_uri()
    )
    pauses: list[float] = []

    def start_again(seconds: float) -> None:
        patch.undo()  # first of all: starting waits with the same function
        pauses.append(seconds)
        running.start()

    with Client(running.url) as client:
        version = client.register(name, write(tmp_path / "model", {"a": b"x"}))
        running.stop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("modelyard._http.time.sleep", start_again)
            assert client.promote(name, version.number).moved
    assert len(pauses) == 1
