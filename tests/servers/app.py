"""The registry's application inside the test's process, once for each database, with a blob store in memory."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import migrate
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.servers.postgres import Postgres

BASE = "http://127.0.0.1"
TOKEN = os.environ["MODELYARD_REGISTRY_TOKEN"]
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
"""The headers of an administrator of every registry in these tests, see conftest.py."""
KINDS = ["sqlite", "postgresql"]
NewDatabase = Callable[[str, Path], str]

_SQLITE = "sqlite:///"

create_engine = sa.create_engine
"""For engines that must share nothing with others, see `_compiled_statements`."""


@pytest.fixture(scope="session", autouse=True)
def _compiled_statements() -> Iterator[None]:
    """What SQLAlchemy has compiled for one database serves the next of its kind.

    Each test has a database of its own, and would spend a third of its time on compiling the same statements anew.
    """
    first: dict[str, sa.Engine] = {}

    def create_alike(url: sa.URL, **options: Any) -> sa.Engine:
        engine = create_engine(url, **options)
        known = first.setdefault(url.get_backend_name(), engine)
        engine.dialect, engine._compiled_cache = known.dialect, known._compiled_cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa, "create_engine", create_alike)
        yield


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path: Path) -> Iterator[str]:
    """A database of each kind with the newest schema."""
    url = new_database(request.param, tmp_path)
    yield url
    if not url.startswith(_SQLITE):
        _server_of(url).drop(url)


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes a database with the newest schema, of a kind and in a folder."""
    return lambda kind, folder: copy_database(request.getfixturevalue(f"migrated_{kind}"), folder)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _migrate(f"{_SQLITE}{tmp_path_factory.mktemp('migrated') / 'registry.db'}")


@pytest.fixture(scope="session")
def migrated_postgresql(postgres: Postgres) -> str:
    return _migrate(postgres.new_database())


def copy_database(url: str, folder: Path) -> str:
    """A copy of a database that nobody uses: making it anew each time would take most of a test's time."""
    if url.startswith(_SQLITE):
        copy = folder / f"{uuid.uuid4().hex}.db"
        shutil.copy(url.removeprefix(_SQLITE), copy)
        return f"{_SQLITE}{copy}"
    return _server_of(url).new_database(_name_of(url))


def _server_of(url: str) -> Postgres:
    return Postgres(url.replace(f"/{_name_of(url)}?", "/postgres?"))


def _name_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _migrate(url: str) -> str:
    database = Database(url)
    migrate.upgrade(database)
    database.close()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        storage_url="memory://",
        max_stream_s=0,  # the client of these tests gives an answer back when it has ended
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application, on each database."""
    with TestClient(app, base_url=BASE, headers=ADMIN) as client:
        yield client


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def listing(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """What a client announces."""
    return [
        {"path": path, "size": len(content), "digest": digest_of(content)} for path, content in files.items()
    ]


def begin(api: Any, model: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Announce files; returns the upload."""
    answer = api.post(f"/api/v1/models/{model}/uploads", json={"files": listing(files)})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def send(api: Any, upload: dict[str, Any], files: dict[str, bytes]) -> None:
    """Send the bytes that the registry asked for."""
    contents = {digest_of(content): content for content in files.values()}
    for need in upload["needs"]:
        answer = api.put(need["url"], content=contents[need["digest"]], headers=need["headers"])
        assert answer.status_code in (200, 204), answer.text


def create(api: Any, model: str, upload: dict[str, Any], files: dict[str, bytes], **facts: Any) -> Any:
    """Ask for the version; returns the whole answer."""
    body = {"upload": upload["id"], "files": listing(files), "format": "files", **facts}
    return api.post(f"/api/v1/models/{model}/versions", json=body)


def publish(api: Any, model: str, files: dict[str, bytes] | None = None, **facts: Any) -> dict[str, Any]:
    """All of it: announce, send, create. Returns the version."""
    files = {"model.bin": model.encode()} if files is None else files
    upload = begin(api, model, files)
    send(api, upload, files)
    answer = create(api, model, upload, files, **facts)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def promote(api: Any, model: str, number: int, to: str = "production", **more: Any) -> Any:
    return api.post(f"/api/v1/models/{model}/promotions", json={"number": number, "to": to, **more})


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The one error shape; returns the body."""
    body = dict(answer.json())
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail", "request_id"} <= body.keys()
    assert body["status"] == status
    return body
