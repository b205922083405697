"""The change feed across registry processes, on both databases: real servers, real clients.

The process of the test is one more writer: what it commits, nobody announces but the database.
"""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
import sqlalchemy as sa

from registry import events, trim
from registry.database import Database
from registry.tables import EventRow, ModelRow
from registry.tail import APPLICATION
from tests.servers import sse
from tests.servers.app import ADMIN, KINDS, NewDatabase, assert_problem, promote, publish
from tests.servers.ports import wait_until
from tests.servers.registry import Registry

MODEL = "fraud"
NEVER = {"MODELYARD_REGISTRY_FEED_POLL_S": "3600"}
"""Nothing is found by looking now and then: what is heard was told."""

Start = Callable[..., Registry]


class Site:
    """Two registries on one database, on which this process writes, too."""

    def __init__(self, database_url: str, registries: list[Registry]) -> None:
        self.database = Database(database_url)
        self.registries = registries
        self.apis = [
            httpx2.Client(base_url=registry.url, headers=ADMIN, timeout=60) for registry in registries
        ]
        for content in (b"one", b"two"):
            publish(self.apis[0], MODEL, {"model.bin": content})

    def record(self, count: int = 1, *, text: str = "", told: bool = True) -> int:
        """Commit events as another process would; returns the last revision."""
        with self.database.write() as session:
            if not told and not self.database.is_sqlite:
                session.execute(sa.text("SET LOCAL session_replication_role = replica"))  # no triggers
            model = session.scalars(sa.select(ModelRow)).one()
            return [
                events.record(session, model, "test.made", {"number": n, "text": text}) for n in range(count)
            ][-1]

    def revision(self) -> int:
        with self.database.read() as session:
            return events.latest_revision(session)

    def poll(self, since: int, at: int = 0, wait: float = 30) -> dict[str, Any]:
        answer = self.apis[at].get("/api/v1/events", params={"since": since, "wait": wait})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def close(self) -> None:
        for api in self.apis:
            api.close()
        self.database.close()


@pytest.fixture
def open_site(
    new_database: NewDatabase, start_registry: Start, tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    sites = []

    def open_(kind: str, processes: int = 2, **environment: str) -> Site:
        url = new_database(kind, tmp_path)
        storage_url = (tmp_path / "blobs").as_uri()
        registries = [
            start_registry(database_url=url, storage_url=storage_url, environment=environment)
            for _ in range(processes)
        ]
        sites.append(Site(url, registries))
        return sites[-1]

    yield open_
    for site in sites:
        site.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, open_site: Callable[..., Site]) -> Site:
    return open_site(kind, **NEVER)


def poll_until(site: Site, since: int, last: int, turns: list[int]) -> list[int]:
    """The revisions that a watcher is shown that asks the registries in turn."""
    heard: list[int] = []
    while not heard or heard[-1] < last:
        found = site.poll(heard[-1] if heard else since, turns[len(heard) % len(turns)])
        heard += [event["revision"] for event in found["events"]]
    return heard


def stream_until(site: Site, since: int, last: int, at: int) -> list[int]:
    """The revisions on streams of a client that reconnects after every few events."""
    heard: list[int] = []
    while not heard or heard[-1] < last:
        headers = {**ADMIN, "Last-Event-ID": str(heard[-1] if heard else since)}
        with sse.streamed(site.registries[at].url, headers) as frames:
            for frame, _ in zip(sse.events(frames), range(17), strict=False):
                heard.append(int(frame.id or 0))
                if heard[-1] == last:
                    break
    return heard


def test_every_watcher_hears_everything_once_in_order_while_many_write(site: Site) -> None:
    since = site.revision()
    each, writers = 20, 4
    last = since + each * (writers + 1)

    def promote_often(writer: int) -> None:
        for turn in range(each):
            answer = promote(site.apis[writer % 2], MODEL, 1 + turn % 2, f"alias-{writer}")
            assert answer.json()["moved"], answer.text

    with ThreadPoolExecutor(16) as pool:
        watchers = [
            *(pool.submit(poll_until, site, since, last, turns) for turns in ([0], [1], [0, 1], [1, 0])),
            *(pool.submit(stream_until, site, since, last, at) for at in (0, 1)),
        ]
        writing = [pool.submit(promote_often, writer) for writer in range(writers)]
        for _ in range(each):
            site.record()
        for done in writing:
            done.result()
        heard = [watcher.result() for watcher in watchers]
    assert heard == [list(range(since + 1, last + 1))] * len(watchers)


