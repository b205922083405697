"""MLflow's client, in a process of MLflow's own virtual environment; started by _mlflow.py.

    {"do": "upload", "path": …}                <- one line of JSON each on stdin
    {"do": "download", "run": …, "dest": …}
    {"seconds": …, "run": …}                   -> one line each on stdout; {"error": …} when it failed

The clock runs here, so neither this pipe nor MLflow's import counts. Creating the run is not timed.
"""

import json
import os
import sys
import time
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


def obey(client: MlflowClient, order: dict[str, str]) -> dict[str, Any]:
    if order["do"] == "upload":
        return upload(client, Path(order["path"]))
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
