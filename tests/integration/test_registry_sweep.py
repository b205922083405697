"""The sweep gives back what nothing needs, and nothing else: one step at a time, in races, and when it is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import failpoints, fsck, migrate, publish, sweep, unneeded
from registry.app import create_app
from registry.background import Background
from registry.database import Database, utc_now
from registry.seal import make_live
from registry.settings import Settings
from registry.sweep import Implausible, Rules, Swept, sweep_in_background
from registry.tables import BlobRow, ContentRow, LeaseRow, TrashRow, UploadRow
from storage.errors import StoreUnavailable
from tests.reliability.dying import sweep_and_die
from tests.servers.app import ADMIN, BASE, assert_problem, begin, create, digest_of, send
from tests.servers.app import publish as publish_version
from tests.servers.postgres import Postgres
from tests.servers.s3 import S3Server

NOW = Rules(restore_window_s=0, grace_s=0, max_share=1)
FILES = {"m": b"needed"}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home", database_url=database_url, storage_url=(tmp_path / "blobs").as_uri()
    )


def keys(app: FastAPI) -> set[str]:
    return {stat.key for stat in app.state.store.iterate()}


def swept(app: FastAPI, rules: Rules = NOW) -> Swept:
    return sweep.sweep(app.state.database, app.state.store, rules)


def delete(api: Any, model: str, number: int) -> None:
    assert api.delete(f"/api/v1/models/{model}/versions/{number}").status_code == 200


def expire(database: Database, **table: Any) -> None:
    """Let all uploads, and with trash=True all keys in the trash, be over."""
    past = sa.select(utc_now()).scalar_subquery()
    with database.write() as session:
        session.execute(sa.update(UploadRow).values(expires_at=past))
        if table.get("trash"):
            session.execute(sa.update(TrashRow).values(not_before=past))


def states(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(sa.select(BlobRow.state).order_by(BlobRow.id)))


def rows(database: Database, table: type) -> int:
    with database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Run something, once, when a failpoint is reached."""

    def once(name: str, action: Callable[[], object]) -> None:
        def act() -> None:
            monkeypatch.delitem(failpoints.ACTIONS, name)
            action()

        monkeypatch.setitem(failpoints.ACTIONS, name, act)

    return once


def test_what_is_in_use_stays(api: TestClient, app: FastAPI, database: Database) -> None:
    publish_version(api, "fraud", FILES)
    begin(api, "fraud", {"n": b"on its way"})
    before = keys(app)
    assert swept(app) == Swept()
    assert keys(app) == before
    assert states(database) == ["live", "expected"]


def test_a_deleted_version_gives_its_bytes_back_after_window_and_grace(
    api: TestClient, app: FastAPI, database: Database
) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    assert swept(app, Rules(3600, 0, 1)) == Swept()
    assert swept(app, Rules(0, 3600, 1)) == Swept(purged=1, unbound=1, condemned=1)
    assert swept(app, Rules(0, 3600, 1)) == Swept()
    assert len(keys(app)) == 1
    assert swept(app) == Swept(dropped=1, deleted=1)
    assert keys(app) == set()
    # In the trash: the key of the ticket, as the bytes came through the registry, under another one.
    assert (rows(database, BlobRow), rows(database, TrashRow), rows(database, ContentRow)) == (0, 1, 1)
    assert publish_version(api, "fraud", FILES)["number"] == 2
    assert api.get("/api/v1/models/fraud/versions/2/files/m").content == b"needed"


def test_the_trash_keeps_its_keys_for_the_grace_time(
    api: TestClient, app: FastAPI, database: Database
) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    swept(app, Rules(0, 3600, 1))
    with database.write() as session:
        session.execute(sa.update(BlobRow).values(condemned_at=datetime.now(UTC) - timedelta(hours=2)))
    assert swept(app, Rules(0, 3600, 1)) == Swept(dropped=1)
    assert len(keys(app)) == 1
    expire(database, trash=True)
    assert swept(app, Rules(0, 3600, 1)) == Swept(deleted=2)  # and the key of the ticket
    assert keys(app) == set()


