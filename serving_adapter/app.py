"""The adapter, wired.

    registry ◀──feed, followers──▶ slots ◀──inference──◀ lane ◀──protocols──◀ HTTP server ◀── clients
                     │
                     └──▶ workshop: cache, loader's child, runtimes
    registry ◀──reporter──▶ slots: it tells what they run

It answers from its first moment (live, not ready), whatever the registry does. At SIGTERM or SIGINT it says that it is
not ready, keeps accepting for the drain delay, then finishes what is in flight and ends.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from typing import NoReturn

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server
from modelyard import Client

from serving_adapter.cache import Cache
from serving_adapter.feed import FeedReader, Followers
from serving_adapter.infer import Inference
from serving_adapter.lane import Lane
from serving_adapter.loader import Loader
from serving_adapter.prepare import Workshop
from serving_adapter.protocols.http import HttpApp, WireProtocol
from serving_adapter.protocols.oip_rest import OipRest
from serving_adapter.protocols.status import Status
from serving_adapter.report import Reporter
from serving_adapter.settings import Settings
from serving_adapter.slots import Slots
from serving_adapter.upstream import Upstream

log = logging.getLogger(__name__)

_BACKLOG = 1024
_CONNECTIONS = 4096


def run(settings: Settings) -> NoReturn:
    """Serve, then end the process with status 0; raises what `serve` raises."""
    uvloop.run(serve(settings))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may be waiting for the registry, or be inside a library that loads a model. What it would do matters no
    # more, and ending the interpreter around it can crash it: so no destructors.
    os._exit(0)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises UnsafeDirectory, OSError or modelyard.ConfigurationError if it cannot start.
    """
    _require_free(settings.host, settings.port)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(settings.registry))
        upstream = Upstream(client, client.url)
        cache = Cache(settings.cache_dir, upstream)
        cache.prepare()

        slots = Slots(follow_all=not settings.models)
        stack.callback(slots.close)
        lane = Lane(threads=settings.threads, max_queue=settings.max_queue)
        stack.callback(lane.close)
        protocols: list[WireProtocol] = [OipRest(slots, Inference(slots)), Status(slots, upstream)]
        http = HttpApp(protocols, lane, max_body_bytes=settings.max_body_bytes)

        runtimes = settings.formats.values()
        loader = Loader(runtimes, timeout_s=settings.load_timeout_s, memory_bytes=settings.load_memory_bytes)
        loader.start()
        stack.callback(loader.close)
        followers = Followers(slots, upstream, Workshop(settings, cache, loader))
        stack.callback(followers.stop)
        for following in settings.models:
            followers.follow(following)
        feed = FeedReader(upstream, followers, slots, follow_all=not settings.models)
        feed.start()
        stack.callback(feed.stop)
        reporter = Reporter(client, slots, settings.reported_name)
        reporter.start()
        stack.callback(reporter.stop)

        log.info("http://%s:%d follows the registry at %s", settings.host, settings.port, client.url)
        await _listen(http, slots, settings)


def _require_free(host: str, port: int) -> None:
    """Raise OSError if something listens there: the server itself would share the port with it, request by request."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


async def _listen(http: HttpApp, slots: Slots, settings: Settings) -> None:
    server = Server(
        http,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        backlog=_BACKLOG,
        backpressure=_CONNECTIONS,
        websockets=False,
        log_enabled=False,  # what it would log, "experimental" first of all, is nothing that an operator can act on
    )
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(_asked_to_stop())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if serving.done():
        await serving  # raises why it could not start
        return
    log.info("stopping: not ready any more, accepting for another %g s", settings.drain_s)
    slots.stop()
    http.stop()
    await asyncio.sleep(settings.drain_s)
    server.stop()  # type: ignore[no-untyped-call]  # granian annotates its classes in part
    if not (await asyncio.wait([serving], timeout=settings.stop_timeout_s))[0]:
        log.warning("some requests have not ended within %g s; ending without them", settings.stop_timeout_s)


async def _asked_to_stop() -> None:
    """Return at the first SIGTERM or SIGINT. A second one has its usual effect: at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
