"""SIGTERM costs no request; SIGKILL leaves no process."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelyard import Client

from tests.servers.adapter import (
    Adapter,
    Answer,
    Load,
    adapters,
    descendants,
    infer_body,
    register_onnx,
    register_script,
    value,
)
from tests.servers.ports import wait_until

StartAdapter = Callable[..., Adapter]


@pytest.fixture
def start_adapter(tmp_path: Path) -> Iterator[StartAdapter]:
    with adapters(tmp_path) as start:
        yield start


@pytest.fixture
def client(registry_url: str) -> Iterator[Client]:
    with Client(registry_url) as client:
        yield client


def test_sigterm_under_load_fails_no_request(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """Clients go on until they are told "not ready", as behind a load balancer; requests of 1 s are still inside then."""
    register_script(client, "term", tmp_path / "1", {"answer": 1, "predict_s": 1})
    client.promote("term", 1)
    adapter = start_adapter(client.url, "term", threads=8, drain_s=1)
    adapter.wait_ready()
    late: list[Answer] = []
    with Load(adapter, "term", clients=4) as load:
        assert adapter.process is not None
        adapter.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: adapter.get("/v2/health/ready").status == 503,
            timeout_s=5,
            what="the adapter not to be ready",
        )
        assert adapter.get("/v2/health/live").status == 200
        last = threading.Thread(target=lambda: late.append(adapter.infer("term")))
        last.start()
        load.stop()
    last.join()
    load.assert_perfect()
    assert [value(answer) for answer in late] == [1]
    assert late[0].headers["connection"] == "close"
    assert adapter.process.wait(30) == 0
    assert not descendants(adapter.pid)


def test_requests_inside_are_finished_although_there_is_no_drain_delay(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_script(client, "inside", tmp_path / "1", {"answer": 1, "predict_s": 2})
    client.promote("inside", 1)
    adapter = start_adapter(client.url, "inside", threads=8, drain_s=0)
    adapter.wait_ready()
    answers: list[Answer] = []
    clients = [threading.Thread(target=lambda: answers.append(adapter.infer("inside"))) for _ in range(6)]
    for each in clients:
        each.start()
    wait_until(
        lambda: adapter.status("inside")["requests"] == 6, timeout_s=10, what="all requests to be inside"
    )
    assert adapter.stop() == 0
    for each in clients:
        each.join()
    assert [value(answer) for answer in answers] == [1] * 6


def test_sigterm_while_a_version_is_loading_ends_at_once(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_onnx(client, "loading", tmp_path / "1", 1)
    register_script(client, "loading", tmp_path / "2", {"load": "hang"})
    client.promote("loading", 1)
    adapter = start_adapter(client.url, "loading", drain_s=0)
    adapter.wait_ready()
    client.promote("loading", 2)
    wait_until(lambda: len(descendants(adapter.pid)) == 2, timeout_s=20, what="the candidate's process")
    started = time.monotonic()
    assert adapter.stop() == 0
    assert time.monotonic() - started < 5


def test_neither_a_model_that_hangs_nor_half_a_request_prevents_the_end(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    register_script(client, "endless", tmp_path / "1", {"answer": 1, "predict_s": 3600})
    client.promote("endless", 1)
    adapter = start_adapter(client.url, "endless", drain_s=0, stop_timeout_s=1)
    adapter.wait_ready()
    head = b"POST /v2/models/endless/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    address = ("127.0.0.1", adapter.port)
    with socket.create_connection(address) as half, socket.create_connection(address) as whole:
        half.sendall(head % 1000 + b"{")
        whole.sendall(head % len(infer_body()) + infer_body())
        wait_until(
            lambda: adapter.status("endless")["requests"] == 1, timeout_s=10, what="the request to be inside"
        )
        assert adapter.stop() == 0
    assert "ending without them" in adapter.log
    assert not descendants(adapter.pid)


def test_sigint_stops_as_sigterm_does(start_adapter: StartAdapter, registry_url: str) -> None:
    adapter = start_adapter(registry_url, drain_s=0)
    assert adapter.process is not None
    adapter.process.send_signal(signal.SIGINT)
    assert adapter.process.wait(20) == 0, adapter.log


def test_a_killed_adapter_leaves_no_process_behind(
    client: Client, start_adapter: StartAdapter, tmp_path: Path
) -> None:
    """Neither the fork server nor the candidate that it is trying."""
    register_onnx(client, "killed", tmp_path / "1", 1)
    register_script(client, "killed", tmp_path / "2", {"load": "hang"})
    client.promote("killed", 1)
    adapter = start_adapter(client.url, "killed")
    adapter.wait_ready()
    client.promote("killed", 2)
    wait_until(lambda: len(descendants(adapter.pid)) == 2, timeout_s=20, what="the candidate's process")
    children = descendants(adapter.pid)
    adapter.kill()
    wait_until(lambda: not any(is_running(pid) for pid in children), timeout_s=20, what="the children to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_port_that_is_taken_is_told(start_adapter: StartAdapter, registry_url: str) -> None:
    adapter = start_adapter(registry_url)
    other = Adapter(registry_url, adapter.home / "other", port=adapter.port)
    try:
        assert other.spawn().wait(20) != 0
    finally:
        other.kill()
    assert "in use" in other.log
    assert adapter.get("/v2/health/live").status == 200
