"""A checker that cannot fail proves nothing: each kind of damage is made, behind the registry's back, and found."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry.app import create_app
from registry.database import Database
from registry.fsck import Problem, _snapshot, fsck
from registry.settings import Settings
from registry.sweep import Rules, sweep
from storage.layout import trial_key
from tests.servers.app import ADMIN, BASE, KINDS, NewDatabase, begin, copy_database, promote, publish

ZERO = "sha256:" + "0" * 64


@pytest.fixture(scope="module", params=KINDS)
def template(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Two versions, one purged one, an upload under way, and a history of three moves. Not to be changed."""
    home = tmp_path_factory.mktemp("filled")
    settings = Settings(
        home=home, database_url=new_database(request.param, home), storage_url=(home / "blobs").as_uri()
    )
    app = create_app(settings)
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish(api, "fraud", {"a": b"1", "b": b"22", "größe": b"", "c/d": b"1"})
        publish(api, "fraud", {"a": b"1", "m": b"333"})
        publish(api, "fraud", {"m": b"purged"})
        for number in (1, 2, 1):
            promote(api, "fraud", number)
        promote(api, "fraud", 2, "champion", reason="größer")
        api.delete("/api/v1/models/fraud/versions/3")
        sweep(app.state.database, app.state.store, Rules(0, 0, 1))
        begin(api, "fraud", {"n": b"on its way"})
    return settings


@pytest.fixture
def database_url(template: Settings, tmp_path: Path) -> str:
    return copy_database(template.database_url, tmp_path)


@pytest.fixture
def settings(template: Settings, database_url: str, tmp_path: Path) -> Settings:
    blobs = shutil.copytree(template.home / "blobs", tmp_path / "blobs")
    return Settings(home=tmp_path, database_url=database_url, storage_url=blobs.as_uri())


@pytest.fixture
def filled(app: FastAPI) -> FastAPI:
    """On a copy of the template."""
    return app


def problems(app: FastAPI, *, deep: bool = False) -> list[Problem]:
    return fsck(app.state.settings.database_url, app.state.store, deep=deep)


