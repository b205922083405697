"""Many at once, against two real server processes, on both databases: one winner, no gap, no duplicate, no 5xx."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.reliability.witness import Witness
from tests.servers.app import ADMIN, begin, create, promote, publish, send
from tests.servers.registry import Registry

PROMOTERS, ROUNDS, CREATIONS = 64, 50, 200


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(
    request: pytest.FixtureRequest, start_registry: Callable[..., Registry], tmp_path: Path
) -> tuple[str, str]:
    """Two registry processes that share a database, one of each kind, and a store."""
    shared = {
        "database_url": f"sqlite:///{tmp_path / 'shared.db'}",
        "storage_url": (tmp_path / "blobs").as_uri(),
    }
    if request.param == "postgresql":
        shared["database_url"] = request.getfixturevalue("postgres").new_database()
    return start_registry(**shared).url, start_registry(**shared).url


def many_connections(url: str) -> httpx2.Client:
    """One client that all threads share, with a connection for each."""
    limits = httpx2.Limits(max_connections=PROMOTERS, max_keepalive_connections=PROMOTERS)
    return httpx2.Client(base_url=url, timeout=60, headers=ADMIN, limits=limits)


def test_64_racing_promoters_leave_one_production_and_a_linear_history(urls: tuple[str, str]) -> None:
    """In each of 50 rounds all promoters, on two servers, have seen the same generation; exactly one of them wins."""
    witness = Witness(urls[0])
    with (
        many_connections(urls[0]) as api,
        many_connections(urls[1]) as other,
        ThreadPoolExecutor(PROMOTERS) as pool,
    ):
        for number in range(PROMOTERS):
            publish(api, "race", {"m": b"%d" % number})
        witness.start()

        def attempt(number: int, generation: int) -> int:
            answer = promote((api, other)[number % 2], "race", number, expected_generation=generation)
            return int(answer.status_code)

        winners = []
        for generation in range(ROUNDS):
            holder = winners[-1] if winners else None
            racers = [n for n in range(1, PROMOTERS + 1) if n != holder]
            statuses = list(pool.map(lambda n, g=generation: (n, attempt(n, g)), racers))
            assert Counter(status for _, status in statuses) == {200: 1, 409: len(racers) - 1}
            winners.append(next(n for n, status in statuses if status == 200))
        witness.stop()
        moves = api.get("/api/v1/models/race/history?pointer=production&limit=1000").json()["items"][::-1]
    assert [move["generation"] for move in moves] == list(range(1, ROUNDS + 1))
    assert [move["to"] for move in moves] == winners
    assert [move["from"] for move in moves] == [None, *winners[:-1]]
    assert [m["previous_digest"] for m in moves[1:]] == [m["digest"] for m in moves[:-1]]
    assert witness.reads > ROUNDS
    assert witness.surprises == []


def test_64_promoters_without_a_generation_all_succeed_one_after_the_other(urls: tuple[str, str]) -> None:
    with (
        many_connections(urls[0]) as api,
        many_connections(urls[1]) as other,
        ThreadPoolExecutor(PROMOTERS) as pool,
    ):
        for number in range(PROMOTERS):
            publish(api, "queue", {"m": b"%d" % number})
        answers = list(pool.map(lambda n: promote((api, other)[n % 2], "queue", n), range(1, PROMOTERS + 1)))
        assert {answer.status_code for answer in answers} == {200}
        moves = api.get("/api/v1/models/queue/history?limit=1000").json()["items"][::-1]
        stages = Counter(v["stage"] for v in api.get("/api/v1/models/queue/versions").json()["items"])
    assert [move["from"] for move in moves] == [None, *(move["to"] for move in moves[:-1])]
    assert stages == {"production": 1, "archived": PROMOTERS - 1}


def test_200_concurrent_creations_are_numbered_1_to_200(urls: tuple[str, str]) -> None:
    files = {"m": b"the same bytes for all, so that the numbers are what they race for"}

    def create_one(number: int) -> Any:
        server = (api, other)[number % 2]
        upload = begin(server, "many", files)
        send(server, upload, files)
        return create(server, "many", upload, files)

    with many_connections(urls[0]) as api, many_connections(urls[1]) as other, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(create_one, range(CREATIONS)))
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(answer.json()["number"] for answer in answers) == list(range(1, CREATIONS + 1))
