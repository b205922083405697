"""What authentication and audit cost a call that creates a version: one registry with them, one without, in turn."""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2

from benchmarks._report import Row, inform, within
from tests.servers.registry import Registry

SHARE = 0.20
"""Of the time of the call."""

CONTENT = b"a model"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"

_CLIENTS: dict[str, httpx2.Client] = {}


def guarding(home: Path, new_database: Callable[[], str], rounds: int, token: str) -> list[Row]:
    """Milliseconds of POST /versions with and without, and the share in between; medians over `rounds` calls each.

    The caller has a token of its own: a session in the database, and grants, as every pipeline has.
    """
    with ExitStack() as stack:
        guarded, bare = (
            stack.enter_context(_registry(home / name, new_database(), program))
            for name, program in (
                ("guarded", "registry.cli"),
                ("bare", "benchmarks._unguarded_registry"),
            )
        )
        robot = _robot(guarded, token)
        times: dict[str, list[float]] = {"guarded": [], "bare": []}
        for number in range(rounds + 10):
            pair = (("guarded", guarded, robot), ("bare", bare, robot))
            for name, url, headers in pair if number % 2 else reversed(pair):
                seconds = _create(url, headers)
                if number >= 10:  # the first few open connections and fill caches
                    times[name].append(1000 * seconds)
    shares = [1 - without / with_ for with_, without in _medians(times["guarded"], times["bare"])]
    return [
        inform("create_version", "ms", times["guarded"]),
        inform("create_version_unguarded", "ms", times["bare"]),
        within("authentication_and_audit", "of the call", shares, SHARE),
    ]


def _medians(guarded: list[float], bare: list[float]) -> Iterator[tuple[float, float]]:
    """Medians of ten stretches of the run: single calls differ by more than what is looked for."""
    size = max(1, len(guarded) // 10)
    for at in range(0, len(guarded) - size + 1, size):
        middle = size // 2
        yield sorted(guarded[at : at + size])[middle], sorted(bare[at : at + size])[middle]


def _create(url: str, headers: dict[str, str]) -> float:
    client = _CLIENTS.setdefault(url, httpx2.Client(base_url=f"{url}/api/v1", timeout=30))
    body = {"files": [{"path": "m", "size": len(CONTENT), "digest": DIGEST}]}
    upload = _ok(client.post("/models/bench/uploads", json=body, headers=headers)).json()
    for need in upload["needs"]:
        _ok(client.put(f"{url}{need['url']}", content=CONTENT, headers=headers))
    body = {**body, "upload": upload["id"], "format": "files"}
    begun = time.perf_counter()
    _ok(client.post("/models/bench/versions", json=body, headers=headers))
    return time.perf_counter() - begun


def _robot(url: str, token: str) -> dict[str, str]:
    """The headers of a principal with three grants."""
    admin = {"Authorization": f"Bearer {token}"}
    name = f"robot-{uuid.uuid4().hex[:8]}"
    with httpx2.Client(base_url=f"{url}/api/v1", headers=admin) as client:
        _ok(client.post("/principals", json={"name": name}))
        for pattern in ("bench", "other-*", "third"):
            _ok(client.post("/grants", json={"principal": name, "role": "publisher", "pattern": pattern}))
        made = _ok(client.post("/tokens", json={"name": "bench", "principal": name}))
    return {"Authorization": f"Bearer {made.json()['token']}"}


def _ok(answer: httpx2.Response) -> httpx2.Response:
    answer.raise_for_status()
    return answer


@contextmanager
def _registry(home: Path, database_url: str, program: str) -> Iterator[str]:
    running = Registry(
        home, database_url=database_url, storage_url=(home / "blobs").as_uri(), program=program
    )
    try:
        yield running.start().url
    finally:
        running.kill()
