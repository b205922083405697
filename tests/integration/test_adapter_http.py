"""The adapter's HTTP face, spoken to as plain clients do, well and badly."""

import gzip
import http.client
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelyard import Client

from tests.servers.adapter import (
    Adapter,
    Answer,
    adapters,
    ask,
    infer_body,
    register_onnx,
    register_script,
    value,
)
from tests.servers.ports import wait_until

LIMIT = 1_000_000
INFER = "/v2/models/http/infer"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, `http-slow` does not answer."""
    return tmp_path_factory.mktemp("gate") / "closed"


@pytest.fixture(scope="module")
def adapter(registry_url: str, gate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    """Serves `http`, and `http-slow` which waits for its gate, with one thread and room for two more requests."""
    folder = tmp_path_factory.mktemp("adapter")
    with Client(registry_url) as client:
        register_onnx(client, "http", folder / "quick", 1)
        register_script(client, "http-slow", folder / "slow", {"answer": 1, "closed": str(gate)})
        for model in ("http", "http-slow"):
            client.promote(model, 1)
    with adapters(folder) as start:
        started = start(registry_url, "http", "http-slow", threads=1, max_queue=2, max_body_bytes=LIMIT)
        started.wait_ready()
        yield started


def post(adapter: Adapter, body: bytes, **headers: str) -> Answer:
    return adapter.request(
        "POST", INFER, body, {name.replace("_", "-"): each for name, each in headers.items()}
    )


def assert_error(answer: Answer, status: int, expected: str) -> None:
    """The one error shape."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.keys() == {"error"}
    assert expected in answer.body["error"]


def test_an_answer_says_which_version_gave_it(adapter: Adapter) -> None:
    answer = adapter.infer("http")
    assert value(answer) == 1
    digest = adapter.status("http")["current"]["digest"]
    assert (answer.headers["modelyard-version"], answer.headers["modelyard-digest"]) == ("1", digest)


def test_health_has_the_bodies_that_clients_parse(adapter: Adapter) -> None:
    assert (adapter.get("/v2/health/live").status, adapter.get("/v2/health/live").body) == (
        200,
        {"live": True},
    )
    assert (adapter.get("/v2/health/ready").status, adapter.get("/v2/health/ready").body) == (
        200,
        {"ready": True},
    )
    assert adapter.get("/v2/models/http/ready").body == {"name": "http", "ready": True}
    assert adapter.get("/v2/models/http/versions/1/ready").body == {"name": "http", "ready": True}


def test_the_status_page_tells_what_is_served(adapter: Adapter) -> None:
    status = adapter.get("/status").body
    assert status.keys() == {"ready", "reason", "registry", "models"}
    assert status["registry"].keys() == {"url", "stale_s", "error"}
    assert status["models"]["http"]["current"]["version"] == 1
    assert "/status" in adapter.get("/").body["paths"]


@pytest.mark.parametrize("path", ["/v2/models/http?x=1&y", "/v2/models/http/", "/v2/models/%68ttp"])
def test_query_slash_and_percent_signs_do_not_matter(adapter: Adapter, path: str) -> None:
    assert adapter.get(path).body["name"] == "http"


@pytest.mark.parametrize(
    "path", ["/nope", "/v2/nope", "/v2//models", "/v2/models/%2568ttp", "/v2/models/http/../http/x"]
)
def test_other_paths_are_404(adapter: Adapter, path: str) -> None:
    answer = adapter.get(path)
    assert answer.status == 404
    assert answer.body.keys() == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2/models/http", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("GET", INFER, "POST"),
        ("HEAD", INFER, "POST"),
        ("PUT", INFER, "POST"),
    ],
)
def test_a_wrong_method_is_405_and_says_the_right_one(
    adapter: Adapter, method: str, path: str, allow: str
) -> None:
    answer = adapter.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)


def test_head_is_get_without_a_body(adapter: Adapter) -> None:
    answer = adapter.request("HEAD", "/v2/health/ready")
    assert (answer.status, answer.body) == (200, None)


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/octet-stream"],
)
def test_json_is_taken_under_the_names_that_clients_give_it(adapter: Adapter, kind: str) -> None:
    assert value(post(adapter, infer_body(), content_type=kind)) == 1


@pytest.mark.parametrize(
    "kind",
    ["application/x-pickle", "application/x-npy", "text/plain", "application/x-www-form-urlencoded", ""],
)
def test_other_content_types_are_refused(adapter: Adapter, kind: str) -> None:
    assert_error(post(adapter, infer_body(), content_type=kind), 415, "application/json")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_read(adapter: Adapter, encoding: str, compress: Any) -> None:
    assert value(post(adapter, compress(infer_body(4)), content_encoding=encoding)) == 5