def test_bytes_that_another_version_has_too_stay(api: TestClient, app: FastAPI) -> None:
    publish_version(api, "fraud", {"a": b"shared", "b": b"own"})
    publish_version(api, "fraud", {"a": b"shared"})
    delete(api, "fraud", 1)
    assert swept(app).deleted == 1
    assert api.get("/api/v1/models/fraud/versions/2/files/a").content == b"shared"


def test_an_expired_upload_leaves_nothing(api: TestClient, app: FastAPI, database: Database) -> None:
    upload = begin(api, "fraud", {"a": b"arrived", "b": b"never"})
    half = {**upload, "needs": [need for need in upload["needs"] if need["digest"] == digest_of(b"arrived")]}
    send(api, half, {"a": b"arrived"})
    expire(database)
    assert swept(app) == Swept(leases=2, expected=1, condemned=1, dropped=1, deleted=1)
    assert (keys(app), rows(database, LeaseRow), rows(database, BlobRow)) == (set(), 0, 0)
    expire(database, trash=True)
    swept(app)
    assert rows(database, TrashRow) == 0


def test_a_lease_keeps_bytes_whose_last_version_is_purged(api: TestClient, app: FastAPI) -> None:
    publish_version(api, "fraud", FILES)
    upload = begin(api, "fraud", {**FILES, "n": b"new"})
    assert [need["digest"] for need in upload["needs"]] == [digest_of(b"new")]
    delete(api, "fraud", 1)
    for _ in range(2):
        assert swept(app).dropped == 0
    send(api, upload, {"n": b"new"})
    assert create(api, "fraud", upload, {**FILES, "n": b"new"}).status_code == 201
    swept(app)
    assert api.get("/api/v1/models/fraud/versions/2/files/m").content == b"needed"


def test_an_upload_that_begins_while_its_bytes_are_being_condemned_keeps_them(
    api: TestClient, app: FastAPI, database: Database, at: Callable[..., None]
) -> None:
    """The lease is granted after the sweep has looked, and before it acts."""
    content = publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    api.post("/api/v1/models/fraud/versions/1/restore")
    with database.write() as session:
        session.execute(
            sa.text(
                "INSERT INTO uploads (id, model, created_by, expires_at) SELECT 'late', model, created_by,"
                " expires_at FROM uploads LIMIT 1"
            )
        )
    delete(api, "fraud", 1)

    def lease() -> None:
        with database.write() as session:
            session.execute(sa.text("INSERT INTO leases (upload_id, blob_id) SELECT 'late', id FROM blobs"))

    at("sweep.before_condemn", lease)
    assert swept(app).condemned == 0
    assert states(database) == ["live"]
    assert content["number"] == 1


def test_condemned_bytes_that_are_needed_again_are_not_dropped(
    api: TestClient, app: FastAPI, database: Database, at: Callable[..., None]
) -> None:
    """Somebody takes a lease between the sweep's last look and its last step."""
    publish_version(api, "fraud", FILES)
    upload = begin(api, "fraud", {"n": b"other"})
    delete(api, "fraud", 1)
    swept(app, Rules(0, 3600, 1))
    assert states(database) == ["condemned", "expected"]

    def lease() -> None:
        with database.write() as session:
            first = session.scalars(sa.select(BlobRow.id).where(BlobRow.state == "condemned")).one()
            session.add(LeaseRow(upload_id=upload["id"], blob_id=first))

    at("sweep.before_drop", lease)
    assert swept(app).dropped == 0
    assert swept(app).revived == 1
    assert states(database) == ["live", "expected"]
    assert len(keys(app)) == 1


def test_a_restored_version_revives_nothing_it_never_lost(api: TestClient, app: FastAPI) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    swept(app, Rules(3600, 0, 1))
    api.post("/api/v1/models/fraud/versions/1/restore")
    assert swept(app) == Swept()
    assert api.get("/api/v1/models/fraud/versions/1/files/m").content == b"needed"


