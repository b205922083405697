import gzip
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import modelyard
import pytest
from modelyard import Client, ConnectionFailed, UnexpectedAnswer, _http

from tests.servers.ports import free_port
from tests.unit.sdk_fake import STORE, TOKEN, URL, FakeRegistry, problem

INFO = {"service": "modelyard-registry", "version": "0.1.0", "revision": 7}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.0)


def client_that_gets(*answers: httpx2.Response | Exception) -> tuple[Client, list[httpx2.Request]]:
    """A client whose requests are answered by `answers` in turn, the last one for ever."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        chosen = answers[min(len(asked), len(answers)) - 1]
        if isinstance(chosen, Exception):
            raise chosen
        return httpx2.Response(chosen.status_code, headers=chosen.headers, content=chosen.content)

    return Client(URL, TOKEN, transport=httpx2.MockTransport(answer)), asked


def ok() -> httpx2.Response:
    return httpx2.Response(200, json=INFO)


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("closed"),
        problem(502, "unavailable"),
        problem(503, "store_unavailable"),
        problem(504, "unavailable"),
    ],
)
def test_reading_is_repeated_when_the_trouble_may_pass(failure: httpx2.Response | Exception) -> None:
    client, asked = client_that_gets(failure, failure, ok())
    assert client.info().revision == 7
    assert len(asked) == 3


@pytest.mark.parametrize(
    "failure", [problem(404, "not_found"), problem(500, "internal_error"), problem(401, "unauthorized")]
)
def test_an_answer_that_will_not_change_is_not_asked_for_again(failure: httpx2.Response) -> None:
    client, asked = client_that_gets(failure, ok())
    with pytest.raises(modelyard.ApiError):
        client.info()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("timeout", "told"),
    [(httpx2.ReadTimeout("slow"), "did not answer in time"), (httpx2.ConnectTimeout("slow"), "cannot reach")],
)
def test_a_timeout_is_not_repeated_because_it_has_cost_its_time_already(
    timeout: Exception, told: str
) -> None:
    client, asked = client_that_gets(timeout, ok())
    with pytest.raises(ConnectionFailed, match=told):
        client.info()
    assert len(asked) == 1


def test_giving_up_takes_a_limited_number_of_attempts() -> None:
    client, asked = client_that_gets(httpx2.ConnectError("refused"))
    with pytest.raises(ConnectionFailed):
        client.info()
    assert len(asked) == _http.ATTEMPTS


@pytest.mark.parametrize(
    "failure", [httpx2.ReadError("reset"), httpx2.RemoteProtocolError("closed"), problem(503, "x")]
)
def test_a_promotion_that_may_have_happened_is_not_repeated(failure: httpx2.Response | Exception) -> None:
    client, asked = client_that_gets(failure)
    with pytest.raises(modelyard.ModelyardError):
        client.promote("fraud", 1)
    assert len(asked) == 1


def test_a_promotion_that_was_certainly_not_received_is_repeated() -> None:
    done = {
        "model": "fraud",
        "number": 1,
        "stage": "production",
        "pointer": None,
        "moved": True,
        "revision": 8,
    }
    client, asked = client_that_gets(httpx2.ConnectError("refused"), httpx2.Response(200, json=done))
    assert client.promote("fraud", 1).moved
    assert len(asked) == 2


def too_many(**headers: str) -> httpx2.Response:
    refused = problem(429, "too_many_requests")
    refused.headers.update({key.replace("_", "-"): value for key, value in headers.items()})
    return refused


def test_who_sends_too_much_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    client, asked = client_that_gets(too_many(Retry_After="61"), too_many(Retry_After="2"), ok())
    assert client.info().revision == 7
    assert (pauses, len(asked)) == ([61, 2], 3)


def test_what_was_refused_as_too_much_had_no_effect_so_that_even_a_promotion_is_repeated() -> None:
    done = {"model": "fraud", "number": 1, "stage": None, "pointer": None, "moved": True, "revision": 8}
    client, asked = client_that_gets(too_many(Retry_After="0"), httpx2.Response(200, json=done))
    assert client.promote("fraud", 1).moved
    assert len(asked) == 2


@pytest.mark.parametrize("told", ["", "-5", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 5000, "nan"])
def test_a_pause_that_is_no_number_of_seconds_is_not_taken(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    client, _ = client_that_gets(too_many(Retry_After=told), ok())
    assert client.info().revision == 7
    assert pauses == [0]


def test_an_answer_cannot_ask_for_a_pause_in_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for told in ("x", -1, 1.5, True, None):
        client, _ = client_that_gets(problem(429, "too_many_requests", retry_after_s=told), ok())
        assert client.info().revision == 7
    assert pauses == [0] * 5


def test_a_pause_that_is_too_long_is_told_at_once() -> None:
    client, asked = client_that_gets(too_many(Retry_After="91"))
    with pytest.raises(modelyard.ApiError) as caught:
        client.info()
    assert (caught.value.status, caught.value.data["retry_after_s"], len(asked)) == (429, 91, 1)


def test_the_pauses_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(_http, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(time, "sleep", pauses.append)
    client, _ = client_that_gets(httpx2.ConnectError("refused"))
    with pytest.raises(ConnectionFailed):
        client.info()
    assert [0.1 * 2**n <= pause <= 0.2 * 2**n for n, pause in enumerate(pauses)] == [True] * 4


def test_a_registry_that_is_not_running_is_told_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "") as client, pytest.raises(ConnectionFailed) as caught:
        client.info()
    assert url in str(caught.value)
    assert "Is it running? Start one with `modelyard-registry serve`, or set MODELYARD_URL." in str(
        caught.value
    )


def test_a_proxy_from_the_environment_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            Client(url, "", timeout_s=1.0) as client,
            pytest.raises(ConnectionFailed, match="did not answer in time"),
        ):
            client.info()
        listener.settimeout(5)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100).startswith(b"GET /api/v1 HTTP/1.1")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, modelyard.InvalidRequest),
        (401, modelyard.Unauthorized),
        (403, modelyard.Forbidden),
        (404, modelyard.NotFound),
        (409, modelyard.Conflict),
        (410, modelyard.ApiError),
        (413, modelyard.InvalidRequest),
        (422, modelyard.InvalidRequest),
        (500, modelyard.ApiError),
    ],
)
def test_a_problem_becomes_the_error_of_its_kind(status: int, expected: type[modelyard.ApiError]) -> None:
    client, _ = client_that_gets(problem(status, "some_code", generation=4))
    with pytest.raises(expected) as caught:
        client.info()
    assert type(caught.value) is expected
    assert (caught.value.code, caught.value.status, caught.value.data) == (
        "some_code",
        status,
        {"generation": 4},
    )
    assert "It is some_code." in str(caught.value)


def test_a_failure_of_the_server_names_the_request_that_its_log_knows() -> None:
    client, _ = client_that_gets(problem(500, "internal_error", request_id="r-17"))
    with pytest.raises(modelyard.ApiError, match="request r-17"):
        client.info()


def test_the_rules_that_a_request_broke_are_told() -> None:
    errors = [{"location": "body.metrics.auc", "message": "finite_number"}, "nonsense"]
    client, _ = client_that_gets(problem(422, "invalid_request", errors=errors))
    with pytest.raises(modelyard.InvalidRequest, match=r"body\.metrics\.auc: finite_number"):
        client.info()


@pytest.mark.parametrize(
    "content",
    [b"<html>Bad gateway</html>", b"", b"[]", b'"x"', b'{"code": 1}', b"[" * 100_000, b"x" * 100_000],
)
def test_an_error_that_is_no_problem_document_still_says_what_happened(content: bytes) -> None:
    client, _ = client_that_gets(httpx2.Response(404, content=content))
    with pytest.raises(
        modelyard.NotFound, match=r"answered 404 Not Found. Is it a Modelyard registry\?"
    ) as caught:
        client.info()
    assert caught.value.code == "http_404"


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"service": 1}',
        b"[" * 100_000,
        b'{"service": "x", "version": "y"}',
    ],
)
def test_an_answer_that_is_not_the_protocol_is_told_as_such(content: bytes) -> None:
    client, _ = client_that_gets(httpx2.Response(200, content=content))
    with pytest.raises(UnexpectedAnswer):
        client.info()


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_ANSWER", 10_000)

    class Endless(httpx2.SyncByteStream):
        read = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.read += 1000
                yield b"x" * 1000

    stream = Endless()
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=stream))
    with (
        Client(URL, TOKEN, transport=transport) as client,
        pytest.raises(UnexpectedAnswer, match="longer than 10000"),
    ):
        client.info()
    assert stream.read <= 12_000


def test_a_compressed_answer_is_not_unpacked() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        packed = httpx2.ByteStream(gzip.compress(json.dumps(INFO).encode()))
        return httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=packed)

    transport = httpx2.MockTransport(answer)
    with (
        Client(URL, TOKEN, transport=transport) as client,
        pytest.raises(UnexpectedAnswer, match="compresses"),
    ):
        client.info()
    assert [each.headers["Accept-Encoding"] for each in asked] == ["identity"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    client, asked = client_that_gets(httpx2.Response(status, headers={"Location": "http://elsewhere.test/"}))
    with pytest.raises(UnexpectedAnswer, match="not followed"):
        client.info()
    assert len(asked) == 1


def test_the_token_goes_to_the_registry_only(tmp_path: Any) -> None:
    fake = FakeRegistry({"a": b"hello"}, presigned=True)
    (tmp_path / "model.bin").write_bytes(b"hello")
    with fake.client() as client:
        client.register("fraud", tmp_path / "model.bin")
        assert fake.asked("PUT", STORE) == 1
        client.download(fake.version(), tmp_path / "fetched")
    by_host = {host: [r for r in fake.requests if str(r.url).startswith(host)] for host in (URL, STORE)}
    assert {each.headers.get("Authorization") for each in by_host[URL]} == {f"Bearer {TOKEN}"}
    assert len(by_host[STORE]) == 2
    for request in by_host[STORE]:
        assert TOKEN not in repr(request.headers.raw)
        assert not {"authorization", "cookie"} & set(request.headers)


@pytest.mark.parametrize(
    "url", ["http://registry.test/api/v1/x", "HTTP://REGISTRY.TEST/x", "//registry.test/x"]
)
def test_even_the_registrys_own_address_gets_no_token_when_it_comes_as_an_absolute_url(
    url: str, tmp_path: Any
) -> None:
    fake = FakeRegistry({"a": b"hello"})
    fake.listed = fake.downloads()
    fake.listed["blobs"][0]["url"] = url
    fake.before = lambda request: problem(404, "x") if "downloads" not in str(request.url) else None
    with fake.client() as client, pytest.raises(modelyard.ModelyardError):
        client.download(fake.version(), tmp_path / "fetched")
    for request in fake.requests:
        if "downloads" not in str(request.url):
            # A path that merely looks like an address stays a path of the registry.
            assert request.url.host == "registry.test"
            assert ("Authorization" in request.headers) == url.startswith("/")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://store.test/x", "file:///etc/passwd", "", "nonsense", "http://[::1", "javascript:x"),
        *("http:///x", "http://a b/x", "http://store.test:99999999/x", "http://"),
    ],
)
def test_an_address_that_is_not_http_is_refused(url: str) -> None:
    with Client(URL, TOKEN) as client:
        with pytest.raises(UnexpectedAnswer, match="cannot be used"):
            client._http.put(url, iter([b"x"]), size=1, headers={}, wait_s=0)
        with pytest.raises(UnexpectedAnswer, match="cannot be used"), client._http.stream(url):
            pass


def test_a_presigned_url_is_a_secret_that_no_message_repeats(tmp_path: Any) -> None:
    fake = FakeRegistry({"a": b"hello"})
    fake.listed = fake.downloads()
    fake.listed["blobs"][0]["url"] = f"{STORE}/key?X-Amz-Signature=s3cr3t"
    for failure in (httpx2.ConnectError("refused"), httpx2.Response(403), httpx2.Response(500)):

        def fail(
            request: httpx2.Request, failure: httpx2.Response | Exception = failure
        ) -> httpx2.Response | None:
            if not str(request.url).startswith(STORE):
                return None
            if isinstance(failure, Exception):
                raise failure
            return failure

        fake.before = fail
        with fake.client() as client, pytest.raises(modelyard.ModelyardError) as caught:
            client.download(fake.version(), tmp_path / "fetched")
        assert "store.test" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)


def test_a_presigned_url_is_a_secret_that_no_log_repeats(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx2 logs every URL at level INFO."""
    fake = FakeRegistry({"a": b"hello"})
    fake.listed = fake.downloads()
    fake.listed["blobs"][0]["url"] = f"{STORE}/bytes/a?X-Amz-Signature=s3cr3t&X-Amz-Expires=9"
    with caplog.at_level(logging.DEBUG), fake.client() as client, fake.client():
        client.download(fake.version(), tmp_path / "fetched")
    assert f"HTTP Request: GET {STORE}/bytes/a?..." in caplog.text
    assert "s3cr3t" not in caplog.text


