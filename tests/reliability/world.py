"""An application in the test's process whose database and store can be made to fail, and what must be true of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import identify, sweep, verify
from registry.app import create_app
from registry.database import Database
from registry.errors import DatabaseUnavailable
from registry.http import versions
from registry.settings import Settings
from registry.sweep import Rules
from registry.tables import EventRow
from storage import BlobStore
from storage.errors import StorageError
from tests.reliability import checks
from tests.reliability.caller import ATTEMPTS, Caller, Violation
from tests.reliability.faults import Faults, FaultyStore, break_engine
from tests.servers.app import ADMIN, BASE, create_engine

LARGE = 4096
"""Bytes from which a file counts as large in here: it is verified after its commit, and cut into chunks."""


class World:
    """A registry, its broken lines, and a caller that does not give up."""

    def __init__(self, app: FastAPI, api: TestClient, store: BlobStore, faults: Faults) -> None:
        self.app, self.api, self.faults = app, api, faults
        self.database: Database = app.state.database
        self.store = store
        self.broken_store: Any = app.state.store
        self._failures = 0
        self.caller = Caller(api, on_failure=self.on_failure)

    def on_failure(self) -> None:
        """What fails for good is repaired after a few attempts."""
        self._failures += 1
        if self._failures % 3 == 0:
            self.faults.heal()

    def repeatedly(self, act: Any) -> Any:
        """Do something that no HTTP request does, again until nothing stops it."""
        for _ in range(ATTEMPTS):
            try:
                return act()
            except (StorageError, DatabaseUnavailable):
                self.on_failure()
        raise Violation("it never succeeded")

    def verify(self) -> None:
        while self.repeatedly(lambda: verify.verify_next(self.database, self.broken_store)):
            pass

    def sweep(self, store: Any = None) -> sweep.Swept:
        rules = Rules(restore_window_s=0, grace_s=0, max_share=1)
        found: sweep.Swept = self.repeatedly(
            lambda: sweep.sweep(self.database, store or self.broken_store, rules)
        )
        return found

    def events(self, model: str) -> list[tuple[str, Any, Any]]:
        """What happened to a model, in order: an operation that took effect twice is here twice."""
        with self.database.read() as session:
            found = session.scalars(
                sa.select(EventRow).where(EventRow.model == model).order_by(EventRow.revision)
            )
            return [(e.kind, e.data.get("number"), e.data.get("generation")) for e in found]

    def require_sound(self) -> None:
        """Raises Violation unless fsck finds nothing."""
        checks.require_sound(self.app.state.settings.database_url, self.store)

    def require_nothing_leaked(self) -> None:
        """Raises Violation unless the sweep, once all uploads are over, leaves exactly what versions need."""
        checks.require_nothing_leaked(self.app.state.settings.database_url, self.store)


class _Asleep:
    """Stands in for the verifier's thread: the test verifies when it says so."""

    def wake(self) -> None:
        pass


@contextmanager
def opened(
    database_url: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    storage_url: str = "memory://",
    **more: Any,
) -> Iterator[World]:
    """A world on this database, which has the newest schema."""
    monkeypatch.setattr(sa, "create_engine", create_engine)  # what fails is the engine's dialect
    monkeypatch.setattr(verify, "LARGE", LARGE)
    monkeypatch.setattr(versions, "LARGE", LARGE)
    monkeypatch.setattr(verify, "CLAIM_S", 0)
    monkeypatch.setattr(
        identify, "REMEMBERED_S", 0.0
    )  # each life makes the same calls, and looking up may fail, too
    quiet = {"verify_poll_s": 3600, "sweep_interval_s": 0, "feed_poll_s": 3600, "verify_bytes": LARGE - 1}
    quiet |= {"webhook_poll_s": 0, "audit_checkpoint_s": 0}
    app = create_app(
        Settings(home=home, database_url=database_url, storage_url=storage_url, **{**quiet, **more})
    )
    faults = Faults()
    with TestClient(app, base_url=BASE, headers=ADMIN, raise_server_exceptions=False) as api:
        store = app.state.store
        app.state.store, app.state.verifier = FaultyStore(store, faults), _Asleep()
        break_engine(app.state.database.engine, faults)
        yield World(app, api, store, faults)
