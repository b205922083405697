"""The audit trail: who did, or was refused, what; and that nobody has changed it since.

    entry 1 <── entry 2 <── … <── entry n <── head

    content   SHA-256 of what an entry says: workspace, actor, token_id, action, resource, outcome, data, request_id
    digest    SHA-256 of its sequence, its time, its content and the digest of the entry before

The database refuses to change or remove entries, and any that does not follow the head. Whoever owns the database can
disable that; audit_verify.py then finds what was done, and checkpoints.py is why recomputing all digests does not help.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from operator import add
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from registry.database import ReadSession, WriteSession, as_text, sha256_of, utc_now
from registry.domain import canonical_json, sha256
from registry.pages import Page, cut, read_cursor
from registry.tables import AuditHeadRow, AuditRow

FORMAT = "modelyard.audit/1"
NOTHING_BEFORE = "sha256:" + "0" * 64
"""The `previous_digest` of the first entry, and the head of an empty trail."""
SAID = ("workspace", "actor", "token_id", "action", "resource", "outcome", "data", "request_id")
"""The columns that an entry's content stands for."""

Outcome = Literal["done", "denied"]
Session = ReadSession | WriteSession

_TYPES = {column.name: column.type for column in AuditRow.__table__.columns}
_LONGEST = {name: kind.length for name, kind in _TYPES.items() if isinstance(kind, sa.String) and kind.length}


class Caller(Protocol):
    """On whose behalf something is done."""

    @property
    def name(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def token_id(self) -> str | None: ...
    @property
    def request_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Entry:
    sequence: int
    at: datetime
    workspace: str
    actor: str
    token_id: str | None
    action: str
    resource: str
    outcome: Outcome
    data: Mapping[str, Any]
    request_id: str
    previous_digest: str
    digest: str


def record(
    session: WriteSession,
    caller: Caller,
    action: str,
    resource: str,
    data: Mapping[str, Any] | None = None,
    *,
    outcome: Outcome = "done",
    workspace: str | None = None,
) -> None:
    """Append an entry, as the last thing that a transaction does.

    The order of locks is: the model's row, the feed's, the head of the trail. What is pending in the session is written
    before the head is locked, so that no transaction waits for another row while it holds the head (no deadlock), and
    others wait for nothing but a commit. `data` is JSON without NaN; `workspace` is the caller's unless given ("": it
    concerns the whole instance).
    """
    said = {
        "workspace": _fit("workspace", caller.workspace if workspace is None else workspace),
        "actor": _fit("actor", caller.name),
        "token_id": None if caller.token_id is None else _fit("token_id", caller.token_id),
        "action": _fit("action", action),
        "resource": _fit("resource", resource),
        "outcome": outcome,
        "data": json.loads(json.dumps(data or {}, allow_nan=False)),  # what is hashed is what will be read
        "request_id": _fit("request_id", caller.request_id),
    }
    session.flush()
    appended = session.connection().execute(_append(), {**said, "content": content_digest(said)})
    if appended.rowcount != 1:
        raise RuntimeError("the audit trail has lost its head: run `modelyard-registry audit verify`")


def content_digest(said: Mapping[str, Any]) -> str:
    """The digest of what an entry says: over the canonical JSON of these columns."""
    return sha256(canonical_json({column: said[column] for column in SAID}))


def entry_digest(sequence: int, at: str, content: str, previous: str) -> str:
    """What binds an entry to its place, its time (2026-11-22T10:00:00.123456Z), and the entry before."""
    bound = {"format": FORMAT, "sequence": sequence, "at": at, "content": content, "previous": previous}
    return sha256(canonical_json(bound))


@cache
def _append() -> sa.Insert:
    """Locks the head and inserts what follows it, with the digest that entry_digest() would give; a trigger moves the head.

    It is one statement, so that the head is locked during one round trip only: that of the commit.
    """
    head = sa.select(AuditHeadRow.sequence, AuditHeadRow.digest, utc_now().label("now"))
    before = head.with_for_update().subquery()
    sequence = before.c.sequence + 1
    bound: list[sa.ColumnElement[str]] = [
        *(sa.literal_column('\'{"at":"\''), as_text(before.c.now)),
        *(sa.literal_column('\'","content":"\''), sa.bindparam("content", type_=sa.String)),
        *(sa.literal_column(f'\'","format":"{FORMAT}","previous":"\''), before.c.digest),
        *(sa.literal_column('\'","sequence":\''), sa.cast(sequence, sa.String), sa.literal_column("'}'")),
    ]
    entry = {
        **{column: sa.bindparam(column, type_=_TYPES[column]) for column in SAID},
        "sequence": sequence,
        "at": before.c.now,
        "previous_digest": before.c.digest,
        "digest": sha256_of(reduce(add, bound)),
    }
    insert = sa.insert(AuditRow).from_select(list(entry), sa.select(*entry.values()))
    return insert.execution_options(preserve_rowcount=True)


def entries(
    session: Session,
    *,
    workspace: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    resource: str | None = None,
    outcome: Outcome | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Entry]:
    """Entries that are as asked, newest first: of `resource` and all below it, from `since` on, before `until`."""
    query = sa.select(AuditRow).order_by(AuditRow.sequence.desc())
    equal = {"workspace": workspace, "actor": actor, "action": action, "outcome": outcome}
    query = query.filter_by(**{column: value for column, value in equal.items() if value is not None})
    if resource is not None:
        query = query.where(_at_or_below(resource.rstrip("/")))
    if since is not None:
        query = query.where(AuditRow.at >= since)
    if until is not None:
        query = query.where(AuditRow.at < until)
    if after is not None:
        query = query.where(AuditRow.sequence < read_cursor(after, int))
    rows, following = cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: row.sequence)
    return Page([_entry_of(row) for row in rows], following)


def printable(text: str) -> str:
    r"""`text`, with what could fool a terminal, a log or a database spelled out, as in \x1b."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _fit(column: str, text: str) -> str:
    """What was refused is recorded as well, and that may be anything."""
    text, longest = printable(text), _LONGEST[column]
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _at_or_below(resource: str) -> sa.ColumnElement[bool]:
    # "0" comes right after "/"
    below = sa.and_(AuditRow.resource >= f"{resource}/", AuditRow.resource < f"{resource}0")
    return sa.or_(AuditRow.resource == resource, below)


def _entry_of(row: AuditRow) -> Entry:
    return Entry(
        sequence=row.sequence,
        at=row.at,
        workspace=row.workspace,
        actor=row.actor,
        token_id=row.token_id,
        action=row.action,
        resource=row.resource,
        outcome="denied" if row.outcome == "denied" else "done",
        data=row.data,
        request_id=row.request_id,
        previous_digest=row.previous_digest,
        digest=row.digest,
    )
