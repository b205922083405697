"""Running the application: granian's embedded server, so that this process keeps its signals.

    SIGTERM, SIGINT ──> waiting watchers are answered ──> requests in flight finish (at most drain_s) ──> exit 0

A server that owns the signals would wait for every long poll to end by itself.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from registry.app import create_app
from registry.settings import Settings

_OTHERS = 1000
"""Connections beside those of watchers."""

log = logging.getLogger("modelyard.registry")


class AddressInUse(Exception):
    """Something else listens there."""


def serve(settings: Settings) -> None:
    """Serve until a signal comes. Raises AddressInUse."""
    _require_free(settings.host, settings.port)
    _allow_many_files()
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    app = create_app(settings)
    # All that there is by now stays. Looking through it, the collector kept one request in fifty waiting for 150 ms.
    gc.freeze()
    server = Server(
        app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=1024,
        # The server takes no more connections than this, and each waiting watcher has one.
        backpressure=settings.max_watchers + _OTHERS,
        log_enabled=False,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve())
    log.info("listening on http://%s:%d", settings.host, settings.port)
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        raise RuntimeError("the HTTP server ended by itself")
    log.info("stopping")
    app.state.feed.close()
    server.stop()  # type: ignore[no-untyped-call]  # granian annotates all but this
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(serving, settings.drain_s)


def _allow_many_files() -> None:
    # Each watcher's connection is an open file, and many systems begin with a limit of 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _require_free(host: str, port: int) -> None:
    # granian shares its port with whoever asks (SO_REUSEPORT): a second registry would silently take half the requests.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise AddressInUse(f"cannot listen on {host}:{port}: {error.strerror}") from error
