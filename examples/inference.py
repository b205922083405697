"""Asking a serving adapter over plain HTTP, with nothing but the standard library: any other client does as well."""

import json
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen


def predict(adapter: str, model: str, rows: list[list[float]]) -> dict[str, Any]:
    """Send rows, shape (n, features), to a model with one FP64 input named "input"; returns the whole V2 answer."""
    tensor = {"name": "input", "datatype": "FP64", "shape": [len(rows), len(rows[0])], "data": rows}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = Request(  # noqa: S310 - the caller's own adapter
        f"{adapter}/v2/models/{model}/infer", data=body, headers={"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return dict(json.load(answer))


def served_version(adapter: str, model: str) -> int | None:
    """The version that the adapter serves under this name, or None."""
    try:
        with urlopen(f"{adapter}/v2/models/{model}", timeout=10) as answer:  # noqa: S310 - as above
            return int(json.load(answer)["versions"][0])
    except HTTPError as answer:
        answer.close()
        return None
    except (URLError, IndexError):
        return None


def wait_for_version(adapter: str, model: str, number: int, timeout_s: float = 30.0) -> float:
    """Wait until the adapter serves version `number`; returns the seconds it took. Raises TimeoutError."""
    start = time.perf_counter()
    while served_version(adapter, model) != number:
        if time.perf_counter() - start > timeout_s:
            raise TimeoutError(f"{adapter} does not serve {model}/{number}; {adapter}/status says why")
        time.sleep(0.005)
    return time.perf_counter() - start