@pytest.mark.parametrize(
    ("encoding", "body", "status", "expected"),
    [
        ("br", infer_body(), 415, "gzip or deflate"),
        ("gzip", infer_body(), 400, "not valid gzip"),
        ("gzip", gzip.compress(infer_body(), mtime=0)[:-9], 400, "not one complete gzip"),
        ("gzip", gzip.compress(infer_body(), mtime=0) * 2, 400, "not one complete gzip"),
        ("gzip", gzip.compress(b" " * 100 * LIMIT, mtime=0), 413, "once decompressed"),
        ("deflate", zlib.compress(b" " * (LIMIT + 1)), 413, "once decompressed"),
    ],
)
def test_a_bad_or_explosive_body_is_refused(
    adapter: Adapter, encoding: str, body: bytes, status: int, expected: str
) -> None:
    assert_error(post(adapter, body, content_encoding=encoding), status, expected)


def test_binary_tensors_are_refused_in_words(adapter: Adapter) -> None:
    """As tritonclient sends them: JSON first, then raw bytes."""
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert_error(
        post(adapter, head + b"\0" * 8, inference_header_content_length=str(len(head))), 400, "binary tensors"
    )


def test_a_body_at_the_limit_is_read_and_one_above_it_is_not(adapter: Adapter) -> None:
    body = infer_body()
    assert value(post(adapter, body + b" " * (LIMIT - len(body)))) == 1
    assert_error(post(adapter, body + b" " * (LIMIT - len(body) + 1)), 413, str(LIMIT))


def test_a_body_without_a_length_is_bounded_too(adapter: Adapter) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    connection = http.client.HTTPConnection("127.0.0.1", adapter.port, timeout=30)
    connection.request("POST", INFER, iter([infer_body()]), chunked, encode_chunked=True)
    assert json.loads(connection.getresponse().read())["outputs"]
    connection.request("POST", INFER, iter([b" " * (LIMIT // 2)] * 3), chunked, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_an_enormous_length_is_refused_before_the_body_is_sent(adapter: Adapter) -> None:
    with socket.create_connection(("127.0.0.1", adapter.port), timeout=30) as raw:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n"
        raw.sendall(head.encode() + b" " * (2 * LIMIT))
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_one_connection_carries_good_and_bad_requests(adapter: Adapter) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", adapter.port, timeout=30)
    for _ in range(3):
        assert value(ask(connection, "POST", INFER, infer_body())) == 1
        assert ask(connection, "POST", INFER, b"{").status == 400
        assert ask(connection, "GET", "/nope").status == 404
    connection.close()


def test_clients_that_hang_up_do_no_harm(adapter: Adapter) -> None:
    """In the middle of the head, of the body, and while they wait."""
    for sent in (
        b"POST /v2/mod",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n".encode() + b"{",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(infer_body())}\r\n\r\n".encode()
        + infer_body(),
    ):
        with socket.create_connection(("127.0.0.1", adapter.port), timeout=30) as raw:
            raw.sendall(sent)
    assert value(adapter.infer("http")) == 1
    assert "Traceback" not in adapter.log


def test_when_too_many_wait_the_others_are_refused_at_once_and_health_still_answers(
    adapter: Adapter, gate: Path
) -> None:
    """Of six, one is at work and two wait; three get 503 and when to come back. Nobody else is affected."""
    answers: list[Answer] = []
    clients = [threading.Thread(target=lambda: answers.append(adapter.infer("http-slow"))) for _ in range(6)]
    gate.touch()
    try:
        for each in clients:
            each.start()
        wait_until(lambda: len(answers) == 3, timeout_s=30, what="three requests to be refused")
        for refused in answers:
            assert_error(refused, 503, "as many as may")
            assert refused.headers["retry-after"] == "1"
        assert adapter.get("/v2/health/live").status == 200
        assert adapter.get("/status").status == 200
    finally:
        gate.unlink()
        for each in clients:
            each.join()
    assert [value(answer) for answer in answers[3:]] == [1, 1, 1]
    assert value(adapter.infer("http")) == 1


def test_nothing_is_logged_per_request(adapter: Adapter) -> None:
    before = adapter.log
    for _ in range(20):
        adapter.infer("http")
        post(adapter, b"{")
    assert adapter.log == before


def test_the_log_is_clean(adapter: Adapter) -> None:
    """No banner, no warning, nothing of the libraries underneath."""
    assert all(" INFO " in line for line in adapter.log.splitlines()), adapter.log


def test_the_cache_is_private(adapter: Adapter) -> None:
    cache = Path(adapter.home / "serving")
    assert cache.stat().st_mode & 0o077 == 0
