"""A registry whose bytes are in S3: they go there directly, and what was verified is what stays."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import migrate
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.servers.app import ADMIN, BASE, assert_problem, begin, create, digest_of

FILES = {"model.bin": b"the right bytes"}


@pytest.fixture(params=["s3@rclone", "s3@ceph", "minio@rclone", "minio@ceph"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    scheme, _, server = request.param.partition("@")
    store = request.getfixturevalue(f"{server}_s3")
    settings = Settings(home=tmp_path, storage_url=store.url(store.new_bucket(), scheme=scheme))
    database = Database(settings.database_url)
    migrate.upgrade(database)
    database.close()
    return create_app(settings)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE, headers=ADMIN) as client:
        yield client


@pytest.fixture
def bytes_of_upload() -> Iterator[httpx2.Client]:
    """A client that knows nothing but the presigned URL."""
    with httpx2.Client() as client:
        yield client


def test_bytes_go_straight_to_the_store_and_come_straight_from_it(
    api: TestClient, bytes_of_upload: httpx2.Client
) -> None:
    upload = begin(api, "fraud", FILES)
    need = upload["needs"][0]
    assert need["url"].startswith("http://127.0.0.1:")
    bytes_of_upload.put(need["url"], content=FILES["model.bin"], headers=need["headers"]).raise_for_status()
    assert create(api, "fraud", upload, FILES).status_code == 201
    download = api.get("/api/v1/models/fraud/versions/1/downloads").json()["files"][0]
    assert bytes_of_upload.get(download["url"]).content == FILES["model.bin"]
    assert api.get("/api/v1/models/fraud/versions/1/files/model.bin").content == FILES["model.bin"]


def test_wrong_bytes_in_the_store_never_become_visible(
    api: TestClient, app: FastAPI, bytes_of_upload: httpx2.Client
) -> None:
    """Either the store refuses them, or the registry finds out when it reads them."""
    upload = begin(api, "fraud", FILES)
    need = upload["needs"][0]
    sent = bytes_of_upload.put(need["url"], content=b"the wrong bytes", headers=need["headers"])
    assert sent.is_success != app.state.store.refuses_wrong_bytes()
    if sent.is_success:
        assert_problem(create(api, "fraud", upload, FILES), 400, "digest_mismatch")
    assert_problem(create(api, "fraud", upload, FILES), 409, "upload_incomplete")
    assert_problem(api.get("/api/v1/models/fraud"), 404, "model_not_found")
    bytes_of_upload.put(need["url"], content=FILES["model.bin"], headers=need["headers"]).raise_for_status()
    assert create(api, "fraud", upload, FILES).status_code == 201


def test_a_presigned_url_that_is_used_again_cannot_change_a_version(
    api: TestClient, bytes_of_upload: httpx2.Client
) -> None:
    """The URL is still good: the store refuses other bytes, or takes them, and they are nobody's."""
    upload = begin(api, "fraud", FILES)
    need = upload["needs"][0]
    bytes_of_upload.put(need["url"], content=FILES["model.bin"], headers=need["headers"]).raise_for_status()
    create(api, "fraud", upload, FILES)
    bytes_of_upload.put(need["url"], content=b"evil bytes 1234", headers=need["headers"])
    content = api.get("/api/v1/models/fraud/versions/1/files/model.bin").content
    assert digest_of(content) == digest_of(FILES["model.bin"])


def test_nothing_is_left_in_the_store_but_what_versions_refer_to(
    api: TestClient, app: FastAPI, bytes_of_upload: httpx2.Client
) -> None:
    for _ in range(2):
        upload = begin(api, "fraud", FILES)
        for need in upload["needs"]:
            bytes_of_upload.put(
                need["url"], content=FILES["model.bin"], headers=need["headers"]
            ).raise_for_status()
        create(api, "fraud", upload, FILES)
    assert len(list(app.state.store.iterate())) == 1
