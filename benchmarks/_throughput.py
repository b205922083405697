"""What each side does in a second, through its own client: our registry and MLflow's, each with a PostgreSQL database.

create_version    our SDK registers a file that the registry has already (two requests); MLflow's client only names a source
get_version       one version by its number
search_page       the first 100 versions of a model
transition        another version becomes production; set_alias: another version becomes the champion
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from modelyard import Client

from benchmarks._mlflow import mlflow_storing
from benchmarks._report import Row, compare
from tests.servers.registry import Registry

GOAL = 10.0


def throughput(home: Path, new_database: Callable[[], str], rounds: int, token: str) -> list[Row]:
    """Milliseconds of each call, medians over `rounds`; ratios to MLflow's."""
    running = Registry(home / "ours", database_url=new_database(), storage_url=(home / "blobs").as_uri())
    try:
        with Client(running.start().url, token) as client:
            ours = _ours(client, home / "m.bin", rounds)
    finally:
        running.kill()
    with mlflow_storing(home, new_database(), (home / "artifacts").as_uri(), {}) as peer:
        theirs = peer.registry(rounds)
    return [compare(name, "ms", _ms(ours[name]), _ms(theirs[name]), GOAL) for name in ours]


def _ours(client: Client, path: Path, rounds: int) -> dict[str, list[float]]:
    path.write_bytes(b"a model")
    client.register("bench", path)
    calls: dict[str, Callable[[int], object]] = {
        "create_version": lambda _: client.register("bench", path),
        "get_version": lambda n: client.resolve(f"bench/{1 + n}"),
        "search_page": lambda _: list(islice(client.search("model = bench"), 100)),
        "transition": lambda n: client.promote("bench", 1 + n),
        "set_alias": lambda n: client.promote("bench", 1 + n, "champion"),
    }
    return {name: [timed(call, n) for n in range(rounds)] for name, call in calls.items()}


def timed(call: Callable[[int], object], number: int) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call(number)
    return time.perf_counter() - begun


def _ms(seconds: list[float]) -> list[float]:
    return [1000 * each for each in seconds]
