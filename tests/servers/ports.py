"""Free loopback ports, and waiting for what will listen on them."""

import http.client
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

POLL_S = 0.05


def free_port() -> int:
    """A TCP port that was free on 127.0.0.1 a moment ago: start the listener at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, *, timeout_s: float = 30.0, host: str = "127.0.0.1") -> None:
    """Return once something accepts TCP connections there; TimeoutError if nothing does in time."""
    wait_until(lambda: _accepts(host, port), timeout_s=timeout_s, what=f"{host}:{port} to accept connections")


def wait_for_http(url: str, *, timeout_s: float = 30.0) -> int:
    """The status of the first answer to GET `url` that is not a 5xx; TimeoutError if none comes in time."""
    seen: list[int] = []

    def answered() -> bool:
        status = _status(url)
        if status is None or status >= 500:
            return False
        seen.append(status)
        return True

    wait_until(answered, timeout_s=timeout_s, what=f"{url} to answer")
    return seen[0]


def wait_until(happened: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll `happened` until it is true; TimeoutError, naming what was waited for, if it stays false."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _status(url: str) -> int | None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
