"""Everything is killed at random while many publish; afterwards nothing that was acknowledged is lost or wrong.

    publishers    SDK processes (publisher.py), killed and replaced
    registries    `modelyard-registry serve`, killed and started again at the same address
    store         `rclone serve s3` likewise, where there is one; disk otherwise
    database      PostgreSQL connections are cut; SQLite dies with its process
    witnesses     read acknowledged versions all the while

`crash` is the short form of the tests and the long form of soak.py, with other numbers.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psycopg
import sqlalchemy as sa

from registry.database import Database
from registry.tables import ContentRow
from storage import open_store
from tests.reliability import checks
from tests.reliability.caller import Violation
from tests.servers import rclone
from tests.servers.app import ADMIN
from tests.servers.ports import free_port, wait_for_http, wait_until
from tests.servers.registry import Registry

PACK = 256 << 10
UNREACHABLE = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much: it goes on until there were so many kills and acknowledged commits; `life_s` of a registry at most."""

    publishers: int = 2
    threads: int = 12
    registries: int = 2
    models: int = 3
    witnesses: int = 2
    kills: int = 12
    commits: int = 12
    life_s: float = 4.0
    timeout_s: float = 240.0


@dataclass(slots=True)
class Outcome:
    """What happened."""

    kills: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    versions: int = 0
    reads: int = 0
    refused: int = 0
    seconds: float = 0.0


class Victim(Protocol):
    """A process that can be killed and started again."""

    def start(self) -> object: ...
    def kill(self) -> None: ...


