"""The shapes of requests and answers. Requests refuse unknown fields; answers are read off the domain's values."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    StringConstraints,
)

from registry.domain import MAX_FILES, MAX_NUMBER, MAX_SIZE, MoveKind, PointerKind, Stage
from registry.http.fact_values import FactValue
from registry.publish import MAX_SEGMENTS
from registry.uploads import MAX_BLOBS

Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
# "" is the whole: no dataset, no slice.
Part = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Path = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Number = Annotated[int, Field(ge=1, le=MAX_NUMBER, strict=True)]
Generation = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
Digest = Annotated[str, Field(examples=["sha256:" + "0" * 64])]
# In UTC, always with microseconds: so texts sort as times do. (strftime would take a seventh of the time of a page.)
Time = Annotated[
    datetime,
    PlainSerializer(
        lambda at: f"{at.isoformat(timespec='microseconds')[:26]}Z", return_type=str, when_used="json"
    ),
]
# Within what both databases, and all time zones, can take.
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
Moment = Annotated[AwareDatetime, Field(ge=_FIRST, le=_LAST)]
Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True, populate_by_name=True)


class File(Request):
    """One file: a relative POSIX path, its size in bytes and the digest of its content."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    path: Annotated[str, Field(examples=["model.onnx"])]
    size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]
    digest: Digest


class Variant(Request):
    """A way to load the version: the file or folder at `path` holds it in `format`."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    format: Label
    path: Path


class Tensor(Request):
    """A named tensor; -1 in its shape stands for any size."""

    name: Label
    datatype: Datatype
    shape: Annotated[list[Annotated[int, Field(ge=-1, le=MAX_NUMBER, strict=True)]], Field(max_length=32)]


class Signature(Request):
    """Names, datatypes and shapes of what goes in and what comes out."""

    inputs: Annotated[list[Tensor], Field(max_length=1024)]
    outputs: Annotated[list[Tensor], Field(max_length=1024)]


class ModelCreate(Request):
    name: str
    description: Text = ""


Offset = Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]


class PlacedFile(File):
    """A file, and where its bytes are: [index into `blobs`, offset, length] each; null: a blob of its own, or known."""

    segments: Annotated[list[tuple[Offset, Offset, Offset]] | None, Field(max_length=MAX_SEGMENTS)] = None


class Metric(Request):
    """A metric, of the whole or of a slice of a dataset."""

    name: Label
    value: FiniteFloat
    dataset: Part = ""
    slice: Part = ""


class VersionCreate(Request):
    upload: Name
    files: Annotated[list[PlacedFile], Field(max_length=MAX_FILES)]
    blobs: Annotated[list[Digest], Field(max_length=MAX_BLOBS)] = []
    format: Annotated[Label, Field(max_length=64, examples=["onnx"])]
    variants: Annotated[list[Variant], Field(max_length=32)] = []
    signature: Signature | None = None
    example: Path | None = None
    description: Text = ""
    metrics: Annotated[dict[Label, FiniteFloat], Field(max_length=1000)] = {}
    measured: Annotated[
        list[Metric], Field(max_length=1000, description="metrics of datasets and slices")
    ] = []
    tags: Annotated[dict[Label, Text], Field(max_length=100)] = {}
    metadata: Annotated[dict[Label, FactValue], Field(max_length=200)] = {}
    parameters: Annotated[dict[Label, FactValue], Field(max_length=1000)] = {}


class PromotionCreate(Request):
    """Give version `number` the stage or alias `to`."""

    number: Number
    to: Annotated[
        str, Field(examples=["production"], description="production, staging, archived, none, or an alias")
    ]
    expected_generation: Annotated[
        Generation | None,
        Field(description="refuse (409) unless the pointer is at this generation; 0: it was never used"),
    ] = None
    reason: Text = ""
    at: Annotated[
        Moment | None, Field(description="not before then: until then it is a promotion request")
    ] = None


class RollbackCreate(Request):
    """Return `pointer` to the version that it held before its last promotion."""

    pointer: str = "production"
    expected_generation: Generation | None = None
    reason: Text = ""


class Pointer(Answer):
    """A stage or alias: the version that it holds (null: none), and how often it has moved."""

    model: str
    name: str
    kind: PointerKind
    number: int | None
    generation: int
    moved_at: Time
    moved_by: str


class Model(Answer):
    name: str
    description: str
    created_at: Time
    latest: int | None
    pointers: list[Pointer]
    frozen: Annotated[str | None, Field(description="why no pointer of it moves; null: they do")]


class Version(Answer):
    """A version, whose content is immutable: `digest` is that of its manifest and identifies it; `size` is in bytes.

    `metrics` are those without a dataset and slice; GET …/facts has all.
    """

    model: str
    number: int
    digest: str
    format: str
    variants: list[Variant]
    signature: dict[str, Any] | None
    example: str | None
    description: str
    metrics: dict[str, float]
    tags: dict[str, str]
    fact_revision: Annotated[int, Field(description="how often its facts were changed")]
    files: list[File]
    size: int
    stage: Stage
    aliases: list[str]
    verified: Annotated[
        bool,
        Field(description="whether the registry has read all its bytes; if not yet, it cannot be promoted"),
    ]
    damaged: Annotated[bool, Field(description="whether stored bytes are not what they should be")]
    created_at: Time
    created_by: str
    deleted_at: Time | None
    legal_hold: str | None


class StoredBlob(Answer):
    digest: str
    size: int
    url: str


class Download(Answer):
    """A file; either fetch it whole from `url`, or its segments: [index into `blobs`, offset, length] each."""

    path: str
    size: int
    digest: str
    url: str
    segments: list[tuple[int, int, int]]


class Downloads(Answer):
    blobs: list[StoredBlob]
    files: list[Download]


class Promotion(Answer):
    """What was done. `moved` is false when everything already was as asked; then there is no `revision`.

    `request`: it was not done, but asked for: the number of the promotion request.
    """

    model: str
    number: int | None
    stage: Stage | None
    pointer: Pointer | None
    moved: bool
    revision: int | None
    request: int | None


class Move(Answer):
    """One entry of a pointer's history; `digest` is computed over all of it and the entry before."""

    model: str
    pointer: str
    generation: int
    from_number: Annotated[int | None, Field(serialization_alias="from")]
    to_number: Annotated[int | None, Field(serialization_alias="to")]
    kind: MoveKind
    actor: str
    reason: str
    at: Time
    digest: str
    previous_digest: str


class Event(Answer):
    revision: int
    kind: str
    model: str
    data: dict[str, Any]
    at: Time


def event_text(event: object) -> bytes:
    """An event as JSON."""
    return Event.model_validate(event).model_dump_json().encode()


class Feed(Answer):
    """Events after the revision that was asked for, oldest first; ask from `revision` next time."""

    revision: int
    events: list[Event]


class ModelPage(Answer):
    items: list[Model]
    next: str | None


class VersionPage(Answer):
    items: list[Version]
    next: str | None


class MovePage(Answer):
    items: list[Move]
    next: str | None


class Pointers(Answer):
    items: list[Pointer]


class Service(Answer):
    service: str
    version: str
    revision: int


class Health(Answer):
    status: str


class ProblemDetails(BaseModel):
    """An error (RFC 9457). `code` is stable; `request_id` is in the registry's log."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None
