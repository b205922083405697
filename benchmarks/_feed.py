"""From a commit to a waiting watcher: two registry processes on one database, half of the watchers on each, one writer.

writer ──promotions──> registry 1 or 2, in turn ──commit──> database ──> both registries ──> watchers, all in one process

All processes of a machine share the monotonic clock. A latency is counted from the writer's answer, which comes a moment
after the commit (a watcher may have heard before that: then it is negative), and from before the writer's request.

    python -m benchmarks.registry --only feed
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelyard
import uvloop

from benchmarks._report import Row, inform, within
from deploy.local import TOKENS
from tests.servers.registry import Registry

PROCESSES = 2
WATCHERS = 200
LIMIT_MS = 100.0
MODEL = "watched"
PAUSE_S = 0.25
"""Between two commits: watchers of a long poll have asked again by then, as they have in life."""

Heard = Sequence[Sequence[tuple[int, float]]]
"""For each watcher the revisions that it was shown, and when."""


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from a commit to its receipt, over all commits and watchers."""

    watchers: int
    commits: int
    from_answer_p50: float
    from_answer_p99: float
    from_request_p50: float
    from_request_p99: float


def feed(home: Path, new_database: Callable[[], str], commits: int, token: str) -> list[Row]:
    """The p99 of `commits` commits and 200 watchers, by long polls and streams, on PostgreSQL and on SQLite."""
    rows: list[Row] = []
    for name, stream in (("postgresql", False), ("postgresql", True), ("sqlite", False)):
        folder = home / f"feed-{len(rows)}"
        folder.mkdir()
        url = new_database() if name == "postgresql" else f"sqlite:///{folder / 'registry.db'}"
        print(f"feed: {WATCHERS} watchers on {name}, {commits} commits …", file=sys.stderr)
        found = measure(url, folder, token, watchers=WATCHERS, commits=commits, stream=stream)
        what = f"{name}_{'stream' if stream else 'poll'}"
        rows += [
            within(f"commit_to_watcher_p99_{what}", "ms", [found.from_answer_p99], LIMIT_MS),
            inform(f"request_to_watcher_p99_{what}", "ms", [found.from_request_p99]),
        ]
    return rows


def measure(
    database_url: str,
    home: Path,
    token: str,
    *,
    watchers: int,
    commits: int,
    stream: bool,
) -> Latencies:
    """Measure on an empty database, with this token of an administrator, by long polls or by streams.

    Raises RuntimeError if a watcher missed an event, or was shown one twice.
    """
    with _registries(database_url, home, token) as urls:
        writers = [modelyard.Client(url, token) for url in urls]
        for number in (1, 2):
            (home / "model").write_text(f"version {number}")
            writers[0].register(MODEL, home / "model")
        given = {"urls": urls, "token": token, "watchers": watchers, "commits": commits, "stream": stream}
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks._feed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            _tell(child, {**given, "since": writers[0].info().revision})
            _hear(child)  # all have asked
            # They have sent their requests; no side can say that a server has read the last of them.
            time.sleep(1)
            written = _write(writers, commits)
            return _latencies(written, _hear(child))


def _write(writers: Sequence[modelyard.Client], commits: int) -> dict[int, tuple[float, float]]:
    """Promote in turn; for each revision the time before the request, and that after the answer."""
    written = {}
    for turn in range(commits):
        before = time.monotonic()
        promotion = writers[turn % PROCESSES].promote(MODEL, 1 + turn % 2, "champion")
        written[int(promotion.revision or 0)] = before, time.monotonic()
        time.sleep(PAUSE_S)
    return written


def _latencies(written: Mapping[int, tuple[float, float]], heard: Heard) -> Latencies:
    if any([revision for revision, _ in each] != list(written) for each in heard):
        raise RuntimeError("a watcher missed an event, or was shown one twice")
    receipts = [receipt for each in heard for receipt in each]
    found: list[float] = []
    for begin in (1, 0):
        since = [1000 * (at - written[revision][begin]) for revision, at in receipts]
        percentiles = statistics.quantiles(since, n=100)
        found += percentiles[49], percentiles[98]
    return Latencies(len(heard), len(written), *found)


@contextmanager
def _registries(database_url: str, home: Path, token: str) -> Iterator[list[str]]:
    environment = dict.fromkeys(TOKENS, token)
    with ExitStack() as stack:
        urls = []
        for number in range(PROCESSES):
            registry = Registry(
                home / f"registry-{number}",
                database_url=database_url,
                storage_url=(home / "blobs").as_uri(),
                environment={**environment, "MODELYARD_REGISTRY_SECRET_KEY": token},
            )
            stack.callback(registry.kill)
            urls.append(registry.start().url)
        yield urls


def _tell(child: "subprocess.Popen[str]", given: object) -> None:
    print(json.dumps(given), file=child.stdin, flush=True)


def _hear(child: "subprocess.Popen[str]") -> Any:
    if child.stdout is None or not (line := child.stdout.readline()):
        raise RuntimeError("the watchers ended by themselves")
    return json.loads(line)


class _Poller(asyncio.Protocol):
    """A watcher that costs little: requests are written as text, answers are read by their length."""

    def __init__(self, head: str, since: int, commits: int) -> None:
        self._head = head
        self._since = since
        self._commits = commits
        self._received = b""
        self.heard: list[tuple[int, float]] = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask(f"events?since={self._since}&wait=60")

    def _ask(self, query: str) -> None:
        self._transport.write(f"GET /api/v1/{query} HTTP/1.1\r\n{self._head}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]):
            self._received = b""
            feed = json.loads(body)
            self._shown([event["revision"] for event in feed["events"]], at)
            if not self.done.done():
                self._ask(f"events?since={feed['revision']}&wait=60")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("a server ended"))

    def _shown(self, revisions: Sequence[int], at: float) -> None:
        self.heard += [(revision, at) for revision in revisions]
        if len(self.heard) >= self._commits and not self.done.done():
            self.done.set_result(None)


class _Streamer(_Poller):
    """A watcher of a stream."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask(f"events/stream?since={self._since}")

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        *frames, self._received = (self._received + data).split(b"\n\n")
        texts = [frame.partition(b"data: ")[2] for frame in frames]
        self._shown([json.loads(text)["revision"] for text in texts if text], at)


async def _watch(
    urls: Sequence[str], token: str, watchers: int, since: int, commits: int, *, stream: bool
) -> None:
    loop = asyncio.get_running_loop()
    protocols: list[_Poller] = []
    for number in range(watchers):
        host, _, port = urls[number % len(urls)].removeprefix("http://").partition(":")
        head = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}"
        protocol = (_Streamer if stream else _Poller)(head, since, commits)
        await loop.create_connection(lambda ready=protocol: ready, host, int(port))  # type: ignore[misc]
        protocols.append(protocol)
    print("true", flush=True)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    print(json.dumps([protocol.heard for protocol in protocols]), flush=True)


if __name__ == "__main__":
    uvloop.run(_watch(**json.loads(sys.stdin.readline())))