def test_a_server_that_stops_lets_its_watchers_go(site: Site) -> None:
    since = site.revision()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(site.poll(since)))
    thread.start()
    with sse.streamed(site.registries[0].url) as frames:
        next(frames)
        began = time.monotonic()
        assert site.registries[0].stop() == 0
        assert [
            frame for frame in frames if frame.data
        ] == []  # it ends as it should, or httpx2 would complain
    thread.join(30)
    assert answers == [{"revision": since, "events": []}]
    assert time.monotonic() - began < 10  # which is drain_s


def test_a_stream_goes_on_where_it_was_at_another_server(site: Site) -> None:
    first, second = site.registries
    with sse.streamed(first.url) as frames:
        begin = next(frames).id
        heard = site.record()
        assert next(sse.events(frames)).id == heard == (begin or 0) + 1
    missed = [site.record() for _ in range(3)]
    first.kill()
    with sse.streamed(second.url, {**ADMIN, "Last-Event-ID": str(heard)}) as frames:
        assert [next(sse.events(frames)).id for _ in missed] == missed


def listening(postgres_url: str) -> list[int]:
    """The processes of PostgreSQL behind the connections that listen."""
    parts = urlsplit(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = %s",
            [parts.path.strip("/"), APPLICATION],
        )
        return [pid for (pid,) in found]


def cut(site: Site) -> None:
    """Cut the connections that listen."""
    url = site.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    for pid in listening(url):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_connection_that_is_cut_loses_nothing(open_site: Callable[..., Site]) -> None:
    """What was committed while nobody listened is found by looking at the counter, once somebody listens again."""
    site = open_site("postgresql", **NEVER)
    since = site.revision()
    with (
        sse.streamed(site.registries[0].url, since=since) as one,
        sse.streamed(site.registries[1].url, since=since) as other,
    ):
        next(one), next(other)
        for _ in range(3):
            untold = site.record(told=False)
            cut(site)
            told = site.record()
            for frames in (one, other):
                assert [next(sse.events(frames)).id for _ in range(2)] == [untold, told]


def test_without_notifications_events_are_found_by_looking_now_and_then(
    open_site: Callable[..., Site],
) -> None:
    """A pooler in transaction mode passes none on."""
    site = open_site("postgresql", MODELYARD_REGISTRY_FEED_POLL_S="0.2")
    since = site.revision()
    with sse.streamed(site.registries[0].url, since=since) as frames:
        next(frames)
        for _ in range(3):
            revision = site.record(told=False)
            assert next(sse.events(frames)).id == revision


def test_a_slow_reader_costs_no_memory_and_loses_nothing(kind: str, open_site: Callable[..., Site]) -> None:
    """Thirty that read nothing, and 20 MB of events for each: were they kept for them, that would be 600 MB."""
    site = open_site(kind, 1)
    (registry,) = site.registries
    since = site.revision()
    slow = [slow_reader(registry, since) for _ in range(30)]
    before = memory_mb(registry)
    text = "x" * 9000
    for _ in range(22):
        last = site.record(100, text=text)
    assert poll_until(site, since, last, [0])[-1] == last  # memory has been filled, and has let the first go
    assert memory_mb(registry) - before < 200
    with slow[0].makefile("rb") as file:
        lines = (line.decode().rstrip("\r\n") for line in file)
        for line in lines:
            if not line:
                break  # the end of the head
        shown = [
            frame.id for frame in itertools.islice(sse.events(sse.frames(_unchunked(lines))), last - since)
        ]
    assert shown == list(range(since + 1, last + 1))
    for each in slow:
        each.close()


def _unchunked(lines: Iterator[str]) -> Iterator[str]:
    # The lines between are those of the chunked encoding: a length, and an empty one after what has that length.
    rest = ""
    for line in lines:
        size = int(line, 16)
        while size > 0:
            text = next(lines)
            size -= len(text) + 1
            rest += text
            if size >= 0:
                yield rest
                rest = ""
        next(lines, None)


