"""`make demo`: the whole path on a throw-away registry, told as it happens.

Train, register, promote, predict; train better, promote under load, see the adapter answer with the new version and
no request fail; roll back under load. The last line is one JSON object; the exit code is 0 only if all of it held.
"""

import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import modelyard
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from deploy.local import NotStarted, Stack
from examples.inference import predict, wait_for_version

MODEL, SECOND = "breast-cancer", "diabetes"


class Failed(Exception):
    """Something that the demo promises did not hold."""


def main() -> int:
    """Run the demo; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="modelyard-demo-") as home:
        try:
            with (
                Stack(Path(home), free_port(), free_port()) as stack,
                stack.client() as client,
            ):
                outcome = story(stack, client)
        except (Failed, NotStarted, modelyard.ModelyardError, OSError) as error:
            print(f"\nThe demo failed: {error}", file=sys.stderr)
            print(json.dumps({"demo": "failed", "model": MODEL, "reason": str(error)[:500]}))
            return 1
    print(json.dumps({"demo": "ok", **outcome}))
    return 0


def story(stack: Stack, client: modelyard.Client) -> dict[str, Any]:
    """What happens, in order; returns the members of the closing JSON object. Raises Failed."""
    tell(f"A registry runs at {stack.registry_url}, a serving adapter at {stack.adapter_url}.")
    data = breast_cancer()

    first, first_auc = train(data, components=1)
    version = client.publish(MODEL, first, example=data.features[:5], metrics={"auc": first_auc})
    formats = ", ".join(variant.format for variant in version.variants)
    tell(
        f"Trained on real data and registered {MODEL}/{version.number} (AUC {first_auc:.4f}; formats: {formats})."
    )
    promote_through_the_web(stack, version.number)
    wait_for_version(stack.adapter_url, MODEL, version.number)
    tell(
        f"Promoted it through the web API; the adapter answers with version {ask(stack, data.held_out, first)}."
    )

    second, second_auc = train(data, components=10)
    version = client.publish(MODEL, second, example=data.features[:5], metrics={"auc": second_auc})
    tell(f"Trained a better model and registered {MODEL}/{version.number} (AUC {second_auc:.4f}).")
    with Load(stack, data.held_out, {1: first, 2: second}) as load:
        promoting = load.move_to(2, lambda: client.promote(MODEL, 2, reason=f"AUC {second_auc:.4f}"))
        tell(f"Promoted it while a client kept asking: version 2 answered {promoting:.0f} ms later.")
        load.go_on()
        rolling_back = load.move_to(1, lambda: client.rollback(MODEL, reason="to show that it can be done"))
        tell(f"Rolled back under the same load: version 1 answered {rolling_back:.0f} ms later.")
        load.go_on()
    load.check()
    tell(f"{load.requests} requests were answered meanwhile, by version: {load.by_version()}. None failed.")

    second_example(stack, client)
    for move in client.history(MODEL, "production"):
        held = f"version {move.to_number}" if move.to_number else "nothing"
        tell(
            f"  history: generation {move.generation}, {move.kind} to {held}, {move.reason or 'no reason given'}"
        )
    served = ask(stack, data.held_out, first)
    if served != 1:
        raise Failed(f"version {served} is served after the rollback to version 1")
    return {
        "model": MODEL,
        "served_version": served,
        "requests": load.requests,
        "failed": len(load.failures),
        "promote_to_serving_ms": round(promoting, 1),
        "rollback_to_serving_ms": round(rolling_back, 1),
    }


def second_example(stack: Stack, client: modelyard.Client) -> None:
    """A regression model beside the first: the adapter picks it up by itself."""
    features, target = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), Ridge()).fit(features, target)
    version = client.publish(
        SECOND, model, example=features[:5], metrics={"r2": float(model.score(features, target))}
    )
    client.promote(SECOND, version.number)
    wait_for_version(stack.adapter_url, SECOND, version.number)
    answered = predict(stack.adapter_url, SECOND, features[:3].tolist())["outputs"][0]["data"]
    if not np.allclose(answered, model.predict(features[:3]), rtol=1e-3):
        raise Failed(f"the diabetes model answered {answered}")
    tell(
        f"A second model, {SECOND}/{version.number} (regression), is served beside it: {answered[0]:.1f} for patient 1."
    )


@dataclass(frozen=True)
class Data:
    """569 tumours: features, shape (n, 30), and labels, shape (n,), to train on and held out."""

    features: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


def breast_cancer() -> Data:
    features, labels = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(features, labels, test_size=0.25, random_state=0)
    return Data(train_x, train_y, test_x, test_y)


def train(data: Data, *, components: int) -> tuple[Pipeline, float]:
    """A pipeline that looks at so many principal components; returns it and its AUC on the data held out."""
    pipeline = make_pipeline(StandardScaler(), PCA(components), LogisticRegression(max_iter=1000))
    pipeline.fit(data.features, data.labels)
    return pipeline, float(roc_auc_score(data.held_out_labels, pipeline.predict_proba(data.held_out)[:, 1]))


def promote_through_the_web(stack: Stack, number: int) -> None:
    """What any pipeline can do with curl."""
    body = json.dumps(
        {"number": number, "to": "production", "expected_generation": 0, "reason": "first"}
    ).encode()
    url = f"{stack.registry_url}/api/v1/models/{MODEL}/promotions"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.token}"}
    with urlopen(Request(url, data=body, headers=headers), timeout=10) as answer:  # noqa: S310 - our own registry
        if json.load(answer)["stage"] != "production":
            raise Failed("the promotion was not carried out")


def ask(stack: Stack, rows: np.ndarray, expected: Pipeline) -> int:
    """The version that answers, which must answer as `expected` does."""
    answer = predict(stack.adapter_url, MODEL, rows[:1].tolist())
    if not agrees(answer, rows[:1], expected):
        raise Failed(f"version {answer['model_version']} answered wrongly")
    return int(answer["model_version"])


def agrees(answer: dict[str, Any], rows: np.ndarray, model: Pipeline) -> bool:
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return np.allclose(outputs["probabilities"], model.predict_proba(rows).ravel(), rtol=1e-3, atol=1e-5)


class Load:
    """A client that keeps asking, one request after the other, and checks that every answer is its version's own."""

    def __init__(self, stack: Stack, rows: np.ndarray, models: dict[int, Pipeline]) -> None:
        self._stack = stack
        self._rows = rows
        self._models = models
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._answers: Counter[int] = Counter()
        self._first_answer: dict[int, float] = {}
        self._watching = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def requests(self) -> int:
        return sum(self._answers.values()) + len(self.failures)

    def by_version(self) -> str:
        return ", ".join(f"{number}: {count}" for number, count in sorted(self._answers.items()))

    def move_to(self, number: int, move: Any) -> float:
        """Carry out `move`; returns the milliseconds from its answer to the first answer of version `number`."""
        self._first_answer.pop(number, None)
        self._watching = number
        move()
        start = time.perf_counter()
        while number not in self._first_answer:
            if time.perf_counter() - start > 60:
                raise Failed(
                    f"version {number} was not served within a minute; {self._stack.adapter_url}/status"
                )
            time.sleep(0.001)
        return max(0.0, (self._first_answer[number] - start) * 1000)

    def go_on(self, requests: int = 200) -> None:
        """Let the client send so many requests more."""
        until = self.requests + requests
        while self.requests < until:
            time.sleep(0.001)

    def check(self) -> None:
        """Raise Failed if any request failed."""
        if self.failures:
            raise Failed(
                f"{len(self.failures)} of {self.requests} requests failed, the first with: {self.failures[0]}"
            )

    def _run(self) -> None:
        at = 0
        while not self._stop.is_set():
            row = self._rows[at % len(self._rows)][None, :]
            at += 1
            try:
                number = self._ask(row)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a request that failed
                self.failures.append(repr(error))
                continue
            self._answers[number] += 1
            if number == self._watching:
                self._first_answer.setdefault(number, time.perf_counter())

    def _ask(self, row: np.ndarray) -> int:
        answer = predict(self._stack.adapter_url, MODEL, row.tolist())
        number = int(answer["model_version"])
        if not agrees(answer, row, self._models[number]):
            raise Failed(f"version {number} answered wrongly")
        return number


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tell(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
