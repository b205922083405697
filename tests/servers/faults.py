"""A TCP proxy that breaks the connection in the middle of an answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def cutting_proxy(endpoint: str, *, after: int) -> Iterator[str]:
    """Forwards to `endpoint` and ends each connection after so many bytes of answers; yields its own URL."""
    target = urlsplit(endpoint)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(
            target=_accept, args=(listener, (target.hostname, target.port), after), daemon=True
        )
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def _accept(listener: socket.socket, target: tuple[str | None, int | None], after: int) -> None:
    with suppress(OSError):  # the listener was shut down
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(target)
            threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, after), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    """Copy until either side ends or `limit` bytes have passed, then end both sides."""
    with suppress(OSError):
        while limit is None or limit > 0:
            data = source.recv(65536 if limit is None else min(limit, 65536))
            if not data:
                break
            sink.sendall(data)
            limit = None if limit is None else limit - len(data)
    for side in (source, sink):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
        side.close()
