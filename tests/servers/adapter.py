"""Real adapters, each in a process of its own, and models whose answer tells which version gave it."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from modelyard import Client, Signature, Tensor, Variant, Version
from onnx import TensorProto, helper, numpy_helper

from tests.servers.adapter_runtime import FORMAT, FORMATS
from tests.servers.ports import free_port, wait_until
from tests.servers.processes import _leash

X_TO_Y = Signature((Tensor("x", "FP64", (-1, 1)),), (Tensor("y", "FP64", (-1, 1)),))

# The program as operators start it, with one more format.
_MAIN = """
import json, sys
from pathlib import Path
from serving_adapter import app, logs
from serving_adapter.settings import Following, Settings
given = json.loads(sys.argv[1])
given["models"] = tuple(Following.parse(each) for each in given["models"])
given["cache_dir"] = Path(given["cache_dir"])
logs.configure(as_json=False)
app.run(Settings(**given))
"""


@dataclass
class Answer:
    """Status, headers with lower-case names, and the body's JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Adapter:
    """One adapter that serves `models`, or everything, in the usual formats and the tests' own."""

    registry: str
    home: Path
    models: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Adapter":
        """Start, and return when it is live; it need not be ready."""
        self.spawn()
        wait_until(self._is_live, timeout_s=60, what="the adapter to be live")
        return self

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start, and do not wait."""
        given = {
            "registry": self.registry,
            "cache_dir": str(self.home / "serving"),
            "models": self.models,
            "port": self.port,
            "formats": FORMATS | {"onnx": "serving_adapter.runtimes.onnx"},
            **self.settings,
        }
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "adapter.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_leash(), sys.executable, "-c", _MAIN, json.dumps(given)],
                env={**os.environ, "MODELYARD_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.home / "adapter.log").read_text()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def infer(self, model: str, x: float = 0.0, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", f"/v2/models/{model}/infer", infer_body(x), headers)

    def status(self, model: str) -> dict[str, Any]:
        return dict(self.get("/status").body["models"].get(model, {}))

    def serving(self, model: str) -> int | None:
        """The number of the version in service."""
        return (self.status(model).get("current") or {}).get("version")

    def wait_serving(self, model: str, number: int, timeout_s: float = 30) -> None:
        wait_until(
            lambda: self.serving(model) == number, timeout_s=timeout_s, what=f"{model}/{number} to be served"
        )

    def wait_rejected(self, model: str, number: int, timeout_s: float = 30) -> dict[str, Any]:
        """Wait for the version to be rejected; returns what the status says about it."""

        def rejected() -> bool:
            error = self.status(model).get("last_error") or {}
            return error.get("version") == number and not error["retrying"]

        wait_until(rejected, timeout_s=timeout_s, what=f"{model}/{number} to be rejected")
        return dict(self.status(model)["last_error"])

    def wait_ready(self, timeout_s: float = 30) -> None:
        wait_until(
            lambda: self.get("/v2/health/ready").status == 200,
            timeout_s=timeout_s,
            what="the adapter to be ready",
        )

    def stop(self) -> int:
        """Stop as an operator would; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _is_live(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return self.get("/v2/health/live").status == 200
        except OSError:
            return False


class Load:
    """Clients that ask the same model again and again, each on a connection of its own, and keep what they got."""

    def __init__(self, adapter: Adapter, model: str, clients: int = 4) -> None:
        self._adapter = adapter
        self._path = f"/v2/models/{model}/infer"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self.answers: list[Answer] = []
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: bool(self.answers or self.errors), timeout_s=30, what="a first answer")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; wait for those under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def assert_perfect(self) -> None:
        """Every request was answered, by one version as a whole: header, body and value say the same."""
        assert not self.errors
        assert {answer.status for answer in self.answers} == {200}
        for answer in self.answers:
            version = answer.headers["modelyard-version"]
            assert (answer.body["model_version"], value(answer)) == (version, float(version)), answer

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._adapter.port, timeout=30)
        while not self._stop.is_set():
            try:
                self.answers.append(ask(connection, "POST", self._path, infer_body()))
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
        connection.close()


def descendants(pid: int) -> set[int]:
    """Process ids of children, their children, and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(stat.parent.name)] = int(fields[1])
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection that may be used again."""
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, json.loads(content) if content else None)


def infer_body(x: float = 0.0) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [x]}]}).encode()


def value(answer: Answer) -> Any:
    """The single number that was answered."""
    assert answer.status == 200, answer
    return answer.body["outputs"][0]["data"][0]


def register_script(
    client: Client, model: str, folder: Path, script: dict[str, Any], **facts: Any
) -> Version:
    """A version in the tests' own format: `script` says how it behaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(script))
    variants = (Variant(FORMAT, "model.json"),)
    return client.register(model, folder, variants=variants, signature=X_TO_Y, **facts)


def register_onnx(
    client: Client, model: str, folder: Path, constant: float, *, ballast: int = 1, **facts: Any
) -> Version:
    """An ONNX version that answers y = x + constant, with a recorded example of it, and `ballast` numbers to hold."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(adding_onnx(constant, ballast))
    write_example(folder, 1.0 + constant)
    facts = {"signature": X_TO_Y, "example": "example.json", **facts}
    return client.register(model, folder, variants=(Variant("onnx", "model.onnx"),), **facts)


def write_example(folder: Path, y: float) -> None:
    """Record that x = 1 gave `y`."""
    example = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [1, 1], "data": [y]}],
    }
    (folder / "example.json").write_text(json.dumps(example))


def adding_onnx(constant: float, ballast: int = 1) -> bytes:
    """Y = x + table[0 * x]: no optimiser can drop the table, which has `ballast` numbers and begins with `constant`."""
    table = np.zeros(ballast)
    table[0] = constant
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["first"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "first"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "add",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.zeros(1), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def adapters(home: Path) -> Iterator[Callable[..., Adapter]]:
    """Start adapters: `start(registry_url, "model@champion", drain_s=1)`; none outlives the block."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(registry: str, *models: str, **settings: Any) -> Adapter:
            adapter = Adapter(registry, home / f"adapter-{next(numbers)}", models, settings)
            stack.callback(adapter.kill)
            return adapter.start()

        yield start
