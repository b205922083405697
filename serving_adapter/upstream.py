"""The registry, as the adapter sees it: the SDK's client, and how long ago it last gave a good answer.

Nothing that goes wrong here touches what is being served; it is counted as staleness.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from modelyard import Feed, File, Model, ModelyardError, Pointer, ServerInfo, Version

T = TypeVar("T")


class Client(Protocol):
    """What is used of modelyard.Client."""

    def info(self) -> ServerInfo: ...
    def models(self) -> Iterable[Model]: ...
    def pointer(self, name: str, pointer: str) -> Pointer: ...
    def resolve(self, ref: str) -> Version: ...
    def events(self, since: int, *, wait_s: float, models: Iterable[str]) -> Feed: ...
    def download_files(self, version: Version, files: Iterable[File], dest: Path) -> Path: ...


class Upstream:
    """Passes questions on to the client; every method raises what the client raises."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url
        self._last_good = time.monotonic()
        self._error: str | None = None

    def info(self) -> ServerInfo:
        return self._ask(self._client.info)

    def models(self) -> list[Model]:
        return self._ask(lambda: list(self._client.models()))

    def pointer(self, model: str, pointer: str) -> Pointer:
        return self._ask(lambda: self._client.pointer(model, pointer))

    def version(self, model: str, number: int) -> Version:
        return self._ask(lambda: self._client.resolve(f"{model}/{number}"))

    def events(self, since: int, *, wait_s: float, models: Sequence[str]) -> Feed:
        return self._ask(lambda: self._client.events(since, wait_s=wait_s, models=models))

    def download_files(self, version: Version, files: Sequence[File], dest: Path) -> Path:
        return self._client.download_files(version, files, dest)

    def status(self) -> dict[str, object]:
        """`stale_s`: seconds since the last good answer; one comes at least as often as the feed's long poll ends."""
        return {
            "url": self._url,
            "stale_s": round(time.monotonic() - self._last_good, 3),
            "error": self._error,
        }

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            answer = question()
        except ModelyardError as error:
            self._error = str(error)
            raise
        self._last_good, self._error = time.monotonic(), None
        return answer