def slow_reader(registry: Registry, since: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", registry.port))
    token = ADMIN["Authorization"]
    connection.sendall(
        f"GET /api/v1/events/stream?since={since} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\n\r\n".encode()
    )
    return connection


def memory_mb(registry: Registry) -> float:
    assert registry.process is not None
    status = Path(f"/proc/{registry.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_who_left_takes_no_place(kind: str, open_site: Callable[..., Site]) -> None:
    site = open_site(kind, 1, MODELYARD_REGISTRY_MAX_WATCHERS="2")
    (registry,) = site.registries
    since = site.revision()
    for query in (f"events?since={since}&wait=60", "events/stream"):
        for _ in range(3):
            leavers: list[socket.socket] = []
            while not is_full(site, since):  # which takes a place itself, for a moment
                leavers.append(connected(registry, query))
            for leaver in leavers:
                leaver.close()
            wait_until(lambda: not is_full(site, since), timeout_s=30, what="the places to be free")


def connected(registry: Registry, query: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", registry.port))
    token = ADMIN["Authorization"]
    connection.sendall(
        f"GET /api/v1/{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\n\r\n".encode()
    )
    return connection


def is_full(site: Site, since: int) -> bool:
    answer = site.apis[0].get("/api/v1/events", params={"since": since, "wait": 0.01})
    if answer.status_code == 200:
        return False
    assert_problem(answer, 503, "too_many_watchers")
    return True


def test_many_who_wait_leave_room_for_others(kind: str, open_site: Callable[..., Site]) -> None:
    """The HTTP server takes only so many connections at once, and each of these keeps one."""
    site = open_site(kind, 1)
    (registry,) = site.registries
    waiting = [connected(registry, f"events?since={site.revision()}&wait=60") for _ in range(300)]
    assert site.apis[0].get("/healthz").status_code == 200
    last = site.record()
    for connection in waiting:
        connection.settimeout(60)
        assert f'"revision":{last}' in connection.recv(65536).decode()
        connection.close()


def test_a_right_that_is_taken_ends_the_stream(kind: str, open_site: Callable[..., Site]) -> None:
    """On another server than the one where it was taken."""
    site = open_site(kind)
    _, there = site.registries
    admin = site.apis[0]
    assert admin.post("/api/v1/principals", json={"name": "robot"}).status_code == 201
    assert (
        admin.post(
            "/api/v1/grants", json={"role": "reader", "pattern": "*", "principal": "robot"}
        ).status_code
        == 201
    )
    token = admin.post("/api/v1/tokens", json={"name": "test", "principal": "robot"}).json()
    robot = {"Authorization": f"Bearer {token['token']}"}
    with sse.streamed(there.url, robot) as frames:
        next(frames)
        heard = site.record()
        assert next(sse.events(frames)).id == heard
        assert admin.delete(f"/api/v1/tokens/{robot['Authorization'].split('_')[1]}").status_code == 200
        began = time.monotonic()
        assert list(sse.events(frames)) == []
        assert time.monotonic() - began < 15  # 5 s, on a machine that has nothing else to do
    answer = httpx2.get(f"{there.url}/api/v1/events/stream", headers=robot)
    assert_problem(answer, 401, "unauthorized")


def test_trimming_beside_writers_and_watchers_hides_nothing_in_silence(site: Site) -> None:
    """A watcher hears everything in order, or is told that it has missed something."""
    since = site.revision()
    last = since + 300
    stopped = threading.Event()

    def trim_on() -> None:
        while not stopped.is_set():
            trim.trim(site.database, 0)

    def watch(at: int) -> int:
        place, told = since, 0
        while place < last:
            answer = site.apis[at].get("/api/v1/events", params={"since": place, "wait": 30, "limit": 7})
            if answer.status_code == 410:
                told += 1
                place = answer.json()["oldest"]
                continue
            assert answer.status_code == 200, answer.text
            found = [event["revision"] for event in answer.json()["events"]]
            assert found == list(range(place + 1, place + 1 + len(found)))
            place = answer.json()["revision"]
        return told

    with ThreadPoolExecutor(4) as pool:
        trimming = pool.submit(trim_on)
        watching = [pool.submit(watch, at) for at in (0, 1)]
        while site.record() < last:
            pass
        for watcher in watching:
            watcher.result()
        stopped.set()
        trimming.result()
    trim.trim(site.database, 0)
    with site.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(EventRow)) == 1
