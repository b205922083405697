"""The sweep never removes what is needed while everybody goes on: with 200 ms before each of its steps, and of theirs.

two sweepers     apply, in a loop, hardly any grace
churners         publish the same few contents under their own models, read, delete, restore, delete
readers          what is kept is always there
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import failpoints, sweep
from registry.app import create_app
from registry.settings import Settings
from registry.sweep import Rules
from tests.reliability import checks
from tests.reliability.caller import Caller
from tests.servers.app import ADMIN, BASE

SWEEPS, DELETED = 12, 3
DELAY_S = 0.2
CONTENTS = [b"content %d" % n for n in range(4)]
STEPS = ("purge", "unbind", "condemn", "revive", "drop", "claim", "delete")
THEIRS = ("seal.before_live", "seal.after_live", "commit.before")


@pytest.fixture
def app(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    app = create_app(
        Settings(home=tmp_path, database_url=database_url, storage_url=(tmp_path / "blobs").as_uri())
    )
    for name in [*(f"sweep.before_{step}" for step in STEPS), *THEIRS]:
        monkeypatch.setitem(failpoints.ACTIONS, name, partial(time.sleep, DELAY_S))
    with TestClient(app, base_url=BASE, headers=ADMIN, raise_server_exceptions=False):
        yield app


def test_nothing_that_is_needed_is_swept(app: FastAPI) -> None:
    crowd = _Crowd()
    # longer than a transaction takes, as the sweep asks for; its own steps take longer together
    rules = Rules(restore_window_s=0, grace_s=0.5, max_share=1)
    swept: list[sweep.Swept] = []
    kept = {str(n): content for n, content in enumerate(CONTENTS[:2])}
    Caller(_api(app)).publish("kept", kept)

    def sweeping() -> None:
        swept.append(sweep.sweep(app.state.database, app.state.store, rules))

    def churning(model: str, caller: Caller) -> None:
        first = len(swept) % len(CONTENTS)
        files = {"a": CONTENTS[first], "b": CONTENTS[(first + 1) % len(CONTENTS)]}
        number = caller.publish(model, files)
        caller.download(model, number, files)
        caller.delete(model, number)
        restored = caller.call("POST", f"/models/{model}/versions/{number}/restore", allowed=(200, 409))
        if restored.status_code == 200:  # the sweep had not purged it yet
            caller.download(model, number, files)
            caller.delete(model, number)

    def reading(caller: Caller) -> None:
        caller.download("kept", 1, kept)

    for _ in range(2):
        crowd.start(sweeping)
    for model in ("a", "b", "c"):
        crowd.start(partial(churning, model, Caller(_api(app))))
    crowd.start(partial(reading, Caller(_api(app))))
    crowd.wait_until(lambda: len(swept) >= SWEEPS and sum(each.deleted for each in swept) >= DELETED)
    checks.require_nothing_leaked(app.state.settings.database_url, app.state.store)


def _api(app: FastAPI) -> TestClient:
    """A client of its own for each thread; the application runs already."""
    return TestClient(app, base_url=BASE, headers=ADMIN, raise_server_exceptions=False)


class _Crowd:
    """Threads that each do one thing over and over, until it is enough or one of them fails."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._failures: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def start(self, act: Callable[[], None]) -> None:
        def repeat() -> None:
            while not self._over.is_set():
                try:
                    act()
                except Exception as error:  # noqa: BLE001 - told by wait_until
                    self._failures.append(error)
                    self._over.set()

        thread = threading.Thread(target=repeat)
        self._threads.append(thread)
        thread.start()

    def wait_until(self, enough: Callable[[], bool]) -> None:
        while not enough() and not self._over.wait(0.1):
            pass
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
