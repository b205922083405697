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
    StrictBool,
    StringConstraints,
)

from registry.deliveries.target import MAX_URL
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
Time = Annotated[
    datetime,
    PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), return_type=str, when_used="json"),
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


class Unhashed(Request):
    """A file whose digest is not known yet."""

    path: Path
    size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]


class UploadCreate(Request):
    """What there is to upload. With `packed`, the caller cuts and packs the bytes itself and announces the packs as blobs."""

    files: Annotated[list[File], Field(max_length=MAX_FILES)] = []
    unhashed: Annotated[list[Unhashed], Field(max_length=MAX_FILES)] = []
    packed: bool = False


class Blob(Request):
    """A blob to send: a whole file, or a pack."""

    digest: Digest
    size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]


class BlobsCreate(Request):
    blobs: Annotated[list[Blob], Field(max_length=MAX_FILES)]


class FilesOffer(Request):
    files: Annotated[list[File], Field(max_length=MAX_FILES)]


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


Url = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_URL), Field(examples=["https://hooks.example.com/x"])
]
EventPattern = Annotated[str, StringConstraints(min_length=1, max_length=64), Field(examples=["pointer.*"])]
ModelPattern = Annotated[str, StringConstraints(min_length=1, max_length=128), Field(examples=["fraud-*"])]
EventPatterns = Annotated[list[EventPattern], Field(min_length=1, max_length=50)]
DeliveryState = Literal["pending", "delivered", "dead"]


class WebhookCreate(Request):
    """Where to send which events: kinds of events, and of which models, as patterns with `*`."""

    url: Url
    description: Text = ""
    events: EventPatterns = ["*"]
    model: ModelPattern = "*"
    active: StrictBool = True


class WebhookUpdate(Request):
    """What is absent (or null) stays as it is."""

    url: Url | None = None
    description: Text | None = None
    events: EventPatterns | None = None
    model: ModelPattern | None = None
    active: StrictBool | None = None


class SecretRotate(Request):
    """For how many seconds the secret of before signs as well; 0, when it has leaked."""

    overlap_s: Annotated[int, Field(ge=0, le=7 * 24 * 3600, strict=True)] = 24 * 3600


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


class Need(Answer):
    """Bytes to send. An absolute `url` is presigned (send no token there); one with a leading slash is this registry."""

    digest: str
    size: int
    method: str
    url: str
    headers: dict[str, str]


class Base(Answer):
    """A stored file whose chunks need not be sent again.

    `segments`: [digest of a blob, offset, length] each. `chunks`, in base64: a byte 1, then 32 bytes BLAKE3 and 4 bytes
    length (big-endian) for each chunk, in order.
    """

    segments: list[tuple[str, int, int]]
    chunks: str


class Cutting(Answer):
    """FastCDC's parameters with which `chunks` were cut: bytes, and the degree of normalization."""

    smallest: int
    target: int
    largest: int
    normalization: int


class Upload(Answer):
    """`have`: digests of files that need not be sent. `hash_first`: unhashed files that may be there already."""

    id: str
    expires_at: Time
    needs: list[Need]
    have: list[str]
    hash_first: list[str]
    bases: list[Base]
    cutting: Cutting


class Needs(Answer):
    needs: list[Need]


class Have(Answer):
    have: list[str]


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


class Webhook(Answer):
    """`url` is shown without its query. `inactive_reason`: why the registry deactivated it; null: it did not."""

    id: str
    url: str
    description: str
    events: list[str]
    model: str
    active: bool
    inactive_reason: Literal["failing", "gone"] | None
    failing_since: Annotated[
        Time | None, Field(description="when the first attempt failed since the last success")
    ]
    old_secret_until: Annotated[Time | None, Field(description="until when the secret of before signs too")]
    created_at: Time
    created_by: str


class WebhookSecret(Webhook):
    """A webhook and its secret, which no other answer has."""

    secret: str


class WebhookPage(Answer):
    items: list[Webhook]
    next: str | None


class Delivery(Answer):
    """An event on its way to a webhook. A ping has neither `revision` nor `model`. `attempts`: how many there were."""

    id: str
    event: str
    revision: int | None
    model: str | None
    state: DeliveryState
    attempts: int
    created_at: Time
    next_at: Time | None
    ended_at: Time | None


class Attempt(Answer):
    """One request: either the receiver's `status`, or the `failure` that prevented one."""

    number: int
    at: Time
    duration_ms: int
    status: int | None
    failure: str | None


class DeliveryDetail(Delivery):
    made: list[Attempt]


class DeliveryPage(Answer):
    items: list[Delivery]
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
