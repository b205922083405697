"""No route changes the bytes behind a version: whoever holds every id, URL and ticket tries all of them with other bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import migrate
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.reliability import checks
from tests.servers.app import ADMIN, BASE, assert_problem, begin, create, digest_of, listing
from tests.servers.app import publish as publish_version

FILES = {"a": b"the right bytes", "b": b"more of them"}
EVIL = b"the wrong bytes"


@pytest.fixture(params=["disk", "rclone", "ceph"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    url = (tmp_path / "blobs").as_uri()
    if request.param != "disk":
        server = request.getfixturevalue(f"{request.param}_s3")
        url = server.url(server.new_bucket())
    settings = Settings(home=tmp_path, storage_url=url, max_stream_s=0)
    database = Database(settings.database_url)
    migrate.upgrade(database)
    database.close()
    return create_app(settings)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE, headers=ADMIN, raise_server_exceptions=False) as client:
        yield client


class _Attacker:
    """Publishes m/1, keeps all that it was ever told, and tries to change what m/1 is."""

    def __init__(self, api: TestClient, bucket: httpx2.Client) -> None:
        self.api, self._bucket = api, bucket
        self.upload = begin(api, "m", FILES)
        by_digest = {digest_of(content): content for content in FILES.values()}
        for need in self.upload["needs"]:
            assert self.put(need, by_digest[need["digest"]]).is_success
        assert create(api, "m", self.upload, FILES).status_code == 201
        self.before = self.look()

    def put(self, need: dict[str, Any], content: bytes) -> Any:
        client: Any = self.api if need["url"].startswith("/") else self._bucket
        headers = {name: value for name, value in need["headers"].items() if name.lower() != "content-length"}
        return client.put(need["url"], content=content, headers=headers)  # as long as the attacker likes

    def look(self) -> Any:
        version = self.api.get("/api/v1/models/m/versions/1").json()
        stage = {"stage", "deleted", "legal_hold"}
        files = {path: self.api.get(f"/api/v1/models/m/versions/1/files/{path}").content for path in FILES}
        downloads = self.api.get("/api/v1/models/m/versions/1/downloads").json()
        fetched = [
            (self.api if d["url"].startswith("/") else self._bucket).get(d["url"]).content
            for d in downloads["files"]
        ]
        return {k: v for k, v in version.items() if k not in stage}, files, fetched


@pytest.fixture
def attacker(api: TestClient) -> Iterator[_Attacker]:
    with httpx2.Client(trust_env=False) as bucket:
        yield _Attacker(api, bucket)


def test_old_tickets_and_uploads_change_nothing(attacker: _Attacker, app: FastAPI) -> None:
    api, upload = attacker.api, attacker.upload
    for need in upload["needs"]:
        for content in (EVIL, EVIL[:12], b"", b"x" * 1000):
            attacker.put(need, content)
            api.put(f"/api/v1/uploads/{upload['id']}/blobs/{need['digest']}", content=content)
            assert attacker.look() == attacker.before
    other = [{"path": "a", "size": 15, "digest": digest_of(EVIL)}]
    blobs = {
        "blobs": [{"digest": digest_of(FILES["a"]), "size": 15}, {"digest": digest_of(EVIL), "size": 15}]
    }
    for need in api.post(f"/api/v1/uploads/{upload['id']}/blobs", json=blobs).json().get("needs", []):
        attacker.put(need, EVIL)
    swapped = [{**file, "segments": [[0, 0, file["size"]]]} for file in listing(FILES)]
    for files in (other, swapped, [*listing(FILES), *other]):
        body = {"upload": upload["id"], "files": files, "blobs": [digest_of(EVIL)], "format": "evil"}
        answer = api.post("/api/v1/models/m/versions", json=body)
        assert answer.status_code in (200, 400, 409), answer.text
        assert attacker.look() == attacker.before
    # the next version of the same bytes builds on what is there, and gets the right ones
    again = begin(api, "m", FILES)
    for need in again["needs"]:
        attacker.put(need, EVIL)
    for need in upload["needs"]:
        attacker.put(need, EVIL)
    assert create(api, "m", again, FILES).status_code == 201
    assert attacker.look() == attacker.before
    checks.require_sound(app.state.settings.database_url, app.state.store)
    checks.require_nothing_leaked(app.state.settings.database_url, app.state.store)
    assert attacker.look() == attacker.before


def test_no_route_changes_a_version(attacker: _Attacker, app: FastAPI) -> None:
    """Every operation of the OpenAPI document, on this version, with bodies that mean to change it."""
    known = {"model": "m", "number": 1, "path": "a", "upload": attacker.upload["id"], "pointer": "production"}
    known |= {"digest": digest_of(FILES["a"]), "workspace": "default", "token": "t", "grant": 1}
    known |= {"principal": "p", "group": "g", "webhook": "w", "delivery": "d", "adapter": "a"}
    known |= {"name": "n", "publisher": 1, "pattern": "m", "request": 1}
    bodies: list[dict[str, Any]] = [
        {"json": {}},
        {"json": {"number": 1, "to": "production"}},
        {"json": {"reason": "mine"}},
        {"json": {"description": "evil", "tags": {"a": "b"}, "files": listing({"a": EVIL})}},
        {"content": EVIL},
    ]
    tried = 0
    for path, operations in app.openapi()["paths"].items():
        for method in {*operations, "put", "patch", "post", "delete"} - {"parameters"}:
            for body in bodies:
                answer = attacker.api.request(method.upper(), path.format_map(known), **body)
                assert answer.status_code < 500, (method, path, answer.text)
                tried += 1
            if method == "delete" and path.endswith("/{number}"):
                attacker.api.post("/api/v1/models/m/versions/1/restore")
            assert attacker.look() == attacker.before, (method, path)
    assert tried > 100


STATEMENTS = [
    "UPDATE versions SET manifest_digest = 'sha256:' || substr(manifest_digest, 9) || '0'",
    "UPDATE versions SET number = 7",
    "UPDATE versions SET format = 'evil'",
    "UPDATE versions SET description = 'evil'",
    "UPDATE versions SET upload_id = 'other'",
    "UPDATE files SET path = 'evil'",
    "UPDATE files SET content_id = content_id + 1",
    "DELETE FROM files",
    "DELETE FROM versions",
    "UPDATE contents SET size = size + 1",
    "UPDATE contents SET digest = 'sha256:' || substr(digest, 9) || '0'",
    """UPDATE contents SET layout = '{"layout"\\: 1, "segments"\\: []}'""",
    "DELETE FROM contents",
    "UPDATE blobs SET digest = 'sha256:' || substr(digest, 9) || '0'",
    "UPDATE blobs SET size = size + 1",
    "UPDATE blobs SET key = key || 'x'",
    "DELETE FROM blobs",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_database_refuses_to_change_what_a_version_is(
    database: Database, database_url: str, tmp_path: Path, statement: str
) -> None:
    app = create_app(Settings(home=tmp_path, database_url=database_url, storage_url="memory://"))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish_version(api, "m", FILES)
        with pytest.raises(sa.exc.DBAPIError), database.transaction() as connection:
            connection.execute(sa.text(statement))
        answer = api.get("/api/v1/models/m/versions/2")
        assert_problem(answer, 404, "version_not_found")