def vandalize(database: Database, *statements: str) -> None:
    """Change rows as no constraint or trigger allows."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            for trigger in connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).all():
                connection.exec_driver_sql(f"DROP TRIGGER {trigger[0]}")
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql("SET session_replication_role = replica")
        for statement in statements:
            changed = connection.execute(sa.text(statement))
            assert changed.rowcount > 0, statement
        connection.commit()
        connection.invalidate()


def test_what_is_right_is_clean(filled: FastAPI) -> None:
    assert problems(filled, deep=True) == []


ROWS: dict[str, tuple[str, str]] = {
    "a file without a content": ("files", "UPDATE files SET content_id = 999 WHERE path = 'b'"),
    "a file of another digest": ("files", f"UPDATE files SET digest = '{ZERO}' WHERE path = 'b'"),
    "a file too few": ("manifests", "DELETE FROM files WHERE path = 'größe'"),
    "a file of another name": ("manifests", "UPDATE files SET path = 'z' WHERE path = 'b'"),
    "another manifest digest": (
        "manifests",
        f"UPDATE versions SET manifest_digest = '{ZERO}' WHERE number = 3",
    ),
    "a layout of tomorrow": (
        "layouts",
        """UPDATE contents SET layout = '{"layout"\\: 2, "segments"\\: []}' WHERE id = 1""",
    ),
    "a layout that is none": ("layouts", "UPDATE contents SET layout = '[]' WHERE id = 1"),
    "a layout of nothing": (
        "layouts",
        """UPDATE contents SET layout = '{"layout"\\: 1, "segments"\\: []}' WHERE size = 2""",
    ),
    "a segment beyond its blob": (
        "layouts",
        """UPDATE contents SET layout = '{"layout"\\: 1, "segments"\\: [[1, 5, 2]]}' WHERE size = 2""",
    ),
    "a segment of no blob": (
        "layouts",
        """UPDATE contents SET layout = '{"layout"\\: 1, "segments"\\: [[999, 0, 2]]}' WHERE size = 2""",
    ),
    "a content bound to too little": (
        "layouts",
        "DELETE FROM content_blobs WHERE content_id = (SELECT id FROM contents WHERE size = 3)",
    ),
    "a content bound to too much": (
        "layouts",
        "INSERT INTO content_blobs SELECT c.id, b.id FROM contents c, blobs b WHERE c.size = 2 AND b.size = 3",
    ),
    "a needed blob that is condemned": (
        "objects",
        "UPDATE blobs SET state = 'condemned', condemned_at = created_at WHERE size = 3",
    ),
    "a live key in the trash": (
        "trash",
        "INSERT INTO trash (key, not_before) SELECT key, created_at FROM blobs WHERE size = 3",
    ),
    "an expected key that is nowhere": ("trash", "DELETE FROM trash"),
    "a damaged content": ("damaged", "UPDATE contents SET damaged = true WHERE size = 3"),
    "a damaged blob": ("damaged", "UPDATE blobs SET damaged = true WHERE size = 3"),
    "a number that is missing": ("numbers", "DELETE FROM versions WHERE number = 2"),
    "a counter too high": ("numbers", "UPDATE models SET next_number = 9"),
    "a counter too low": ("numbers", "UPDATE models SET next_number = 3"),
    "a pointer to a deleted version": ("pointers", "UPDATE pointers SET number = 3 WHERE name = 'champion'"),
    "a pointer that nothing moved": ("history", "UPDATE pointers SET number = 2 WHERE name = 'production'"),
    "a move that is changed": ("history", "UPDATE moves SET actor = 'nobody' WHERE generation = 2"),
    "a reason that is changed": ("history", "UPDATE moves SET reason = 'x' WHERE pointer = 'champion'"),
    "a time that is changed": (
        "history",
        "UPDATE moves SET at = (SELECT created_at FROM models LIMIT 1) WHERE generation = 2",
    ),
    "a move that is missing": ("history", "DELETE FROM moves WHERE generation = 2"),
    "the last moves missing": (
        "history",
        "DELETE FROM moves WHERE pointer = 'production' AND generation = 3",
    ),
    "a chain that is cut": ("history", "UPDATE moves SET previous_digest = digest WHERE generation = 3"),
    "moves of nothing": ("history", "DELETE FROM pointers WHERE name = 'champion'"),
    "a blob of another digest": ("bytes", f"UPDATE blobs SET digest = '{ZERO}' WHERE size = 3"),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_are_wrong_are_found(filled: FastAPI, database: Database, what: str) -> None:
    check, statement = ROWS[what]
    vandalize(database, statement)
    found = problems(filled, deep=True)
    assert check in {problem.check for problem in found}, found


def one_key(app: FastAPI) -> str:
    return str(next(stat.key for stat in app.state.store.iterate() if stat.size == 3))


def put(app: FastAPI, key: str, content: bytes) -> None:
    app.state.store.put(key, io.BytesIO(content), size=len(content))


OBJECTS: dict[str, tuple[str, Callable[[FastAPI, str], None]]] = {
    "missing": ("objects", lambda app, key: app.state.store.delete(key)),
    "too long": ("objects", lambda app, key: (app.state.store.delete(key), put(app, key, b"3333"))[1]),
    "changed": ("bytes", lambda app, key: (app.state.store.delete(key), put(app, key, b"334"))[1]),
    "unknown": ("leaks", lambda app, _: put(app, "sha256/00/unknown", b"x")),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_objects_that_are_wrong_are_found(filled: FastAPI, what: str) -> None:
    check, change = OBJECTS[what]
    change(filled, one_key(filled))
    assert check in {problem.check for problem in problems(filled, deep=True)}
    assert bool(problems(filled)) == (what != "changed")


def test_what_a_trial_of_the_store_left_is_nobodys_loss(filled: FastAPI) -> None:
    put(filled, trial_key(), b"x")
    assert problems(filled) == []


def test_only_looks(filled: FastAPI) -> None:
    """Not even the connection could write."""
    with _snapshot(filled.state.settings.database_url) as rows, pytest.raises(sa.exc.DBAPIError):
        rows("UPDATE models SET next_number = 7 RETURNING id")


def test_an_upload_that_begins_meanwhile_is_no_leak(
    filled: FastAPI, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled.state.store
    original = store.iterate

    def iterate_later(*given: str) -> object:
        monkeypatch.setattr(store, "iterate", original)
        publish(api, "fraud", {"late": b"late"})
        return original(*given)

    monkeypatch.setattr(store, "iterate", iterate_later)
    assert problems(filled) == []
    assert api.get("/api/v1/models/fraud/versions/4").status_code == 200


def test_the_command_says_clean_or_exits_with_1(filled: FastAPI, settings: Settings) -> None:
    environment = os.environ | {
        "MODELYARD_HOME": str(settings.home),
        "MODELYARD_REGISTRY_DATABASE_URL": settings.database_url,
        "MODELYARD_REGISTRY_STORAGE_URL": settings.storage_url,
    }

    def command(*argv: str) -> "subprocess.CompletedProcess[str]":
        argv = (sys.executable, "-m", "registry.cli", "fsck", *argv)
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    clean = command("--deep")
    assert (clean.returncode, clean.stdout) == (0, "clean\n"), clean.stderr
    filled.state.store.delete(one_key(filled))
    found = command("--json")
    assert found.returncode == 1
    [problem] = json.loads(found.stdout)["problems"]
    assert (problem["check"], problem["detail"]) == ("objects", "is not in the store")
