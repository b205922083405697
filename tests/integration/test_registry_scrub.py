"""Bytes that rot are found, told, kept out of production, and repaired by publishing the same files again."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import fsck, scrub, sweep
from registry.app import create_app
from registry.database import Database
from registry.scrub import Rules, Scrubbed, TooMuchDamage
from registry.settings import Settings
from registry.tables import BlobRow, ContentRow
from storage.errors import StoreUnavailable
from tests.servers.app import ADMIN, BASE, assert_problem, begin, create, digest_of, listing, promote, publish

FILES = {"a": b"sound bytes", "b": b"other bytes"}
APPLY = Rules(apply=True)


@pytest.fixture(params=["memory", "disk"])
def settings(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Settings:
    url = "memory://" if request.param == "memory" else (tmp_path / "blobs").as_uri()
    return Settings(home=tmp_path / "home", database_url=database_url, storage_url=url)


def key_of(app: FastAPI, content: bytes) -> str:
    with app.state.database.read() as session:
        live = BlobRow.digest == digest_of(content), BlobRow.state == "live", ~BlobRow.damaged
        return str(session.scalars(sa.select(BlobRow.key).where(*live)).one())


def replace(app: FastAPI, key: str, content: bytes | None) -> None:
    """Change an object behind the registry's back."""
    app.state.store.delete(key)
    if content is not None:
        app.state.store.put(key, io.BytesIO(content), size=len(content))


def scrubbed(app: FastAPI, rules: Rules = APPLY) -> Scrubbed:
    return scrub.scrub(app.state.database, app.state.store, rules)


def damaged(api: TestClient, number: int = 1) -> bool:
    return bool(api.get(f"/api/v1/models/fraud/versions/{number}").json()["damaged"])


def kinds(api: TestClient) -> list[str]:
    return [event["kind"] for event in api.get("/api/v1/events?since=0&wait=0").json()["events"]]


