"""From announced files to a visible version, on both databases: what arrives is verified, what is not is never seen."""

from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry.database import Database, utc_now
from registry.tables import UploadRow
from tests.servers.app import assert_problem, begin, create, digest_of, listing, publish, send

FILES = {"model.onnx": b"\x00weights", "conf/labels.json": b"[1]", "empty": b"", "größe/ж.txt": "ж".encode()}


def blobs(app: FastAPI) -> list[str]:
    return [stat.key for stat in app.state.store.iterate()]


def test_a_version_comes_back_as_it_was_published(api: TestClient) -> None:
    facts: dict[str, Any] = {
        "format": "onnx",
        "variants": [{"format": "onnx", "path": "model.onnx"}],
        "signature": {
            "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 30]}],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        },
        "example": "conf/labels.json",
        "description": "first",
        "metrics": {"auc": 0.5, "n": 10},
        "tags": {"team": "✓"},
    }
    version = publish(api, "fraud", FILES, **facts)
    assert version == api.get("/api/v1/models/fraud/versions/1").json()
    assert {key: version[key] for key in facts} == facts
    assert (version["number"], version["stage"], version["created_by"]) == (1, "none", "admin")
    assert version["size"] == sum(map(len, FILES.values()))
    assert {file["path"] for file in version["files"]} == set(FILES)
    for path, content in FILES.items():
        answer = api.get(f"/api/v1/models/fraud/versions/1/files/{path}")
        assert answer.content == content
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["etag"] == f'"{digest_of(content)}"'


def test_the_manifest_digest_is_the_documented_one(api: TestClient) -> None:
    """A golden value: changing how it is computed would orphan every version there is."""
    version = publish(api, "golden", {"b/two": b"2", "a": b"1"})
    text = (
        '{"files":[{"digest":"sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b","path":"a","size":1},'
        '{"digest":"sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35","path":"b/two","size":1}],'
        '"schema":"modelyard.manifest/1"}'
    )
    assert version["digest"] == digest_of(text.encode())


def test_numbers_count_up_within_a_model(api: TestClient) -> None:
    assert [publish(api, "a")["number"], publish(api, "a")["number"], publish(api, "b")["number"]] == [
        1,
        2,
        1,
    ]


def test_bytes_that_are_there_already_are_not_asked_for(api: TestClient, app: FastAPI) -> None:
    publish(api, "fraud", {"model": b"same", "old": b"1"})
    upload = begin(api, "fraud", {"model": b"same", "new": b"2"})
    assert [need["digest"] for need in upload["needs"]] == [digest_of(b"2")]
    send(api, upload, {"new": b"2"})
    assert create(api, "fraud", upload, {"model": b"same", "new": b"2"}).status_code == 201
    assert api.get("/api/v1/models/fraud/versions/2/files/model").content == b"same"
    assert len(blobs(app)) == 3


def test_two_files_with_the_same_content_are_stored_once(api: TestClient, app: FastAPI) -> None:
    publish(api, "twins", {"a": b"same", "b": b"same"})
    assert len(blobs(app)) == 1
    assert api.get("/api/v1/models/twins/versions/1/files/b").content == b"same"


def test_wrong_bytes_are_refused_and_nothing_is_kept(api: TestClient, app: FastAPI) -> None:
    upload = begin(api, "fraud", {"model": b"right"})
    url = upload["needs"][0]["url"]
    assert_problem(api.put(url, content=b"wrong"), 400, "digest_mismatch")
    assert_problem(api.put(url, content=b"longer than announced"), 400, "size_mismatch")
    assert_problem(api.put(url, content=iter([b"right"])), 411, "length_required")
    assert blobs(app) == []
    body = assert_problem(create(api, "fraud", upload, {"model": b"right"}), 409, "upload_incomplete")
    assert body["missing"] == [digest_of(b"right")]
    assert_problem(api.get("/api/v1/models/fraud"), 404, "model_not_found")
    send(api, upload, {"model": b"right"})
    assert create(api, "fraud", upload, {"model": b"right"}).json()["number"] == 1


def test_a_version_cannot_name_bytes_that_were_never_sent(api: TestClient) -> None:
    upload = begin(api, "fraud", {"a": b"a"})
    send(api, upload, {"a": b"a"})
    answer = create(api, "fraud", upload, {"a": b"a", "b": b"b"})
    assert assert_problem(answer, 409, "upload_incomplete")["missing"] == [digest_of(b"b")]


def test_repeating_a_commit_gives_the_same_version(api: TestClient) -> None:
    files = {"model": b"once"}
    upload = begin(api, "fraud", files)
    send(api, upload, files)
    first = create(api, "fraud", upload, files)
    again = create(api, "fraud", upload, files)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert_problem(create(api, "fraud", upload, {"model": b"once", "more": b"once"}), 409, "upload_used")
    assert_problem(create(api, "other", upload, files), 409, "upload_used")
    assert len(api.get("/api/v1/models/fraud/versions").json()["items"]) == 1


def test_an_upload_belongs_to_its_model(api: TestClient) -> None:
    upload = begin(api, "fraud", {"model": b"x"})
    send(api, upload, {"model": b"x"})
    assert_problem(create(api, "other", upload, {"model": b"x"}), 404, "upload_not_found")
    assert_problem(api.get("/api/v1/models/other"), 404, "model_not_found")


def test_an_upload_takes_only_what_it_asked_for(api: TestClient) -> None:
    upload = begin(api, "fraud", {"model": b"x"})
    stranger = f"/api/v1/uploads/{upload['id']}/blobs/{digest_of(b'y')}"
    assert_problem(api.put(stranger, content=b"y"), 404, "upload_not_found")
    assert_problem(
        api.put(f"/api/v1/uploads/nope/blobs/{digest_of(b'x')}", content=b"x"), 404, "upload_not_found"
    )
    assert_problem(
        api.put(f"/api/v1/uploads/{upload['id']}/blobs/sha256:XYZ", content=b"x"), 400, "invalid_digest"
    )


def test_sending_bytes_twice_is_harmless(api: TestClient, app: FastAPI) -> None:
    upload = begin(api, "fraud", {"model": b"x"})
    send(api, upload, {"model": b"x"})
    send(api, upload, {"model": b"x"})
    assert len(blobs(app)) == 1


def test_an_expired_upload_says_so(api: TestClient, database: Database) -> None:
    upload = begin(api, "fraud", {"model": b"x"})
    with database.write() as session:
        session.execute(sa.update(UploadRow).values(expires_at=sa.select(utc_now()).scalar_subquery()))
    assert_problem(api.put(upload["needs"][0]["url"], content=b"x"), 410, "upload_expired")
    assert_problem(create(api, "fraud", upload, {"model": b"x"}), 410, "upload_expired")


def test_a_size_that_contradicts_a_known_digest_is_refused(api: TestClient) -> None:
    publish(api, "fraud", {"model": b"known"})
    lie = [{"path": "model", "size": 1, "digest": digest_of(b"known")}]
    assert_problem(api.post("/api/v1/models/fraud/uploads", json={"files": lie}), 400, "size_mismatch")
    both = [*listing({"a": b"z"}), {"path": "b", "size": 9, "digest": digest_of(b"z")}]
    assert_problem(api.post("/api/v1/models/fraud/uploads", json={"files": both}), 400, "invalid_files")


def test_a_file_that_is_not_there_is_a_404(api: TestClient) -> None:
    publish(api, "fraud", {"model": b"x"})
    assert_problem(api.get("/api/v1/models/fraud/versions/1/files/other"), 404, "file_not_found")
    assert_problem(api.get("/api/v1/models/fraud/versions/2/files/model"), 404, "version_not_found")
    assert_problem(api.get("/api/v1/models/fraud/versions/2/downloads"), 404, "version_not_found")


def test_a_store_that_fails_is_a_503_and_changes_nothing(
    api: TestClient, app: FastAPI, monkeypatch: Any
) -> None:
    from storage.errors import StoreUnavailable

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise StoreUnavailable("down")

    upload = begin(api, "fraud", {"model": b"x"})
    with monkeypatch.context() as broken:
        broken.setattr(type(app.state.store), "put", fail)
        answer = api.put(upload["needs"][0]["url"], content=b"x")
        assert_problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"] == "1"
    send(api, upload, {"model": b"x"})
    assert create(api, "fraud", upload, {"model": b"x"}).status_code == 201


def test_pages_of_versions_and_models_neither_repeat_nor_skip(api: TestClient) -> None:
    for number in range(5):
        publish(api, "paged", {"model": b"%d" % number})
        publish(api, f"other-{number}", {"model": b"x"})
    page = api.get("/api/v1/models/paged/versions?limit=2").json()
    publish(api, "paged", {"model": b"new"})
    seen = [v["number"] for v in page["items"]]
    while page["next"]:
        page = api.get(f"/api/v1/models/paged/versions?limit=2&after={page['next']}").json()
        seen += [v["number"] for v in page["items"]]
    assert seen == [5, 4, 3, 2, 1]
    first = api.get("/api/v1/models?limit=3&search=other").json()
    second = api.get(f"/api/v1/models?limit=3&search=other&after={first['next']}").json()
    names = [m["name"] for m in first["items"] + second["items"]]
    assert names == [f"other-{n}" for n in range(5)]
    assert second["next"] is None
    assert [m["name"] for m in api.get("/api/v1/models?search=%25").json()["items"]] == []
    assert_problem(api.get("/api/v1/models?after=bm9wZQ=="), 400, "invalid_cursor")


@pytest.mark.parametrize("name", ["fraud", "Fraud-2.1_b", "a", "x" * 128])
def test_models_can_be_created_before_their_first_version(api: TestClient, name: str) -> None:
    created = api.post("/api/v1/models", json={"name": name, "description": "d"})
    assert created.status_code == 201
    assert created.json() == api.get(f"/api/v1/models/{name}").json()
    assert (created.json()["latest"], created.json()["pointers"]) == (None, [])
    assert_problem(api.post("/api/v1/models", json={"name": name}), 409, "model_exists")
    assert publish(api, name, {"m": b"1"})["number"] == 1
    assert api.get(f"/api/v1/models/{name}").json()["latest"] == 1
