"""Repeating is safe: each operation is repeated at random, answers are lost after it took effect, and it happened once."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from registry import migrate, publish
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.reliability import flow
from tests.reliability.caller import AnswerLost, Caller, Violation
from tests.reliability.world import World, opened
from tests.servers.app import ADMIN, BASE, assert_problem, begin, create, digest_of, listing, send
from tests.servers.s3 import S3Server

CALLERS = 50


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(database_url, tmp_path, monkeypatch) as world:
        yield world


class _BadLine:
    """Sends every request one to three times, and loses up to three answers in a row."""

    def __init__(self, api: Any, seed: int) -> None:
        self._api = api
        self._chance = random.Random(seed)  # noqa: S311 - chance, no secret
        self._lost = 0
        self.repeated = self.lost = 0

    def request(self, method: str, path: str, **request: Any) -> Any:
        for _ in range(self._chance.randrange(3)):
            self.repeated += 1
            self._api.request(method, path, **request)
        answer = self._api.request(method, path, **request)
        if self._lost < 3 and self._chance.random() < 0.4:
            self._lost += 1
            self.lost += 1
            raise AnswerLost
        self._lost = 0
        return answer


def test_repeated_operations_take_effect_once(world: World) -> None:
    flow.live(world, "reference")
    reference = world.events("reference")
    for seed in range(5):
        line = _BadLine(world.api, seed)
        world.caller = Caller(line)
        flow.live(world, f"m{seed}")
        assert line.repeated > 10
        assert line.lost > 5
        # delete, restore, delete: a repetition that arrives is one of the same step, for the caller waits
        assert world.events(f"m{seed}") == reference
    world.require_nothing_leaked()


def test_a_registry_that_forgets_what_it_committed_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutation: the check above can fail."""
    monkeypatch.setattr(publish, "_committed", lambda *_: None)
    world.caller = Caller(_BadLine(world.api, 0))
    with pytest.raises(Violation):
        flow.live(world, "m")


def test_50_concurrent_begins_with_one_key_are_one_upload(world: World) -> None:
    body = {"files": listing({"a": b"a"})}
    key = {"Idempotency-Key": "the-same"}

    def begin_once(_: int) -> Any:
        return world.api.post("/api/v1/models/m/uploads", json=body, headers=key)

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(begin_once, range(CALLERS)))
    assert Counter(answer.status_code for answer in answers) == {201: CALLERS}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = {"files": listing({"a": b"b"})}
    answer = world.api.post("/api/v1/models/m/uploads", json=other, headers=key)
    assert_problem(answer, 422, "idempotency_mismatch")
    elsewhere = world.api.post("/api/v1/models/n/uploads", json=body, headers=key)
    assert_problem(elsewhere, 422, "idempotency_mismatch")


def test_concurrent_sends_and_commits_of_one_upload_are_one_version(world: World) -> None:
    files = {"a": b"a", "b": b"b", "c": b"c"}
    upload = begin(world.api, "m", files)
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: send(world.api, upload, files), range(8)))
        answers = list(pool.map(lambda _: create(world.api, "m", upload, files), range(CALLERS)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: CALLERS - 1}
    assert {answer.json()["number"] for answer in answers} == {1}
    world.require_nothing_leaked()


@pytest.mark.parametrize("server", ["rclone_s3", "ceph_s3"])
def test_concurrent_commits_seal_what_is_in_s3_once(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    """Else a commit that is repeated while the first still runs is refused, and its caller makes a second version."""
    store: S3Server = request.getfixturevalue(server)
    settings = Settings(home=tmp_path, storage_url=store.url(store.new_bucket()))
    database = Database(settings.database_url)
    migrate.upgrade(database)
    database.close()
    files = {f"f{n}": b"%d" % n for n in range(6)}
    with (
        TestClient(create_app(settings), base_url=BASE, headers=ADMIN) as api,
        ThreadPoolExecutor(8) as pool,
        httpx2.Client(trust_env=False) as bucket,
    ):
        by_digest = {digest_of(content): content for content in files.values()}
        for round_ in range(4):
            upload = begin(api, "m", files | {"own": b"own %d" % round_})
            by_digest[digest_of(b"own %d" % round_)] = b"own %d" % round_
            for need in upload["needs"]:
                content = by_digest[need["digest"]]
                bucket.put(need["url"], content=content, headers=need["headers"]).raise_for_status()
            together = threading.Barrier(8)

            def commit(
                _: int, upload: Any = upload, own: bytes = b"own %d" % round_, together: Any = together
            ) -> Any:
                together.wait()
                return create(api, "m", upload, files | {"own": own})

            answers = list(pool.map(commit, range(8)))
            assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 7}, answers[0].text
            assert {answer.json()["number"] for answer in answers} == {round_ + 1}
