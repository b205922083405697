"""Bad input: a clear 4xx in the one error shape, nothing of the input echoed, nothing changed."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import migrate
from registry.app import create_app
from registry.database import Database
from registry.settings import Settings
from tests.servers.app import ADMIN, BASE, assert_problem, begin, digest_of, listing, publish

SECRET = "s3cret-value"
JSON = {"content-type": "application/json"}
DIGEST = digest_of(b"x")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One registry on each database for all of this file, as nothing here may change anything."""
    home = tmp_path_factory.mktemp("bad-input")
    url = f"sqlite:///{home / 'registry.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    migrate.upgrade(database)
    database.close()
    app = create_app(Settings(home=home, database_url=url, storage_url="memory://"))
    with TestClient(app, base_url=BASE, headers=ADMIN) as api:
        publish(api, "fraud", {"m": b"x"})
        yield api


@pytest.fixture
def quiet(shared: TestClient) -> Iterator[TestClient]:
    """The API; whatever the test did, the registry is as it was."""
    before = (shared.get("/api/v1").json(), shared.get("/api/v1/models").json())
    yield shared
    assert (shared.get("/api/v1").json(), shared.get("/api/v1/models").json()) == before


MALFORMED = {
    "cut off": b'{"name": "x"',
    "not a number": b'{"name": "x", "description": NaN}',
    "infinite": b'{"number": 1e999, "to": "production"}',
    "a key twice": b'{"name": "x", "name": "y"}',
    "lone surrogate": b'{"name": "x", "description": "\\ud800"}',
    "not UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "nested beyond reason": b"[" * 100_000,
    "a number of 5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
    "trailing rubbish": b'{"name": "x"} x',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_json(quiet: TestClient, what: str) -> None:
    answer = quiet.post("/api/v1/models", content=MALFORMED[what], headers=JSON)
    assert_problem(answer, 400, "invalid_json")


def test_no_body_at_all(quiet: TestClient) -> None:
    assert_problem(quiet.post("/api/v1/models", content=b"", headers=JSON), 422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "source": SECRET},
        {"name": "x", "storage_uri": "s3://" + SECRET},
        {"name": 5},
        {"name": None},
        {"name": ["x"]},
        {},
        [],
        "x",
        5,
        {"name": "x", "description": "nul \x00 " + SECRET},
        {"name": "x", "description": "d" * 10_001},
    ],
    ids=repr,
)
def test_unknown_fields_and_wrong_types(quiet: TestClient, body: Any) -> None:
    answer = quiet.post("/api/v1/models", json=body)
    assert_problem(answer, 422, "invalid_request")
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a b", "-a", "a-", "é", "a\x00", "a\n", "x" * 129, "a:b", "a@b", SECRET + "!"],
)
def test_bad_model_names(quiet: TestClient, name: str) -> None:
    answer = quiet.post("/api/v1/models", json={"name": name})
    assert_problem(answer, 400, "invalid_name")
    assert SECRET not in answer.text


@pytest.mark.parametrize("path", ["a%00b", "%2e%2e", "a%2fb", "..%2f..%2fetc%2fpasswd", "%c3%a9", "a%0d%0ab"])
def test_bad_names_in_urls(quiet: TestClient, path: str) -> None:
    for url in (
        f"/api/v1/models/{path}",
        f"/api/v1/models/fraud/pointers/{path}",
        f"/api/v1/models/{path}/versions",
    ):
        answer = quiet.get(url)
        assert answer.status_code in (400, 404), url
        assert answer.headers["content-type"] == "application/problem+json"


BAD_PATHS = [
    "",
    "/",
    "/etc/passwd",
    "//x",
    "../x",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "..\\x",
    "a\\b",
    "C:/x",
    "C:x",
    "\\\\host\\x",
    "file:x",
    "s3://bucket/x",
    "nul\x00",
    "a\rb",
    "a\nb",
    "a\x7f",
    "a\x85",
    "~/x",
    "-rf",
    "$HOME/x",
    "a/.",
    "a.",
    "a ",
    "con",
    "a/NUL.txt",
    "LPT1",
    "x" * 256,
    "a/" * 64 + "a",
    "a" * 200 + "/" + "/".join(["b" * 200] * 5),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=[repr(p)[:40] for p in BAD_PATHS])
def test_bad_file_paths(quiet: TestClient, path: str) -> None:
    files = [{"path": path, "size": 1, "digest": DIGEST}]
    answer = quiet.post("/api/v1/models/fraud/uploads", json={"files": files})
    assert_problem(answer, 400, "invalid_path")


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        DIGEST.upper(),
        DIGEST[:-1],
        DIGEST + "0",
        DIGEST[7:],
        "md5:" + "0" * 64,
        DIGEST + "\n",
        "g" * 71,
    ],
)
def test_bad_digests(quiet: TestClient, digest: str) -> None:
    files = [{"path": "m", "size": 1, "digest": digest}]
    assert_problem(quiet.post("/api/v1/models/fraud/uploads", json={"files": files}), 400, "invalid_digest")


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ([], 400, "invalid_files"),
        (listing({"a": b"x"}) * 2, 400, "invalid_files"),
        (listing({"a": b"x", "A": b"x"}), 400, "invalid_files"),
        (listing({"a": b"x", "a/b": b"x"}), 400, "invalid_files"),
        (listing({f"f{n}": b"x" for n in range(4097)}), 422, "invalid_request"),
        ([{"path": "m", "size": -1, "digest": DIGEST}], 422, "invalid_request"),
        ([{"path": "m", "size": 2**63, "digest": DIGEST}], 422, "invalid_request"),
        ([{"path": "m", "size": 1.0, "digest": DIGEST}], 422, "invalid_request"),
        ([{"path": "m", "size": True, "digest": DIGEST}], 422, "invalid_request"),
        ([{"path": "m", "size": "1", "digest": DIGEST}], 422, "invalid_request"),
        ([{"path": "m", "size": 1, "digest": DIGEST, "uri": "file:///etc/passwd"}], 422, "invalid_request"),
    ],
)
def test_bad_file_lists(quiet: TestClient, files: Any, status: int, code: str) -> None:
    assert_problem(quiet.post("/api/v1/models/fraud/uploads", json={"files": files}), status, code)


