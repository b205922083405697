"""What the registry tells, as values: frozen dataclasses, each read from the wire by its `from_wire`.

Model ── Pointer*                     Version ── File*, Variant*, Signature ── Tensor* (inputs, outputs)
Promotion ── Pointer                  Move (history)          Feed ── Event*          ServerInfo

Unknown fields are ignored, so that an old client understands a new registry. Every time is an aware datetime in UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

Wire = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was found but not hashed: relative POSIX `path`, `size` in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version: relative POSIX `path`, `size` in bytes, `digest` = "sha256:" and 64 hexadecimal digits."""

    path: str
    size: int
    digest: str

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        path, size, digest = wire["path"], wire["size"], wire["digest"]
        # These three decide what is written where, so nothing is converted or assumed.
        if not (isinstance(path, str) and type(size) is int and isinstance(digest, str)):
            raise TypeError("path and digest are strings, size is an integer")
        return cls(path=path, size=size, digest=digest)

    def to_wire(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to load a version: the file or folder at `path` holds it in `format`."""

    format: str
    path: str

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(format=wire["format"], path=wire["path"])

    def to_wire(self) -> dict[str, Any]:
        return {"format": self.format, "path": self.path}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, datatype and shape of one input or output; -1 in `shape` stands for any size.

    Datatypes are those of the Open Inference Protocol V2: BOOL, UINT8 to UINT64, INT8 to INT64, FP16 to FP64, BYTES
    (text is BYTES too).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(name=wire["name"], datatype=wire["datatype"], shape=tuple(wire["shape"]))

    def to_wire(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a version takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            inputs=tuple(Tensor.from_wire(each) for each in wire["inputs"]),
            outputs=tuple(Tensor.from_wire(each) for each in wire["outputs"]),
        )

    def to_wire(self) -> dict[str, Any]:
        return {
            "inputs": [each.to_wire() for each in self.inputs],
            "outputs": [each.to_wire() for each in self.outputs],
        }


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable version of a model. `digest` is that of its manifest, `size` the sum of its files in bytes.

    `stage` (none, staging, production, archived) and `aliases` are what they were when the registry answered, and so are
    `verified` (the registry has read all bytes; before that it cannot be promoted), `damaged` and `legal_hold`.
    """

    model: str
    number: int
    digest: str
    format: str
    variants: tuple[Variant, ...]
    signature: Signature | None
    example: str | None
    description: str
    metrics: dict[str, float]
    tags: dict[str, str]
    files: tuple[File, ...]
    size: int
    stage: str
    aliases: tuple[str, ...]
    created_at: datetime
    created_by: str
    verified: bool = True
    damaged: bool = False
    legal_hold: str | None = None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        signature = wire["signature"]
        return cls(
            model=wire["model"],
            number=wire["number"],
            digest=wire["digest"],
            format=wire["format"],
            variants=tuple(Variant.from_wire(each) for each in wire["variants"]),
            signature=None if signature is None else Signature.from_wire(signature),
            example=wire["example"],
            description=wire["description"],
            metrics=dict(wire["metrics"]),
            tags=dict(wire["tags"]),
            files=tuple(File.from_wire(each) for each in wire["files"]),
            size=wire["size"],
            stage=wire["stage"],
            aliases=tuple(wire["aliases"]),
            created_at=datetime.fromisoformat(wire["created_at"]),
            created_by=wire["created_by"],
            verified=wire.get("verified", True),
            damaged=wire.get("damaged", False),
            legal_hold=wire.get("legal_hold"),
        )


@dataclass(frozen=True, slots=True)
class Pointer:
    """A stage or alias. `number` is None while nothing holds it; `generation` grows with every move."""

    model: str
    name: str
    kind: str
    number: int | None
    generation: int
    moved_at: datetime
    moved_by: str

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            model=wire["model"],
            name=wire["name"],
            kind=wire["kind"],
            number=wire["number"],
            generation=wire["generation"],
            moved_at=datetime.fromisoformat(wire["moved_at"]),
            moved_by=wire["moved_by"],
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its name, its newest version's number (None before the first), its pointers; why it is `frozen` (None: it is not)."""

    name: str
    description: str
    created_at: datetime
    latest: int | None
    pointers: tuple[Pointer, ...]
    frozen: str | None = None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            name=wire["name"],
            description=wire["description"],
            created_at=datetime.fromisoformat(wire["created_at"]),
            latest=wire["latest"],
            pointers=tuple(Pointer.from_wire(each) for each in wire["pointers"]),
            frozen=wire.get("frozen"),
        )


@dataclass(frozen=True, slots=True)
class Promotion:
    """The outcome of a promotion or rollback. `moved` is False when everything already was as asked.

    `request` is a number when nothing has moved yet: that of the promotion request which others have to approve, or whose
    time has to come.

    `revision` is that of the change feed after it: `events(since=revision)` tells what happened later.
    """

    model: str
    number: int | None
    stage: str | None
    pointer: Pointer | None
    moved: bool
    revision: int | None
    request: int | None = None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        pointer = wire["pointer"]
        return cls(
            model=wire["model"],
            number=wire["number"],
            stage=wire["stage"],
            pointer=None if pointer is None else Pointer.from_wire(pointer),
            moved=wire["moved"],
            revision=wire["revision"],
            request=wire.get("request"),
        )


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of a model's history: which pointer went from which version to which, by whom, when and why."""

    model: str
    pointer: str
    generation: int
    from_number: int | None
    to_number: int | None
    kind: str
    actor: str
    reason: str
    at: datetime
    digest: str
    previous_digest: str | None

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            model=wire["model"],
            pointer=wire["pointer"],
            generation=wire["generation"],
            from_number=wire["from"],
            to_number=wire["to"],
            kind=wire["kind"],
            actor=wire["actor"],
            reason=wire["reason"],
            at=datetime.fromisoformat(wire["at"]),
            digest=wire["digest"],
            previous_digest=wire["previous_digest"],
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the change feed. `data` depends on `kind`: see docs/sdk.md."""

    revision: int
    kind: str
    model: str
    data: dict[str, Any]
    at: datetime

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(
            revision=wire["revision"],
            kind=wire["kind"],
            model=wire["model"],
            data=dict(wire["data"]),
            at=datetime.fromisoformat(wire["at"]),
        )


@dataclass(frozen=True, slots=True)
class Feed:
    """Events after the revision that was asked for, and the revision to ask with next."""

    revision: int
    events: tuple[Event, ...]

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(revision=wire["revision"], events=tuple(Event.from_wire(each) for each in wire["events"]))


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says about itself; `revision` is where to begin with the change feed."""

    service: str
    version: str
    revision: int

    @classmethod
    def from_wire(cls, wire: Wire) -> Self:
        return cls(service=wire["service"], version=wire["version"], revision=wire["revision"])
