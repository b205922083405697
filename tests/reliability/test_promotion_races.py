"""Promoters, approvers and rollbacks at once, against two server processes that share a database of each kind.

At every read one production; a linear history; and each move to production by approvals of its own. MODELYARD_RACE_ROUNDS
says how many rounds; CI has a few.
"""

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.integration.test_registry_access import People
from tests.integration.test_registry_policy import edge, rule
from tests.reliability.test_registry_races import many_connections, urls  # noqa: F401 - a fixture
from tests.reliability.witness import Witness
from tests.servers.app import publish

CALLERS = 64
ROUNDS = int(os.environ.get("MODELYARD_RACE_ROUNDS", "4"))
VERSIONS, NEEDED = 8, 2
MODEL = "/api/v1/models/race"
EXPECTED = {200, 202, 409}
"""409: somebody was faster."""


@pytest.mark.timeout(3600)
def test_one_production_a_linear_history_and_no_approval_used_twice(urls: tuple[str, str]) -> None:  # noqa: F811
    with (
        many_connections(urls[0]) as one,
        many_connections(urls[1]) as two,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        crowd = _Crowd(one, two)
        witness = Witness(urls[1])
        witness.start()
        for _ in range(ROUNDS):
            statuses = Counter(pool.map(crowd.act, range(CALLERS)))
            assert set(statuses) <= EXPECTED, statuses
            crowd.finish_something()
        witness.stop()
        assert witness.surprises == []
        assert witness.reads > ROUNDS
        moves = _all(one, f"{MODEL}/history?pointer=production")[::-1]
        requests = _all(one, f"{MODEL}/requests")
        decisions = [each for each in _all(one, f"{MODEL}/decisions") if each["outcome"] == "done"]
    _require_linear(moves)
    _require_approvals_of_their_own(moves, requests, decisions)


class _Crowd:
    """Each of them asks, approves or rolls back, as it happens, on one server or the other."""

    def __init__(self, *servers: httpx2.Client) -> None:
        self._servers = servers
        people = People(servers[0])  # type: ignore[arg-type]  # it asks as TestClient does
        self._people = [people.robot(f"p{number}", "promoter") for number in range(CALLERS)]
        for number in range(VERSIONS):
            publish(servers[0], "race", {"m": b"%d" % number})
        answer = rule(servers[0], "race", edge("*", "production", {"kind": "digests"}, approvals=NEEDED))
        assert answer.status_code == 200, answer.text

    def act(self, caller: int) -> int:
        chance = random.Random()  # noqa: S311 - no secret
        server, headers = self._servers[caller % 2], self._people[caller]
        what = chance.random()
        if what < 0.3:
            number = chance.randint(1, VERSIONS)
            return _status(server, f"{MODEL}/promotions", {"number": number, "to": "production"}, headers)
        if what < 0.4:
            return _status(server, f"{MODEL}/rollbacks", {"pointer": "production"}, headers, {404})
        open_ = server.get(f"{MODEL}/requests?state=open&limit=20").json()["items"]
        if not open_:
            return 200
        request = chance.choice(open_)["id"]
        # Who has asked for it may not: 403, which is as it should be.
        return _status(server, f"{MODEL}/requests/{request}/approve", {}, headers, {403})

    def finish_something(self) -> None:
        """So that each round moves the pointer, however the crowd got into its own way."""
        server, people = self._servers[0], self._people
        now = server.get(f"{MODEL}/pointers/production")
        held = now.json()["number"] if now.status_code == 200 else None
        wanted = next(number for number in range(1, VERSIONS + 1) if number != held)
        asked = server.post(
            f"{MODEL}/promotions", json={"number": wanted, "to": "production"}, headers=people[0]
        ).json()["request"]
        for headers in people[1:]:
            body = server.post(f"{MODEL}/requests/{asked}/approve", json={}, headers=headers).json()
            if body.get("state") == "done":
                return
        raise AssertionError(body)


def _status(
    server: httpx2.Client,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str],
    fine: frozenset[int] | set[int] = frozenset(),
) -> int:
    status = server.post(path, json=body, headers=headers).status_code
    return 200 if status in fine else status


def _all(server: httpx2.Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = server.get(path, params={"limit": 1000} | ({"after": after} if after else {})).json()
        found += page["items"]
        if (after := page["next"]) is None:
            return found


def _require_linear(moves: list[dict[str, Any]]) -> None:
    assert [move["generation"] for move in moves] == list(range(1, len(moves) + 1))
    assert [move["from"] for move in moves] == [None, *(move["to"] for move in moves[:-1])]
    assert [move["previous_digest"] for move in moves[1:]] == [move["digest"] for move in moves[:-1]]
    assert len(moves) >= ROUNDS


def _require_approvals_of_their_own(
    moves: list[dict[str, Any]], requests: list[dict[str, Any]], decisions: list[dict[str, Any]]
) -> None:
    """Each promotion is of one request, which had its approvals before; each request moved the pointer at most once."""
    promoted = {move["generation"]: move for move in moves if move["kind"] == "promote"}
    done = {each["generation"] + 1: each for each in requests if each["state"] == "done"}
    grounds = {each["generation"] + 1: each for each in decisions}
    assert promoted.keys() == done.keys() == grounds.keys()
    assert len(decisions) == len(promoted) == sum(each["state"] == "done" for each in requests)
    for generation, move in promoted.items():
        request = done[generation]
        approvers = {entry["author"] for entry in request["entries"] if entry["kind"] == "approved"}
        assert len(approvers) == NEEDED
        assert request["requested_by"] not in approvers
        assert (move["to"], move["actor"] in approvers) == (request["number"], True)
        assert (grounds[generation]["request"], set(grounds[generation]["approved_by"])) == (
            request["id"],
            approvers,
        )
