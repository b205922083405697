"""Webhooks: who is told of which events of a workspace. How they are sent is the story of registry/deliveries.

    concerns     which events of which models a webhook is about: patterns with * and nothing else
    secret       made here, told once, sealed in the database; after a rotation both secrets sign for a while

Everything is of one workspace: the webhooks of another are not there.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from registry import audit
from registry.access import Caller, check_pattern, matches
from registry.browse import Session
from registry.database import WriteSession, utc_now
from registry.deliveries import signature
from registry.deliveries.target import parse
from registry.errors import InvalidName, TooManyWebhooks, WebhookNotFound
from registry.events import latest_revision
from registry.pages import Page, cut, read_cursor
from registry.tables import EventRow
from registry.vault import Vault
from registry.webhook_tables import WebhookRow

MAX_WEBHOOKS = 100
"""Webhooks that a workspace may have."""

_EVENT_PATTERN = re.compile(r"[a-z_.*]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Webhook:
    """What may be told about a webhook. The URL's query is not: it often holds somebody's token."""

    id: str
    url: str
    description: str
    events: Sequence[str]
    model: str
    active: bool
    inactive_reason: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to change; None: stays as it is."""

    url: str | None = None
    description: str | None = None
    events: Sequence[str] | None = None
    model: str | None = None
    active: bool | None = None


def concerns(webhook: WebhookRow, event: EventRow) -> bool:
    """Whether the webhook is told of this event."""
    return (
        event.workspace_id == webhook.workspace_id
        and matches(event.model, webhook.model)
        and any(matches(event.kind, pattern) for pattern in webhook.events)
    )


def create(session: WriteSession, caller: Caller, vault: Vault, wanted: Changes) -> tuple[Webhook, bytes]:
    """A new webhook, told of what happens from now on, and its secret. Raises InvalidInput or TooManyWebhooks."""
    count = sa.select(sa.func.count()).where(WebhookRow.workspace_id == caller.workspace_id)
    if (session.scalar(count) or 0) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"A workspace has at most {MAX_WEBHOOKS} webhooks. Delete one first.")
    webhook_id, secret = str(uuid.uuid4()), signature.new_secret()
    row = WebhookRow(
        id=webhook_id,
        workspace_id=caller.workspace_id,
        url="",
        description="",
        events=["*"],
        model="*",
        active=True,
        secret=vault.seal(secret, webhook_id),
        created_by=caller.name,
        cursor=latest_revision(session),
        slow=True,
    )
    _apply(session, row, wanted)
    session.add(row)
    session.flush()
    tell(
        session,
        caller,
        row,
        "webhook.created",
        {"host": parse(row.url).host, "events": row.events, "model": row.model},
    )
    return webhook_of(row), secret


def update(session: WriteSession, caller: Caller, webhook_id: str, wanted: Changes) -> Webhook:
    """Change a webhook. One that is activated again is told of what happens from now on. Raises WebhookNotFound, InvalidInput."""
    row = locked(session, caller, webhook_id)
    _apply(session, row, wanted)
    if changed := sorted(each.key for each in sa.inspect(row).attrs if each.history.has_changes()):
        session.flush()
        tell(session, caller, row, "webhook.updated", {"changed": changed})
    return webhook_of(row)


def rotate(
    session: WriteSession, caller: Caller, vault: Vault, webhook_id: str, *, overlap_s: float
) -> tuple[Webhook, bytes]:
    """A new secret; for `overlap_s` seconds the one before signs too. Raises WebhookNotFound."""
    row = locked(session, caller, webhook_id)
    secret = signature.new_secret()
    now = session.scalars(sa.select(utc_now())).one()
    if overlap_s:
        row.old_secret, row.old_secret_until = row.secret, now + timedelta(seconds=overlap_s)
    else:
        row.old_secret = row.old_secret_until = None
    row.secret = vault.seal(secret, row.id)
    session.flush()
    tell(session, caller, row, "webhook.rotated", {"overlap_s": overlap_s})
    return webhook_of(row), secret


def delete(session: WriteSession, caller: Caller, webhook_id: str) -> None:
    """Remove a webhook, with its deliveries. Raises WebhookNotFound."""
    row = locked(session, caller, webhook_id)
    session.delete(row)
    session.flush()
    tell(session, caller, row, "webhook.deleted")


def webhook(session: Session, caller: Caller, webhook_id: str) -> Webhook:
    """One webhook. Raises WebhookNotFound."""
    return webhook_of(_found(session.scalars(_of(caller, webhook_id)).first()))


def webhooks(session: Session, caller: Caller, *, limit: int, after: str | None = None) -> Page[Webhook]:
    """The webhooks of the caller's workspace, by id."""
    query = sa.select(WebhookRow).where(WebhookRow.workspace_id == caller.workspace_id)
    if after is not None:
        query = query.where(WebhookRow.id > read_cursor(after, str))
    rows = session.scalars(query.order_by(WebhookRow.id).limit(limit + 1)).all()
    rows, following = cut(rows, limit, lambda row: row.id)
    return Page([webhook_of(row) for row in rows], following)


def locked(session: WriteSession, caller: Caller, webhook_id: str) -> WebhookRow:
    """The webhook's row, which whoever changes it or its deliveries locks first. Raises WebhookNotFound."""
    return _found(session.scalars(_of(caller, webhook_id).with_for_update()).first())


def tell(
    session: WriteSession, caller: Caller, row: WebhookRow, action: str, said: Mapping[str, Any] | None = None
) -> None:
    """Write into the audit trail what was done with a webhook: never its URL, which may be a secret."""
    audit.record(session, caller, action, f"webhooks/{row.id}", said)


def webhook_of(row: WebhookRow) -> Webhook:
    return Webhook(
        id=row.id,
        url=_without_query(row.url),
        description=row.description,
        events=row.events,
        model=row.model,
        active=row.active,
        inactive_reason=row.inactive_reason,
        failing_since=row.failing_since,
        old_secret_until=row.old_secret_until,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _of(caller: Caller, webhook_id: str) -> sa.Select[WebhookRow]:
    # An id that cannot be one is not shown to the database: PostgreSQL refuses some texts altogether.
    known = webhook_id if re.fullmatch("[0-9a-f-]{36}", webhook_id) else ""
    return sa.select(WebhookRow).where(WebhookRow.id == known, WebhookRow.workspace_id == caller.workspace_id)


def _found(row: WebhookRow | None) -> WebhookRow:
    if row is None:
        raise WebhookNotFound("There is no such webhook.")
    return row


def _apply(session: WriteSession, row: WebhookRow, wanted: Changes) -> None:
    if wanted.url is not None:
        parse(wanted.url)
        row.url = wanted.url
    if wanted.events is not None:
        row.events = [_event_pattern(pattern) for pattern in wanted.events]
    if wanted.model is not None:
        row.model = check_pattern(wanted.model)
    row.description = row.description if wanted.description is None else wanted.description
    if wanted.active and not row.active:
        row.inactive_reason = row.failing_since = None
        row.cursor = latest_revision(session)
    row.active = row.active if wanted.active is None else wanted.active


def _event_pattern(pattern: str) -> str:
    if not _EVENT_PATTERN.fullmatch(pattern):
        raise InvalidName(
            "A pattern of events has small letters, dots, underscores, and * for anything: `pointer.*`."
        )
    return pattern


def _without_query(url: str) -> str:
    return f"{url.partition('?')[0]}?…" if "?" in url else url
