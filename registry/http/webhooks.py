"""Webhooks and their deliveries. All of it is for administrators of the workspace: URLs alone can be secrets."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import webhooks
from registry.deliveries import by_hand, signature
from registry.deliveries.by_hand import Delivery
from registry.deliveries.sender import TIMEOUT_S
from registry.deliveries.target import parse
from registry.http import webhook_schemas
from registry.http.deps import Admin, Config, Db, Sending, WebhookSecrets
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page
from registry.webhooks import Changes, Webhook

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)
OF_ONE = "/{webhook}/deliveries"


@router.post("", status_code=201, response_model=webhook_schemas.WebhookSecret)
def create_webhook(
    body: webhook_schemas.WebhookCreate, database: Db, vault: WebhookSecrets, sending: Sending, caller: Admin
) -> webhook_schemas.WebhookSecret:
    """Tell a URL of events from now on. The answer has the secret that signs them, this once."""
    sending.reach.require(parse(body.url), TIMEOUT_S)
    with database.write() as session:
        created, secret = webhooks.create(session, caller, vault, Changes(**body.model_dump()))
    return _with_secret(created, secret)


@router.get("", response_model=webhook_schemas.WebhookPage)
def list_webhooks(database: Db, caller: Admin, limit: Limit = 100, after: After = None) -> Page[Webhook]:
    """The webhooks of the workspace."""
    with database.read() as session:
        return webhooks.webhooks(session, caller, limit=limit, after=after)


@router.get("/{webhook}", response_model=webhook_schemas.Webhook)
def get_webhook(webhook: str, database: Db, caller: Admin) -> Webhook:
    """One webhook."""
    with database.read() as session:
        return webhooks.webhook(session, caller, webhook)


@router.patch("/{webhook}", response_model=webhook_schemas.Webhook)
def update_webhook(
    webhook: str, body: webhook_schemas.WebhookUpdate, database: Db, sending: Sending, caller: Admin
) -> Webhook:
    """Change what is given. One that is activated again is told of events from now on."""
    if body.url is not None:
        sending.reach.require(parse(body.url), TIMEOUT_S)
    with database.write() as session:
        return webhooks.update(session, caller, webhook, Changes(**body.model_dump()))


@router.delete("/{webhook}", status_code=204)
def delete_webhook(webhook: str, database: Db, caller: Admin) -> None:
    """Remove a webhook, and what is known of its deliveries."""
    with database.write() as session:
        webhooks.delete(session, caller, webhook)


@router.post("/{webhook}/rotate", response_model=webhook_schemas.WebhookSecret)
def rotate_secret(
    webhook: str, body: webhook_schemas.SecretRotate, database: Db, vault: WebhookSecrets, caller: Admin
) -> webhook_schemas.WebhookSecret:
    """A new secret, in the answer this once. For `overlap_s` seconds deliveries are signed with both."""
    with database.write() as session:
        rotated, secret = webhooks.rotate(session, caller, vault, webhook, overlap_s=body.overlap_s)
    return _with_secret(rotated, secret)


@router.post("/{webhook}/test", status_code=202, response_model=webhook_schemas.Delivery)
def send_ping(webhook: str, database: Db, sending: Sending, caller: Admin) -> Delivery:
    """Send a ping, once; look at the delivery for what came of it."""
    with database.write() as session:
        sent = by_hand.ping(session, caller, webhook)
    sending.wake()
    return sent


@router.get(OF_ONE, response_model=webhook_schemas.DeliveryPage)
def list_deliveries(
    webhook: str,
    database: Db,
    caller: Admin,
    state: Annotated[webhook_schemas.DeliveryState | None, Query()] = None,
    event: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z_.]+$")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[Delivery]:
    """Deliveries of a webhook, newest first."""
    with database.read() as session:
        return by_hand.deliveries(
            session, caller, webhook, state=state, event=event, limit=limit, after=after
        )


@router.get(OF_ONE + "/{delivery}", response_model=webhook_schemas.DeliveryDetail)
def get_delivery(webhook: str, delivery: str, database: Db, caller: Admin) -> webhook_schemas.DeliveryDetail:
    """One delivery with its attempts. What the receiver wrote is not kept."""
    with database.read() as session:
        found, attempts = by_hand.delivery(session, caller, webhook, delivery)
    shown = webhook_schemas.Delivery.model_validate(found).model_dump()
    return webhook_schemas.DeliveryDetail(
        **shown, made=[webhook_schemas.Attempt.model_validate(attempt) for attempt in attempts]
    )


@router.post(OF_ONE + "/{delivery}/redeliver", status_code=202, response_model=webhook_schemas.Delivery)
def redeliver(
    webhook: str, delivery: str, database: Db, settings: Config, sending: Sending, caller: Admin
) -> Delivery:
    """Send a delivery again, dead or not, under its id."""
    with database.write() as session:
        sent = by_hand.redeliver(session, caller, webhook, delivery, give_up_s=settings.webhook_give_up_s)
    sending.wake()
    return sent


def _with_secret(webhook: Webhook, secret: bytes) -> webhook_schemas.WebhookSecret:
    shown = webhook_schemas.Webhook.model_validate(webhook).model_dump()
    return webhook_schemas.WebhookSecret(**shown, secret=signature.written(secret))