def test_pages_are_followed_to_the_end_and_never_in_a_circle() -> None:
    def page(items: list[str], following: str | None) -> httpx2.Response:
        models: list[Any] = [
            {
                "name": n,
                "description": "",
                "created_at": "2026-11-22T07:00:00.000000Z",
                "latest": None,
                "pointers": [],
            }
            for n in items
        ]
        return httpx2.Response(200, json={"items": models, "next": following})

    client, asked = client_that_gets(page(["a", "b"], "b"), page(["c"], None))
    assert [model.name for model in client.models(search="x")] == ["a", "b", "c"]
    assert [dict(each.url.params) for each in asked] == [
        {"search": "x", "limit": "100"},
        {"search": "x", "limit": "100", "after": "b"},
    ]
    client, _ = client_that_gets(page(["a"], "same"))
    with pytest.raises(UnexpectedAnswer, match="same page twice"):
        list(client.models())


@pytest.mark.parametrize("name", ["../secrets", "a/b", "", "a?b", "a#b", "%2e%2e"])
def test_a_name_that_would_change_the_path_is_refused_before_a_request(name: str) -> None:
    client, asked = client_that_gets(ok())
    for call in (
        lambda: client.promote(name, 1),
        lambda: client.rollback(name),
        lambda: client.model(name),
        lambda: client.history(name),
        lambda: client.versions(name),
        lambda: client.pointer(name, "production"),
        lambda: client.pointer("fraud", name or "/"),
        lambda: client.remove_alias("fraud", name or "/"),
        lambda: client.events(0, models=[name]),
        lambda: client.register(name, "."),
    ):
        with pytest.raises(modelyard.InvalidReference):
            call()
    assert asked == []


def test_a_vacant_pointer_resolves_to_not_found() -> None:
    vacant = {
        "model": "fraud",
        "name": "canary",
        "kind": "alias",
        "number": None,
        "generation": 2,
        "moved_at": "2026-11-22T07:00:00.000000Z",
        "moved_by": "x",
    }
    client, _ = client_that_gets(httpx2.Response(200, json=vacant))
    with pytest.raises(modelyard.NotFound, match="fraud@canary") as caught:
        client.resolve("fraud@canary")
    assert caught.value.code == "pointer_vacant"


def test_the_feed_waits_as_long_as_it_was_told_and_a_little_longer() -> None:
    client, asked = client_that_gets(httpx2.Response(200, json={"revision": 9, "events": []}))
    assert client.events(9, wait_s=50, models=["a", "b"]) == modelyard.Feed(9, ())
    assert asked[0].url.params.multi_items() == [
        ("since", "9"),
        ("wait", "50"),
        ("model", "a"),
        ("model", "b"),
    ]
    assert asked[0].extensions["timeout"]["read"] == 80.0
