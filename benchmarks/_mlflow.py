"""MLflow as a peer, in a virtual environment of its own: a server that proxies artifacts, and a client that obeys.

Mlflow ──JSON lines──> _mlflow_worker.py (MlflowClient) ──HTTP──> mlflow server ──boto3──> the object store
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.servers.ports import free_port, wait_until

HOME = Path(__file__).parent.parent / ".cache" / "bench" / "mlflow"
WORKER = Path(__file__).parent / "_mlflow_worker.py"
PACKAGES = ("mlflow", "boto3", "psycopg2-binary")
# one worker, as our registry is one process; no scheduler of jobs beside it, which would take CPU from it
SERVER = ("--workers", "1", "--host", "127.0.0.1", "--serve-artifacts")
QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
START_TIMEOUT_S = 180.0


class Mlflow:
    """MLflow's client in its worker process."""

    name = "mlflow"

    def __init__(self, worker: "subprocess.Popen[str]") -> None:
        self._worker = worker
        self.version: str = self._answer()["version"]

    def upload(self, path: Path) -> tuple[float, str]:
        """Seconds of MlflowClient.log_artifact or log_artifacts, and the run that has the files now."""
        answer = self._ask(do="upload", path=str(path))
        return answer["seconds"], answer["run"]

    def download(self, run: str, dest: Path) -> float:
        """Seconds of mlflow.artifacts.download_artifacts."""
        seconds: float = self._ask(do="download", run=run, dest=str(dest))["seconds"]
        return seconds

    def registry(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each call of the model registry, by what it does; see _mlflow_worker.py."""
        times: dict[str, list[float]] = self._ask(do="registry", rounds=str(rounds))["times"]
        return times

    def _ask(self, **order: str) -> Any:
        assert self._worker.stdin  # noqa: S101 - a pipe, as mlflow() starts it
        print(json.dumps(order), file=self._worker.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._worker.stdout  # noqa: S101 - a pipe, as mlflow() starts it
        line = self._worker.stdout.readline()
        answer = json.loads(line) if line else {"error": "its client process ended"}
        if "error" in answer:
            raise RuntimeError(f"MLflow: {answer['error']}")
        return answer


@contextmanager
def mlflow(directory: Path, *, database_url: str, bucket: str, endpoint: str) -> Iterator[Mlflow]:
    """MLflow's server and client, with their logs in `directory`, until the context ends."""
    store = {"MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}
    with mlflow_storing(directory, database_url, f"s3://{bucket}", store) as running:
        yield running


@contextmanager
def mlflow_storing(
    directory: Path, database_url: str, destination: str, store: Mapping[str, str]
) -> Iterator[Mlflow]:
    """The same, with artifacts at `destination`; `store`: what the environment says of that."""
    install()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | QUIET | {"PATH": f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    database = database_url.replace("postgresql:", "postgresql+psycopg2:")  # SQLAlchemy's own default varies
    places = ("--backend-store-uri", database, "--artifacts-destination", destination)
    server = [str(HOME / "bin" / "mlflow"), "server", *SERVER, *places, "--port", str(port)]
    with ExitStack() as stack:
        log = stack.enter_context((directory / "mlflow.log").open("ab"))
        running = stack.enter_context(_started(server, environment | dict(store), stdout=log, stderr=log))
        _wait_for(f"{url}/health", running, directory / "mlflow.log")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        client = [str(HOME / "bin" / "python"), str(WORKER), url]
        yield Mlflow(stack.enter_context(_started(client, environment, **pipes)))


def _wait_for(url: str, server: "subprocess.Popen[Any]", log: Path) -> None:
    """Return once the server answers at `url`. RuntimeError with the end of its log if it ends, or takes too long."""
    wait_until(
        lambda: server.poll() is not None or _answers(url), timeout_s=START_TIMEOUT_S, what="mlflow server"
    )
    if server.poll() is not None:
        raise RuntimeError(f"mlflow server ended with status {server.returncode}:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    try:
        return bool(urlopen(url, timeout=2).status == 200)  # noqa: S310 - http, on loopback
    except OSError:
        return False


def install() -> None:
    """Make MLflow's virtual environment if it is not there. Remove the folder to get a newer MLflow."""
    ready = HOME / ".ready"
    if ready.exists():
        return
    print(f"installing {', '.join(PACKAGES)} under {HOME} …", file=sys.stderr)
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)], check=True)
    environment = os.environ | {"VIRTUAL_ENV": str(HOME)}
    subprocess.run([uv, "pip", "install", "--quiet", *PACKAGES], env=environment, check=True)
    ready.touch()


@contextmanager
def _started(
    argv: Sequence[str], environment: Mapping[str, str], **files: Any
) -> Iterator["subprocess.Popen[Any]"]:
    """A child in a process group of its own, all of which is killed at the end: the server has children, too."""
    child = subprocess.Popen(argv, env=environment, start_new_session=True, **files)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