@pytest.mark.parametrize(
    ("facts", "status", "code"),
    [
        ({"example": "missing"}, 400, "invalid_facts"),
        ({"variants": [{"format": "onnx", "path": "missing"}]}, 400, "invalid_facts"),
        (
            {"signature": {"inputs": [{"name": "x", "datatype": "FP65", "shape": [1]}], "outputs": []}},
            422,
            None,
        ),
        (
            {"signature": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-2]}], "outputs": []}},
            422,
            None,
        ),
        (
            {"signature": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1]}] * 2, "outputs": []}},
            400,
            None,
        ),
        ({"metrics": {"auc": "high"}}, 422, None),
        ({"tags": {"": "x"}}, 422, None),
        ({"tags": {str(n): "x" for n in range(101)}}, 422, None),
        ({"format": ""}, 422, None),
        ({"format": "x" * 65}, 422, None),
        ({"number": 7}, 422, None),
        ({"stage": "production"}, 422, None),
    ],
)
def test_bad_facts(quiet: TestClient, facts: Any, status: int, code: str | None) -> None:
    files = {"m": b"x"}
    body = {"upload": begin(quiet, "fraud", files)["id"], "files": listing(files), "format": "files", **facts}
    answer = quiet.post("/api/v1/models/fraud/versions", json=body)
    assert_problem(answer, status, code or ("invalid_facts" if status == 400 else "invalid_request"))


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "one", "2147483648", "9" * 400, "1%00"])
def test_bad_version_numbers(quiet: TestClient, number: str) -> None:
    assert_problem(quiet.get(f"/api/v1/models/fraud/versions/{number}"), 422, "invalid_request")


@pytest.mark.parametrize("number", [0, -1, 2**31, "1", 1.0, True, None])
def test_bad_version_numbers_in_bodies(quiet: TestClient, number: Any) -> None:
    answer = quiet.post("/api/v1/models/fraud/promotions", json={"number": number, "to": "production"})
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("to", ["", "v3", "V3", "latest", "Production", "a b", "é", "1st", "x" * 65, "a\x00"])
def test_bad_pointer_names(quiet: TestClient, to: str) -> None:
    answer = quiet.post("/api/v1/models/fraud/promotions", json={"number": 1, "to": to})
    assert_problem(answer, 400, "invalid_name")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", f"limit={10**9}", f"after={'x' * 513}"]
)
def test_bad_page_queries(quiet: TestClient, query: str) -> None:
    assert_problem(quiet.get(f"/api/v1/models?{query}"), 422, "invalid_request")


@pytest.mark.parametrize(
    "cursor",
    ["x", "W10=", "WzFd", "bnVsbA==", "WyJhIiwgMV0=", "%00", "W1tbW1tbW1tb", "WyJcdWQ4MDAiXQ==", "é"],
)
@pytest.mark.parametrize(
    "url", ["/api/v1/models", "/api/v1/models/fraud/versions", "/api/v1/models/fraud/history"]
)
def test_bad_cursors(quiet: TestClient, url: str, cursor: str) -> None:
    answer = quiet.get(f"{url}?after={cursor}")
    if (url, cursor) != ("/api/v1/models/fraud/versions", "WzFd"):  # [1] is a cursor of that list
        assert_problem(answer, 400, "invalid_cursor")


def test_bodies_beyond_the_limit(quiet: TestClient) -> None:
    huge = b'{"name": "' + b"x" * 2**20 + b'"}'
    assert_problem(quiet.post("/api/v1/models", content=huge, headers=JSON), 413, "body_too_large")
    chunked = (b"[" * 65536 for _ in range(64))
    assert_problem(quiet.post("/api/v1/models", content=chunked, headers=JSON), 413, "body_too_large")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_other_content_types(quiet: TestClient, kind: str) -> None:
    """A form that a foreign web page submits cannot pass for JSON."""
    answer = quiet.post("/api/v1/models", content=b'{"name": "x"}', headers={"content-type": kind})
    assert_problem(answer, 422, "invalid_request")


def test_unknown_routes_and_methods(quiet: TestClient) -> None:
    assert_problem(quiet.get("/api/v1/nothing"), 404, "not_found")
    assert_problem(quiet.get("/"), 404, "not_found")
    assert_problem(quiet.get("/api/v1/models/"), 404, "not_found")
    assert_problem(quiet.delete("/api/v1/models/fraud"), 405, "method_not_allowed")
    assert_problem(
        quiet.put("/api/v1/models/fraud/versions/1/files/m", content=b"other"), 405, "method_not_allowed"
    )


def test_a_failure_inside_tells_nothing_but_its_request_id(app: FastAPI, monkeypatch: Any) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr("registry.browse.models", fail)
    with TestClient(app, base_url=BASE, headers=ADMIN, raise_server_exceptions=False) as api:
        answer = api.get("/api/v1/models")
        body = assert_problem(answer, 500, "internal_error")
        assert SECRET not in answer.text
        assert len(body["request_id"]) == 32
