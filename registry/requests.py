"""Promotion requests: what is asked for, what was said about it, and how it ended.

    asked ── commented*, approved* ──> done | rejected | withdrawn | expired | outdated | failed

A request asks for one move: this version to there, from the generation that the pointer had. Once the pointer has moved it is
outdated. An approval is of the version with its facts as they were: when any of them changes it counts no more, and those
who approved have to look again. Everything that was said is an entry; none is changed or removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from registry import audit, events
from registry.access import Caller
from registry.browse import model_row
from registry.database import ReadSession, WriteSession, utc_now
from registry.errors import Forbidden, RequestClosed, RequestNotFound
from registry.pages import Page, cut, read_cursor
from registry.policy_tables import EntryRow, RequestRow
from registry.tables import ModelRow, PointerRow, VersionRow

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for: see RequestRow."""

    number: int
    to: str
    pointer: str | None
    generation: int
    reason: str
    at: datetime | None
    expires_s: int


@dataclass(frozen=True, slots=True)
class Entry:
    kind: str
    author: str
    text: str
    digest: str
    fact_revision: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Request:
    """`state` is what it is at this moment: one whose pointer has moved is outdated, one whose time is over expired.

    `approved_by`: whose approvals are for the version as it is now.
    """

    model: str
    id: int
    number: int
    to: str
    pointer: str | None
    generation: int
    reason: str
    at: datetime | None
    expires_at: datetime
    requested_at: datetime
    requested_by: str
    state: str
    closed_at: datetime | None
    approved_by: Sequence[str]
    entries: Sequence[Entry]


def find_or_open(
    session: WriteSession, caller: Caller, model: ModelRow, version: VersionRow, wanted: Wanted
) -> tuple[RequestRow, bool]:
    """The open request for this promotion, and whether it is new: asking again is not asking anew."""
    same = RequestRow.model_id == model.id, RequestRow.number == wanted.number, RequestRow.to == wanted.to
    found = session.scalar(sa.select(RequestRow).where(*same, RequestRow.state == "open"))
    now = session.scalars(sa.select(utc_now())).one()
    if found is not None:
        seen = found.generation, found.pointer, found.at
        if seen == (wanted.generation, wanted.pointer, wanted.at) and found.expires_at > now:
            return found, False
        close(session, caller, found, version, "outdated")
    newest = session.scalar(sa.select(sa.func.max(RequestRow.id)).where(RequestRow.model_id == model.id))
    expires_at = max(now, wanted.at or now) + timedelta(seconds=wanted.expires_s)
    request = RequestRow(
        model_id=model.id,
        id=(newest or 0) + 1,
        number=wanted.number,
        to=wanted.to,
        pointer=wanted.pointer,
        generation=wanted.generation,
        reason=wanted.reason,
        at=wanted.at,
        due_at=wanted.at or expires_at,
        expires_at=expires_at,
        requested_by=caller.name,
        state="open",
    )
    session.add(request)
    session.flush()
    say(session, caller, request, version, "asked", wanted.reason)
    return request, True


def request(session: Session, caller: Caller, model: str, request_id: int) -> Request:
    """One request. Raises ModelNotFound or RequestNotFound."""
    owner = model_row(session, caller, model)
    return _requests(session, owner, [_row(session, owner, request_id)])[0]


def requests(
    session: Session,
    caller: Caller,
    model: str,
    *,
    still_open: bool = False,
    limit: int,
    after: str | None = None,
) -> Page[Request]:
    """The requests of a model, newest first; or only those that nobody has closed. Raises ModelNotFound."""
    owner = model_row(session, caller, model)
    query = sa.select(RequestRow).where(RequestRow.model_id == owner.id).order_by(RequestRow.id.desc())
    if still_open:
        query = query.where(RequestRow.state == "open")
    if after is not None:
        query = query.where(RequestRow.id < read_cursor(after, int))
    rows, following = cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: row.id)
    return Page(_requests(session, owner, rows), following)


def comment(session: WriteSession, caller: Caller, model: str, request_id: int, text: str) -> Request:
    """Say something about an open request. Raises ModelNotFound, RequestNotFound or RequestClosed."""
    owner, row, version = locked(session, caller, model, request_id)
    say(session, caller, row, version, "commented", text)
    announce(session, caller, owner, row, "request.commented")
    return request(session, caller, model, request_id)


def reject(session: WriteSession, caller: Caller, model: str, request_id: int, text: str) -> Request:
    """Refuse what a request asks for: one is enough. Raises as `comment` does."""
    owner, row, version = locked(session, caller, model, request_id)
    close(session, caller, row, version, "rejected", text)
    announce(session, caller, owner, row, "request.rejected")
    return request(session, caller, model, request_id)


def withdraw(session: WriteSession, caller: Caller, model: str, request_id: int, text: str) -> Request:
    """Take back what one has asked for. Raises as `comment` does, or Forbidden."""
    owner, row, version = locked(session, caller, model, request_id)
    if caller.name != row.requested_by:
        raise Forbidden("Only who has asked for it can withdraw a request. You can reject it.")
    close(session, caller, row, version, "withdrawn", text)
    announce(session, caller, owner, row, "request.withdrawn")
    return request(session, caller, model, request_id)


