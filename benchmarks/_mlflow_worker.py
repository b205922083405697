"""MLflow's client, in a process of MLflow's own virtual environment; started by _mlflow.py.

    {"do": "upload", "path": …}                <- one line of JSON each on stdin
    {"do": "download", "run": …, "dest": …}
    {"do": "registry", "rounds": …}            {"times": {call: [seconds]}} on stdout
    {"seconds": …, "run": …}                   -> one line each on stdout; {"error": …} when it failed

The clock runs here, so neither this pipe nor MLflow's import counts. Creating the run is not timed.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient


def upload(client: MlflowClient, path: Path) -> dict[str, Any]:
    run = client.create_run("0").info.run_id
    begun = time.perf_counter()
    if path.is_dir():
        client.log_artifacts(run, str(path))
    else:
        client.log_artifact(run, str(path))
    return {"seconds": time.perf_counter() - begun, "run": run}


def download(run: str, dest: Path) -> dict[str, Any]:
    dest.mkdir()
    begun = time.perf_counter()
    mlflow.artifacts.download_artifacts(run_id=run, artifact_path="", dst_path=str(dest))
    return {"seconds": time.perf_counter() - begun}


def registry(client: MlflowClient, rounds: int) -> dict[str, Any]:
    client.create_registered_model("bench")
    calls = {
        "create_version": lambda _: client.create_model_version(
            "bench", "s3://bench/m", await_creation_for=0
        ),
        "get_version": lambda n: client.get_model_version("bench", str(1 + n)),
        "search_page": lambda _: client.search_model_versions("name = 'bench'", max_results=100),
        "transition": lambda n: client.transition_model_version_stage("bench", str(1 + n), "Production"),
        "set_alias": lambda n: client.set_registered_model_alias("bench", "champion", str(1 + n)),
    }
    return {"times": {name: [timed(call, n) for n in range(rounds)] for name, call in calls.items()}}


def timed(call: Callable[[int], object], number: int) -> float:
    begun = time.perf_counter()
    call(number)
    return time.perf_counter() - begun


def obey(client: MlflowClient, order: dict[str, str]) -> dict[str, Any]:
    if order["do"] == "upload":
        return upload(client, Path(order["path"]))
    if order["do"] == "registry":
        return registry(client, int(order["rounds"]))
    return download(order["run"], Path(order["dest"]))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what MLflow prints goes to the log
    mlflow.set_tracking_uri(sys.argv[1])
    client = MlflowClient(sys.argv[1])
    print(json.dumps({"version": mlflow.__version__}), file=answers)
    for line in sys.stdin:
        try:
            answer = obey(client, json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark stops with it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