class RcloneStore:
    """`rclone serve s3` at one address; its objects are files, so that they outlive it."""

    def __init__(self, directory: Path, access_key: str, secret_key: str) -> None:
        self._directory = directory
        self._address = f"127.0.0.1:{free_port()}"
        self._keys = f"{access_key},{secret_key}"
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "objects" / "bucket").mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"s3://bucket?endpoint=http://{self._address}&region=us-east-1"

    def start(self) -> None:
        argv = ["serve", "s3", "--addr", self._address, "--auth-key", self._keys]
        self._process = subprocess.Popen(
            [rclone._program(), *argv, str(self._directory / "objects")],
            env=rclone._environment(self._directory),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for_http(f"http://{self._address}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class _Publisher:
    def __init__(self, urls: list[str], notes: Path, plan: Plan) -> None:
        self._argv = [
            *(sys.executable, "-m", "tests.reliability.publisher", ",".join(urls), str(notes)),
            *map(str, (plan.models, plan.threads, PACK)),
        ]
        self._log = notes.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            environment = os.environ | {
                "MODELYARD_HOME": str(self._log.parent),
                "PYTHONPATH": str(Path.cwd()),
            }
            self._process = subprocess.Popen(
                self._argv, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class _Connections:
    """The registries' connections to PostgreSQL: killing means that the server ends them all."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def start(self) -> None:
        pass

    def kill(self) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


class _Registry(Registry):
    """One that is started again when a connection was cut while it was starting."""

    def start(self) -> "_Registry":
        for _ in range(9):
            try:
                super().start()
            except AssertionError:  # it ended by itself, and its log says why
                continue
            else:
                return self
        super().start()
        return self


def crash(
    plan: Plan, home: Path, *, database_url: str, storage_url: str, store: Victim | None = None
) -> Outcome:
    """Run it, and check what is left. Raises Violation."""
    notes, outcome, began = home / "acknowledged", Outcome(), time.monotonic()
    registries = [
        _registry(home / f"registry-{n}", database_url, storage_url) for n in range(plan.registries)
    ]
    urls = [registry.url for registry in registries]
    publishers = [_Publisher(urls, notes, plan) for _ in range(plan.publishers)]
    (home / "scratch").mkdir()
    surprises: list[str] = []
    over = threading.Event()
    with ExitStack() as stack:
        if store is not None:
            stack.callback(store.kill)
            store.start()
        first = registries[0]
        stack.callback(first.kill)
        first.start()  # it brings the schema
        lives: list[tuple[str, Victim, float]] = [
            ("registry", registry, plan.life_s) for registry in registries
        ]
        lives += [("publisher", publisher, 4 * plan.life_s) for publisher in publishers]
        lives += [("store", store, 4 * plan.life_s)] if store is not None else []
        if not database_url.startswith("sqlite"):
            lives += [("connections", _Connections(database_url), 4 * plan.life_s)]
        for _, victim, _ in lives:
            stack.callback(victim.kill)
            if victim is not first and victim is not store:
                victim.start()
        threads = [
            threading.Thread(
                target=_guarded, args=(surprises, _kill_again_and_again, *life, notes, outcome, over)
            )
            for life in lives
        ]
        threads += [
            threading.Thread(
                target=_guarded, args=(surprises, _witness, urls, notes, outcome, over, surprises)
            )
            for _ in range(plan.witnesses)
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(
                lambda: bool(surprises) or _is_enough(plan, outcome, notes),
                timeout_s=plan.timeout_s,
                what="as many kills and commits as planned",
            )
        except TimeoutError as error:
            raise TimeoutError(f"{outcome}, {len(_acknowledged(notes))} commits") from error
        finally:
            over.set()
            for thread in threads:
                thread.join()
            for publisher in publishers:
                publisher.kill()
            shutil.rmtree(home / "scratch")
        outcome.commits = len(_acknowledged(notes))
        outcome.refused = len(_acknowledged(notes.with_suffix(".failed")))
        if surprises:
            raise Violation("\n".join(surprises[:10]))
        for registry in registries:
            registry.kill()
        _release_claims(database_url)
        first.start()
        _require_all_readable(first.url, notes, plan, outcome)
        first.stop()
        opened = open_store(storage_url)
        checks.require_sound(database_url, opened)
        checks.require_nothing_leaked(database_url, opened)
        opened.close()
    outcome.seconds = time.monotonic() - began
    return outcome


def _registry(home: Path, database_url: str, storage_url: str) -> Registry:
    environment = {
        "MODELYARD_TEST_LARGE": str(2 * PACK),
        "MODELYARD_REGISTRY_VERIFY_BYTES": str(PACK),
        "MODELYARD_REGISTRY_VERIFY_POLL_S": "0.5",
        "MODELYARD_REGISTRY_SWEEP_INTERVAL_S": "0.4",
    }
    return _Registry(
        home,
        database_url=database_url,
        storage_url=storage_url,
        environment=environment,
        program="tests.reliability.chaos_server",
    )


def _is_enough(plan: Plan, outcome: Outcome, notes: Path) -> bool:
    return sum(outcome.kills.values()) >= plan.kills and len(_acknowledged(notes)) >= plan.commits


def _guarded(surprises: list[str], act: Callable[..., None], *given: Any) -> None:
    try:
        act(*given)
    except Exception as error:  # noqa: BLE001 - the test tells it
        surprises.append(f"{act.__name__}: {error!r}")


def _kill_again_and_again(
    what: str, victim: Victim, life_s: float, notes: Path, outcome: Outcome, over: threading.Event
) -> None:
    """A machine on which nothing gets done in lives so short has them last longer."""
    done, patience = 0, 1.0
    while not over.wait(random.uniform(0.06, life_s * patience)):  # noqa: S311 - chance, no secret
        victim.kill()
        outcome.kills[what] = outcome.kills.get(what, 0) + 1
        victim.start()
        before, done = done, len(_acknowledged(notes))
        patience = 1.0 if done > before else min(1.5 * patience, 8.0)


def _witness(
    urls: list[str], notes: Path, outcome: Outcome, over: threading.Event, surprises: list[str]
) -> None:
    """What was acknowledged can be read, whole, whenever a registry and its store answer."""
    with httpx2.Client(timeout=20, headers=ADMIN, trust_env=False) as client:
        while not over.is_set():
            known = _acknowledged(notes)
            if not known:
                over.wait(0.05)
                continue
            version = random.choice(known)  # noqa: S311
            path = random.choice(sorted(version["files"]))  # noqa: S311
            url = f"{random.choice(urls)}/api/v1/models/{version['model']}/versions/{version['number']}"  # noqa: S311
            try:
                answer = client.get(f"{url}/files/{path}")
            except httpx2.TransportError:
                over.wait(0.05)
                continue
            if answer.status_code in UNREACHABLE:
                continue
            outcome.reads += 1
            if (
                answer.status_code != 200
                or hashlib.sha256(answer.content).hexdigest() != version["files"][path]
            ):
                surprises.append(f"{url}/files/{path}: {answer.status_code} {answer.content[:300]!r}")


def _acknowledged(notes: Path) -> list[dict[str, Any]]:
    """Whole lines; of the last one a killed publisher may have written a part."""
    lines = notes.read_bytes().splitlines(keepends=True) if notes.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _release_claims(database_url: str) -> None:
    """As if a quarter of an hour had passed: contents that a killed registry was verifying are free again."""
    database = Database(database_url)
    with database.write() as session:
        session.execute(sa.update(ContentRow).values(claimed_until=None))
    database.close()


def _require_all_readable(url: str, notes: Path, plan: Plan, outcome: Outcome) -> None:
    acknowledged = {(v["model"], v["number"]): v for v in _acknowledged(notes)}
    if len(acknowledged) != outcome.commits:
        raise Violation("a number was acknowledged twice")
    with httpx2.Client(base_url=url, timeout=60, headers=ADMIN, trust_env=False) as client:
        for model in (f"m{n}" for n in range(plan.models)):
            wait_until(
                lambda model=model: all(v["verified"] for v in _versions(client, model)),  # type: ignore[misc]
                timeout_s=60,
                what=f"all versions of {model} to be verified",
            )
            versions = {v["number"]: v for v in _versions(client, model)}
            if sorted(versions) != list(range(1, len(versions) + 1)):
                raise Violation(f"{model} has the numbers {sorted(versions)}")
            outcome.versions += len(versions)
            for number, version in versions.items():
                _require_readable(client, model, version, acknowledged.pop((model, number), None))
    if acknowledged:
        raise Violation(f"acknowledged, and lost: {sorted(acknowledged)}")


def _versions(client: httpx2.Client, model: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/models/{model}/versions?limit=1000")
    return list(answer.json()["items"]) if answer.status_code == 200 else []


def _require_readable(
    client: httpx2.Client, model: str, version: Mapping[str, Any], noted: Mapping[str, Any] | None
) -> None:
    version = client.get(f"/api/v1/models/{model}/versions/{version['number']}").json()
    if noted is not None and noted["digest"] != version["digest"]:
        raise Violation(f"{model}/{version['number']} is not what was acknowledged")
    for file in version["files"]:
        content = client.get(
            f"/api/v1/models/{model}/versions/{version['number']}/files/{file['path']}"
        ).content
        digest = hashlib.sha256(content).hexdigest()
        if f"sha256:{digest}" != file["digest"] or (noted and noted["files"][file["path"]] != digest):
            raise Violation(f"{model}/{version['number']}:{file['path']} has other bytes")