def locked(
    session: WriteSession, caller: Caller, model: str, request_id: int
) -> tuple[ModelRow, RequestRow, VersionRow]:
    """An open request, behind the lock of its model. Raises ModelNotFound, RequestNotFound or RequestClosed."""
    owner = model_row(session, caller, model, lock=True)
    row = _row(session, owner, request_id)
    state = _states(session, owner, [row])[row.id]
    if state != "open":
        raise RequestClosed(request_id, state)
    version = session.get_one(VersionRow, (owner.id, row.number))
    return owner, row, version


def approvers(session: Session, request: RequestRow, version: VersionRow) -> Sequence[str]:
    """Who has approved it for the version as it is now."""
    return _approvers(session, request.model_id, {request.id: version}).get(request.id, [])


def say(
    session: WriteSession, caller: Caller, request: RequestRow, version: VersionRow, kind: str, text: str = ""
) -> None:
    """Add an entry."""
    of_request = EntryRow.model_id == request.model_id, EntryRow.request_id == request.id
    last = session.scalar(sa.select(sa.func.max(EntryRow.position)).where(*of_request))
    entry = EntryRow(
        model_id=request.model_id,
        request_id=request.id,
        position=(last or 0) + 1,
        requested_by=request.requested_by,
        kind=kind,
        author=caller.name,
        text=text,
        manifest_digest=version.manifest_digest,
        fact_revision=version.fact_revision,
    )
    session.add(entry)
    session.flush()


def close(
    session: WriteSession,
    caller: Caller,
    request: RequestRow,
    version: VersionRow,
    state: str,
    text: str = "",
) -> None:
    """End an open request: its last entry says how."""
    say(session, caller, request, version, state, text)
    now = session.scalars(sa.select(utc_now())).one()
    request.state, request.closed_at = state, now
    session.flush()


def announce(session: WriteSession, caller: Caller, model: ModelRow, request: RequestRow, kind: str) -> None:
    """Tell of it: an event and an entry in the audit trail."""
    told = {"request": request.id, "number": request.number, "to": request.to}
    events.record(session, model, kind, {**told, "actor": caller.name})
    audit.record(session, caller, kind, f"models/{model.name}/requests/{request.id}", told)


def _row(session: Session, model: ModelRow, request_id: int) -> RequestRow:
    row = session.get(RequestRow, (model.id, request_id))
    if row is None:
        raise RequestNotFound(model.name, request_id)
    return row


def _states(session: Session, model: ModelRow, rows: Sequence[RequestRow]) -> dict[int, str]:
    """What each is now: the scheduler closes later what is over already."""
    now = session.scalars(sa.select(utc_now())).one()
    pointers = session.scalars(sa.select(PointerRow).where(PointerRow.model_id == model.id))
    generations = {row.name: row.generation for row in pointers}
    found = {}
    for row in rows:
        found[row.id] = row.state
        if row.state == "open" and row.expires_at <= now:
            found[row.id] = "expired"
        elif row.state == "open" and generations.get(row.pointer or "", 0) != row.generation:
            found[row.id] = "outdated"
    return found


def _approvers(session: Session, model_id: int, versions: dict[int, VersionRow]) -> dict[int, list[str]]:
    query = sa.select(EntryRow).where(
        EntryRow.model_id == model_id, EntryRow.request_id.in_(versions), EntryRow.kind == "approved"
    )
    found: dict[int, list[str]] = {}
    for entry in session.scalars(query.order_by(EntryRow.position)):
        version = versions[entry.request_id]
        if (entry.manifest_digest, entry.fact_revision) == (version.manifest_digest, version.fact_revision):
            found.setdefault(entry.request_id, []).append(entry.author)
    return found


def _requests(session: Session, model: ModelRow, rows: Sequence[RequestRow]) -> list[Request]:
    ids, numbers = [row.id for row in rows], {row.number for row in rows}
    of_model = VersionRow.model_id == model.id, VersionRow.number.in_(numbers)
    versions = {row.number: row for row in session.scalars(sa.select(VersionRow).where(*of_model))}
    entries: dict[int, list[Entry]] = {}
    query = sa.select(EntryRow).where(EntryRow.model_id == model.id, EntryRow.request_id.in_(ids))
    for row in session.scalars(query.order_by(EntryRow.request_id, EntryRow.position)):
        said = Entry(row.kind, row.author, row.text, row.manifest_digest, row.fact_revision, row.at)
        entries.setdefault(row.request_id, []).append(said)
    states = _states(session, model, rows)
    approved = _approvers(session, model.id, {row.id: versions[row.number] for row in rows})
    return [
        Request(
            model=model.name,
            id=row.id,
            number=row.number,
            to=row.to,
            pointer=row.pointer,
            generation=row.generation,
            reason=row.reason,
            at=row.at,
            expires_at=row.expires_at,
            requested_at=row.requested_at,
            requested_by=row.requested_by,
            state=states[row.id],
            closed_at=row.closed_at,
            approved_by=approved.get(row.id, []),
            entries=entries.get(row.id, []),
        )
        for row in rows
    ]
