"""How long a registry with 200,000 versions needs for a page of a search, and for a pointer: on PostgreSQL and on SQLite.

The clock is that of a caller on the same machine, with one connection: the time in the server, and a little more.
"""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks import _many_versions
from benchmarks._report import Row, within
from tests.servers.registry import Registry

SEARCHES = {
    "everything": "",
    "one_model": "model = model-0500",
    "models": "model ~ model-05*",
    "rare_tag": "tags.run = run-150000",
    "common_tag": "tags.team = team-3",
    "metric": "metrics.auc > 0.999",
    "common_metric": "metrics.auc[test] >= 0.5",
    "parameter": "params.depth = 7",
    "stage": "stage = production",
    "alias": "alias = champion",
    "creator": "creator = robot-7",
    "created": "created >= 2025-05-19",
    "and": "tags.team = team-3 AND metrics.auc > 0.95",
    "or": "tags.dataset = dataset-7 OR alias = champion",
    "not": "NOT tags.team = team-3 AND stage = none",
}
PAGE_MS, POINTER_MS, SQLITE = 20.0, 5.0, 3.0
PAGES = 5


def searching(home: Path, new_database: Callable[[], str], rounds: int, token: str) -> list[Row]:
    """99th percentiles in milliseconds, against the limits."""
    places = {"postgresql": (new_database(), 1.0), "sqlite": (f"sqlite:///{home / 'many.db'}", SQLITE)}
    rows: list[Row] = []
    for kind, (url, share) in places.items():
        _many_versions.fill(url)
        running = Registry(home / kind, database_url=url, storage_url=(home / "blobs").as_uri())
        try:
            caller = _Caller(running.start().url, token)
            for name, query in SEARCHES.items():
                times = _pages(caller, query, rounds)
                rows.append(within(f"search_{name}_{kind}_p99", "ms", [_p99(times)], share * PAGE_MS))
            times = [caller.get(_pointer(number))[0] for number in range(rounds)]
            rows.append(within(f"pointer_{kind}_p99", "ms", [_p99(times)], share * POINTER_MS))
        finally:
            running.kill()
    return rows


class _Caller:
    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> tuple[float, bytes]:
        begun = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - begun
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:500]!r}")
        return 1000 * seconds, body


def _pages(caller: _Caller, query: str, rounds: int) -> list[float]:
    """The first few pages, again and again."""
    times: list[float] = []
    after = ""
    for number in range(rounds + PAGES):
        milliseconds, body = caller.get(f"/api/v1/search?limit=100&q={quote(query)}{after}")
        following = json.loads(body)["next"]
        after = f"&after={quote(following)}" if following and number % PAGES else ""
        if number >= PAGES:  # statements are compiled and planned once
            times.append(milliseconds)
    return times


def _pointer(number: int) -> str:
    model = _many_versions.model_name(1 + number * 37 % _many_versions.MODELS)
    return f"/api/v1/models/{model}/pointers/production"


def _p99(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]
