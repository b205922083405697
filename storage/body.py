"""A blob that comes over the network, as an ordinary binary file."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

BUFFER = 256 << 10  # bytes; small reads by the caller become few reads of the socket


class Response(Protocol):
    """What botocore's and urllib3's streams have in common."""

    def read(self, amt: int | None = None) -> bytes: ...
    def close(self) -> None: ...


def readable(response: Response, border: Callable[[], AbstractContextManager[None]]) -> BinaryIO:
    """`response` as a buffered file; `border` translates its errors, and closing it frees the connection."""
    return io.BufferedReader(_Body(response, border), BUFFER)


class _Body(io.RawIOBase):
    def __init__(self, response: Response, border: Callable[[], AbstractContextManager[None]]) -> None:
        self._response = response
        self._border = border

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        with self._border():
            data = self._response.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()
