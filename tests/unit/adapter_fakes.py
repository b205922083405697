"""A registry in memory, with the few methods of modelyard.Client that the adapter uses; it can fail on demand."""

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard import (
    ApiError,
    ConnectionFailed,
    Event,
    Feed,
    File,
    IntegrityError,
    Model,
    NotFound,
    Pointer,
    ServerInfo,
    Variant,
    Version,
)

from tests.servers.adapter_runtime import FORMAT

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def make_version(model: str, number: int, contents: dict[str, bytes], **changed: Any) -> Version:
    files = tuple(File(path, len(content), sha256(content)) for path, content in sorted(contents.items()))
    manifest = {"files": [file.to_wire() for file in files], "schema": "modelyard.manifest/1"}
    digest = sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    facts: dict[str, Any] = {
        "model": model,
        "number": number,
        "digest": digest,
        "format": FORMAT,
        "variants": (Variant(FORMAT, "model.json"),),
        "signature": None,
        "example": None,
        "description": "",
        "metrics": {},
        "tags": {},
        "files": files,
        "size": sum(file.size for file in files),
        "stage": "none",
        "aliases": (),
        "created_at": NOW,
        "created_by": "test",
    }
    return Version(**facts | changed)


@dataclass
class FakeClient:
    """What it knows is set by the test; what it is asked is recorded."""

    versions: dict[tuple[str, int], Version] = field(default_factory=dict)
    contents: dict[str, dict[str, bytes]] = field(default_factory=dict)
    pointers: dict[tuple[str, str], Pointer] = field(default_factory=dict)
    feed: list[Event] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    failing: bool = False
    damaged: bool = False
    asked: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    revision: int = 0
    trimmed: int = 0

    def add(
        self,
        model: str,
        number: int,
        script: dict[str, Any],
        more: dict[str, bytes] | None = None,
        **changed: Any,
    ) -> Version:
        contents = {"model.json": json.dumps(script | {"number": number}).encode(), **(more or {})}
        version = make_version(model, number, contents, **changed)
        self.versions[model, number] = version
        self.contents[version.digest] = contents
        return version

    def point(self, model: str, number: int | None, generation: int, pointer: str = "production") -> None:
        self.pointers[model, pointer] = Pointer(model, pointer, "stage", number, generation, NOW, "test")
        self.tell(
            "pointer.moved", model, {"pointer": pointer, "from": None, "to": number, "generation": generation}
        )

    def tell(self, kind: str, model: str, data: dict[str, Any]) -> None:
        """Add an event to the feed."""
        with self.changed:
            self.revision += 1
            self.feed.append(Event(self.revision, kind, model, data, NOW))
            self.changed.notify_all()

    def info(self) -> ServerInfo:
        self._ask("info")
        return ServerInfo("modelyard-registry", "0", self.revision)

    def models(self) -> list[Model]:
        self._ask("models")
        names = sorted({model for model, _ in self.versions})
        return [
            Model(name, "", NOW, 1, tuple(p for (model, _), p in self.pointers.items() if model == name))
            for name in names
        ]

    def pointer(self, name: str, pointer: str) -> Pointer:
        self._ask(f"pointer {name}@{pointer}")
        try:
            return self.pointers[name, pointer]
        except KeyError as error:
            raise NotFound("pointer_not_found", 404, "no such pointer") from error

    def resolve(self, ref: str) -> Version:
        self._ask(f"resolve {ref}")
        if ref in self.deleted:
            raise ApiError("version_deleted", 410, f"{ref} was deleted")
        model, _, number = ref.partition("/")
        return self.versions[model, int(number)]

    def events(self, since: int, *, wait_s: float, models: Iterable[str]) -> Feed:
        self._ask(f"events {since}")
        if since < self.trimmed:
            raise ApiError("events_trimmed", 410, "not kept any more", {"oldest": self.trimmed})
        wanted = set(models)
        with self.changed:
            self.changed.wait_for(lambda: self.revision > since, min(wait_s, 0.02))
            found = [e for e in self.feed if e.revision > since and (not wanted or e.model in wanted)]
            return Feed(self.revision, tuple(found))

    def download_files(self, version: Version, files: Iterable[File], dest: Path) -> Path:
        self._ask(f"download {version.number}")
        if self.damaged:
            raise IntegrityError("the bytes are not what the digest promises")
        dest.mkdir()
        for path in [file.path for file in files]:
            self.fetched.append(path)
            (dest / path).parent.mkdir(parents=True, exist_ok=True)
            (dest / path).write_bytes(self.contents[version.digest][path])
        return dest

    def _ask(self, question: str) -> None:
        self.asked.append(question)
        if self.failing:
            raise ConnectionFailed("nobody answers")
