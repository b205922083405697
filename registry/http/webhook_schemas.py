"""The shapes of webhooks and their deliveries."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints

from registry.deliveries.target import MAX_URL
from registry.http.schemas import Answer, Request, Text, Time

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
    events: EventPatterns = ["*"]  # noqa: RUF012 - pydantic copies it
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