def test_sound_bytes_are_sound(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud", FILES)
    assert scrubbed(app) == Scrubbed(blobs=2, contents=2, bytes=22)
    assert kinds(api) == ["version.created"]


@pytest.mark.parametrize("found", [b"wrong bytes", b"short", b"sound bytes and more", None])
def test_damage_is_found_told_and_repaired(api: TestClient, app: FastAPI, found: bytes | None) -> None:
    publish(api, "fraud", FILES)
    publish(api, "fraud", {"b": FILES["b"]})
    replace(app, key_of(app, FILES["a"]), found)
    dry = scrubbed(app, Rules())
    assert (dry.damaged, dry.sound, damaged(api)) == (2, False, False)
    told = scrubbed(app)
    assert (told.damaged, told.versions) == (2, ("fraud/1",))
    assert (damaged(api, 1), damaged(api, 2)) == (True, False)
    assert_problem(promote(api, "fraud", 1), 409, "version_damaged")
    assert promote(api, "fraud", 2).status_code == 200
    assert kinds(api).count("version.damaged") == 1
    assert scrubbed(app).damaged == 2
    assert kinds(api).count("version.damaged") == 1
    assert publish(api, "fraud", FILES)["number"] == 3
    assert (damaged(api, 1), damaged(api, 3)) == (False, False)
    assert promote(api, "fraud", 1).status_code == 200
    assert api.get("/api/v1/models/fraud/versions/1/files/a").content == FILES["a"]
    assert scrubbed(app).sound
    swept = sweep.sweep(app.state.database, app.state.store, sweep.Rules(0, 0, 1))
    assert swept.dropped == 1
    assert fsck.fsck(app.state.settings.database_url, app.state.store, deep=True) == []


def test_bytes_that_are_put_back_heal(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud", FILES)
    key = key_of(app, FILES["a"])
    replace(app, key, b"wrong bytes")
    scrubbed(app)
    replace(app, key, FILES["a"])
    assert scrubbed(app, Rules()).healed == 2
    assert damaged(api)
    assert scrubbed(app).healed == 2
    assert not damaged(api)
    assert promote(api, "fraud", 1).status_code == 200
    assert kinds(api)[1:3] == ["version.damaged", "version.verified"]


def pack(api: TestClient, files: dict[str, bytes]) -> None:
    """Publish all files as stretches of one blob."""
    packed = b"".join(files.values())
    upload = api.post("/api/v1/models/fraud/uploads", json={"files": listing(files), "packed": True}).json()
    blob = {"digest": digest_of(packed), "size": len(packed)}
    needs = api.post(f"/api/v1/uploads/{upload['id']}/blobs", json={"blobs": [blob]}).json()["needs"]
    api.put(needs[0]["url"], content=packed).raise_for_status()
    at, placed = 0, []
    for file in listing(files):
        placed.append({**file, "segments": [[0, at, file["size"]]]})
        at += file["size"]
    body = {"upload": upload["id"], "files": placed, "blobs": [digest_of(packed)], "format": "files"}
    answer = api.post("/api/v1/models/fraud/versions", json=body)
    assert answer.status_code == 201, answer.text


def test_all_files_of_a_damaged_pack_are_damaged(api: TestClient, app: FastAPI) -> None:
    pack(api, FILES)
    assert scrubbed(app) == Scrubbed(blobs=1, contents=2, bytes=22)
    replace(app, key_of(app, b"".join(FILES.values())), b"sound bytesOTHER bytes")
    assert scrubbed(app).damaged == 3
    assert publish(api, "fraud", FILES)["number"] == 2
    assert not damaged(api)
    assert scrubbed(app).sound


def test_a_layout_that_gives_other_bytes_is_damage(api: TestClient, app: FastAPI, database: Database) -> None:
    """Sound blobs, wrongly put together: found by reading contents, too."""
    pack(api, FILES)
    with database.write() as session:
        session.execute(sa.update(ContentRow).values(damaged=True))
    with database.write() as session:
        content = session.scalars(sa.select(ContentRow).order_by(ContentRow.id)).first()
        assert content is not None
        [[blob, _, length]] = content.layout["segments"]
        content.layout = {"layout": 1, "segments": [[blob, 1, length]]}
    with database.write() as session:
        session.execute(sa.update(ContentRow).values(damaged=False))
    assert scrubbed(app).damaged == 1
    assert damaged(api)


def test_what_was_found_sound_lately_is_not_read_again(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud", FILES)
    begin(api, "fraud", {"n": b"on its way"})
    scrubbed(app)
    assert scrubbed(app, Rules(apply=True, older_than_s=3600)) == Scrubbed()
    assert scrubbed(app).blobs == 2


def test_a_store_that_does_not_answer_is_no_damage(
    api: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(api, "fraud", FILES)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(type(app.state.store), "open", fail)
        found = scrubbed(app)
    assert (found.unreadable, found.damaged, found.sound) == (4, 0, False)
    assert not damaged(api)


def test_a_store_that_is_not_mounted_does_not_damage_everything(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud", {f"f{n}": b"%d" % n for n in range(40)})
    for stat in list(app.state.store.iterate()):
        app.state.store.delete(stat.key)
    with pytest.raises(TooMuchDamage, match="mounted"):
        scrubbed(app)
    with app.state.database.read() as session:
        marked = session.scalar(sa.select(sa.func.count()).where(BlobRow.damaged))
    assert marked == 0
    assert scrubbed(app, Rules(apply=True, force=True)).damaged == 80


def test_bytes_that_vanished_are_asked_for_again(api: TestClient, app: FastAPI) -> None:
    """Without any scrub: who offers the same files finds out, and repairs."""
    publish(api, "fraud", FILES)
    replace(app, key_of(app, FILES["a"]), None)
    upload = begin(api, "fraud", FILES)
    assert [need["digest"] for need in upload["needs"]] == [digest_of(FILES["a"])]
    api.put(upload["needs"][0]["url"], content=FILES["a"]).raise_for_status()
    assert create(api, "fraud", upload, FILES).status_code == 201


def test_the_command_exits_with_1_on_damage(database_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=database_url, storage_url=(tmp_path / "blobs").as_uri())
    environment = os.environ | {
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_REGISTRY_DATABASE_URL": database_url,
        "MODELYARD_REGISTRY_STORAGE_URL": settings.storage_url,
    }

    def command(*argv: str) -> "subprocess.CompletedProcess[str]":
        argv = (sys.executable, "-m", "registry.cli", "scrub", *argv)
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    app = create_app(settings)
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish(api, "fraud", FILES)
        clean = command("--json")
        assert (clean.returncode, json.loads(clean.stdout)["damaged"]) == (0, 0), clean.stderr
        replace(app, key_of(app, FILES["a"]), b"wrong bytes")
        found = command("--apply")
        assert found.returncode == 1
        assert "fraud/1" in found.stdout
        assert "does not have its digest" in found.stderr
        assert damaged(api)