def test_a_key_is_claimed_before_its_object_is_deleted(
    api: TestClient, app: FastAPI, database: Database, at: Callable[..., None]
) -> None:
    """Bytes that arrive at the last moment are either sealed, and stay, or asked for again: never live and gone."""
    upload = begin(api, "fraud", FILES)
    with database.read() as session:
        key = session.scalars(sa.select(TrashRow.key)).one()
        digest = session.scalars(sa.select(BlobRow.digest)).one()
    app.state.store.put(key, io.BytesIO(b"needed"), size=6)  # as a presigned PUT does
    with database.write() as session:
        session.execute(sa.update(TrashRow).values(not_before=sa.select(utc_now()).scalar_subquery()))
    with database.read() as session:
        blob = session.scalars(sa.select(BlobRow.id).where(BlobRow.digest == digest)).one()
    at("sweep.before_delete", lambda: make_live(database, {blob: key}))
    swept(app)
    assert "live" not in states(database) or key in keys(app)
    send(api, upload, FILES)
    assert create(api, "fraud", upload, FILES).status_code == 201
    assert api.get("/api/v1/models/fraud/versions/1/files/m").content == b"needed"


def test_a_store_that_does_not_delete_is_asked_again(
    api: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    with monkeypatch.context() as broken:

        def fail(*_: Any) -> None:
            raise StoreUnavailable("down")

        broken.setattr(type(app.state.store), "delete", fail)
        assert swept(app).failed == 1
    assert len(keys(app)) == 1
    assert swept(app) == Swept(deleted=1)
    assert keys(app) == set()


def test_the_plan_changes_nothing_and_tells_what_would_go(
    api: TestClient, app: FastAPI, database: Database
) -> None:
    publish_version(api, "fraud", FILES)
    publish_version(api, "fraud", {"n": b"kept"})
    begin(api, "other", {"x": b"expired"})
    expire(database)
    delete(api, "fraud", 1)
    before = states(database), keys(app)
    assert sweep.plan(app.state.database, app.state.store, NOW) == Swept(
        leases=1, expected=1, purged=1, unbound=1, condemned=1
    )
    assert (states(database), keys(app)) == before


def test_an_implausible_share_stops_the_sweep_before_anything_changes(
    api: TestClient, app: FastAPI, database: Database
) -> None:
    publish_version(api, "fraud", {f"f{n}": b"%d" % n for n in range(21)})
    publish_version(api, "fraud", {f"f{n}": b"kept %d" % n for n in range(60)})
    delete(api, "fraud", 1)
    with pytest.raises(Implausible, match="21 of 81"):
        swept(app, Rules(0, 0, 0.2))
    assert states(database) == ["live"] * 81
    assert sweep.plan(app.state.database, app.state.store, Rules(0, 0, 0.2)).condemned == 21
    assert swept(app, Rules(0, 0, 0.2, force=True)).deleted == 21


def test_a_few_blobs_are_always_plausible(api: TestClient, app: FastAPI) -> None:
    publish_version(api, "fraud", {f"f{n}": b"%d" % n for n in range(20)})
    delete(api, "fraud", 1)
    assert swept(app, Rules(0, 0, 0.2)).deleted == 20


def test_orphans_go_when_they_are_old_and_only_when_asked_for(
    api: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_version(api, "fraud", FILES)
    begin(api, "fraud", {"n": b"on its way"})
    arriving = "sha256/00/arriving"  # being received: known to the trash alone
    with app.state.database.write() as session:
        session.add(TrashRow(key=arriving, not_before=datetime.now(UTC) + timedelta(hours=1)))
    app.state.store.put(arriving, io.BytesIO(b"x"), size=1)
    kept = keys(app)
    app.state.store.put("sha256/00/left/behind", io.BytesIO(b"x"), size=1)
    every = Rules(0, 0, 1, orphans=True)
    assert swept(app, every).orphans == 0
    monkeypatch.setattr(unneeded, "ORPHAN_AGE", timedelta(seconds=-60))
    assert swept(app) == Swept()
    assert sweep.plan(app.state.database, app.state.store, every).orphans == 1
    assert swept(app, every) == Swept(orphans=1, deleted=1)
    assert keys(app) == kept


def test_another_database_cannot_empty_the_store(
    app: FastAPI, api: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish_version(api, "fraud", {f"f{n}": b"%d" % n for n in range(21)})
    monkeypatch.setattr(unneeded, "ORPHAN_AGE", timedelta(seconds=-60))
    wrong = Database(f"sqlite:///{tmp_path / 'wrong.db'}")
    migrate.upgrade(wrong)
    with pytest.raises(Implausible, match="right database"):
        sweep.sweep(wrong, app.state.store, Rules(0, 0, 0.2, orphans=True))
    wrong.close()
    assert len(keys(app)) == 21


def test_the_thread_sweeps_and_stops(api: TestClient, app: FastAPI, database: Database) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    gone = threading.Event()
    store = app.state.store
    original = store.delete
    store.delete = lambda key: (original(key), gone.set())

    def work(stopping: threading.Event) -> None:
        sweep_in_background(database, store, NOW, stopping=stopping)

    sweeper = Background("sweeper", work, interval_s=0.01)
    for _ in range(2):  # it may be started again
        sweeper.start()
        assert gone.wait(30)
        sweeper.stop()
    assert keys(app) == set()
    off = Background("sweeper", work, interval_s=0)
    off.start()
    off.stop()


def test_a_slow_sweep_waits_between_batches_and_stops_at_once(
    api: TestClient, app: FastAPI, at: Callable[..., None]
) -> None:
    publish_version(api, "fraud", FILES)
    delete(api, "fraud", 1)
    stopping = threading.Event()
    at("sweep.after_purge", stopping.set)
    done = sweep.sweep(
        app.state.database, app.state.store, Rules(0, 0, 1, max_per_second=0.001), stopping=stopping
    )
    assert done == Swept(purged=1)


def test_a_commit_holds_the_blobs_that_it_builds_on(
    postgres: Postgres, tmp_path: Path, monkeypatch: Any
) -> None:
    """On PostgreSQL, the upload expires and a whole sweep runs between a commit's check and its end."""
    url = postgres.new_database()
    database = Database(url)
    migrate.upgrade(database)
    app = create_app(Settings(home=tmp_path, database_url=url, storage_url="memory://"))
    original = publish._version_row

    def meanwhile(*given: Any) -> Any:
        expire(database)
        swept(app)
        return original(*given)

    monkeypatch.setattr(publish, "_version_row", meanwhile)
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish_version(api, "fraud", FILES)
        swept(app)
        assert api.get("/api/v1/models/fraud/versions/1/files/m").content == b"needed"
    database.close()


def test_a_commit_that_reuses_a_content_finds_out_that_it_was_purged(
    api: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only version that had it goes between the commit's first look and its transaction."""
    publish_version(api, "fraud", FILES)
    upload = begin(api, "fraud", FILES)
    original = publish._place

    def meanwhile(*given: Any) -> Any:
        placed = original(*given)
        gone.append(threading.Thread(target=purge))
        return placed

    def purge() -> None:
        delete(api, "fraud", 1)
        swept(app)

    gone: list[threading.Thread] = []
    verified = publish._verified

    def then(*given: Any) -> Any:
        if gone:
            gone[0].start()
            gone[0].join()
        return verified(*given)

    with monkeypatch.context() as patched:
        patched.setattr(publish, "_place", meanwhile)
        patched.setattr(publish, "_verified", then)
        assert_problem(create(api, "fraud", upload, FILES), 409, "upload_incomplete")
    assert create(api, "fraud", upload, FILES).status_code == 201
    assert swept(app).condemned == 0
    assert api.get("/api/v1/models/fraud/versions/2/files/m").content == b"needed"


# ---------------------------------------------------------------- processes


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A database of each kind, and a folder for blobs, for several processes."""
    urls = {
        "database_url": f"sqlite:///{tmp_path / 'shared.db'}",
        "storage_url": (tmp_path / "blobs").as_uri(),
    }
    if request.param == "postgresql":
        urls["database_url"] = request.getfixturevalue("postgres").new_database()
    return urls


def environment(shared: dict[str, str], home: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "MODELYARD_HOME": str(home),
        "MODELYARD_REGISTRY_DATABASE_URL": shared["database_url"],
        "MODELYARD_REGISTRY_STORAGE_URL": shared["storage_url"],
        "MODELYARD_REGISTRY_RESTORE_WINDOW_S": "0",
        "MODELYARD_REGISTRY_SWEEP_MAX_SHARE": "1",
        **more,
    }


def command(
    shared: dict[str, str], home: Path, *argv: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "registry.cli", *argv],
        env=environment(shared, home, **more),
        capture_output=True,
        text=True,
        check=False,
    )


STEPS_TO_DIE_AT = [
    f"{when}_{step}" for step in ("purge", "unbind", "condemn", "drop") for when in ("before", "after")
]


@pytest.mark.parametrize("step", [*STEPS_TO_DIE_AT, "before_claim", "before_delete", "after_delete"])
def test_a_sweep_that_is_killed_anywhere_is_finished_by_the_next(
    database_url: str, tmp_path: Path, step: str
) -> None:
    shared = {"database_url": database_url, "storage_url": (tmp_path / "blobs").as_uri()}
    app = create_app(Settings(home=tmp_path, **shared))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish_version(api, "fraud", {"a": b"shared", "b": b"own"})
        publish_version(api, "fraud", {"a": b"shared"})
        delete(api, "fraud", 1)
        died = sweep_and_die(database_url, shared["storage_url"], f"sweep.{step}")
        assert died == -signal.SIGKILL
        assert fsck.fsck(database_url, app.state.store, deep=True) == []
        swept(app)
        assert len(keys(app)) == 1
        assert fsck.fsck(database_url, app.state.store, deep=True) == []
        assert api.get("/api/v1/models/fraud/versions/2/files/a").content == b"shared"


def test_the_command_tells_first_and_does_it_when_told(shared: dict[str, str], tmp_path: Path) -> None:
    assert "run `modelyard-registry migrate`" in command(shared, tmp_path, "sweep").stderr
    command(shared, tmp_path, "migrate")
    settings = Settings(home=tmp_path, restore_window_s=0, **shared)
    app = create_app(settings)
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish_version(api, "fraud", FILES)
        delete(api, "fraud", 1)
    told = command(shared, tmp_path, "sweep", "--json")
    assert json.loads(told.stdout)["condemned"] == 1, told.stderr
    assert "Nothing was changed" in command(shared, tmp_path, "sweep").stdout
    done = json.loads(command(shared, tmp_path, "sweep", "--apply", "--json").stdout)
    assert (done["applied"], done["purged"], done["condemned"]) == (True, 1, 1)


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_sweeping_s3(rclone_s3: S3Server, tmp_path: Path, scheme: str) -> None:
    settings = Settings(home=tmp_path, storage_url=rclone_s3.url(rclone_s3.new_bucket(), scheme=scheme))
    database = Database(settings.database_url)
    migrate.upgrade(database)
    app = create_app(settings)

    def publish_direct(api: TestClient, files: dict[str, bytes]) -> None:
        upload = begin(api, "fraud", files)
        with httpx2.Client() as bucket:
            for need in upload["needs"]:
                content = next(c for c in files.values() if digest_of(c) == need["digest"])
                bucket.put(need["url"], content=content, headers=need["headers"]).raise_for_status()
        assert create(api, "fraud", upload, files).status_code == 201

    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish_direct(api, {"a": b"shared", "b": b"own"})
        publish_direct(api, {"a": b"shared"})
        delete(api, "fraud", 1)
        assert swept(app).deleted == 1
        expire(database, trash=True)
        swept(app)
        assert len(keys(app)) == 1
        assert fsck.fsck(settings.database_url, app.state.store, deep=True) == []
        assert api.get("/api/v1/models/fraud/versions/2/files/a").content == b"shared"
    database.close()
