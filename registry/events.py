"""The change feed in the database: every change is an event, and events are numbered by revision.

    a verb ── record() ──> events, feed (same transaction) ── commit ──> feed.py wakes whoever waits

A watcher's place in the feed is a revision: that of the newest event which it may see. Events that it may not see leave no
trace in it, so that their number does not tell how busy others are. `look` reads from such a place on; feed.py does the
same in memory for those who keep up.

Old events are trimmed (trim.py), but for the newest trimmed one of each model: it tells whether a watcher that was away has
missed anything of what it asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from registry.access import Caller, Permission, matches, name_matches
from registry.database import ReadSession, WriteSession
from registry.errors import EventsTrimmed
from registry.tables import EventRow, FeedRow, ModelRow

E = TypeVar("E")

# Of tables, not of classes, and made once: that takes a fraction of the time.
_FEED = FeedRow.__table__
_NEXT_REVISION = sa.update(_FEED).values(revision=_FEED.c.revision + 1).returning(_FEED.c.revision)
_INSERT = sa.insert(EventRow.__table__)


def record(session: WriteSession, model: ModelRow, kind: str, data: dict[str, Any]) -> int:
    """Add an event to the feed and return its revision.

    The feed's row stays locked until the commit, so that a watcher which has seen revision n can never be shown n - 1
    later. Call it as late as possible, and always after the model's row is locked: one order, no deadlock.
    """
    session.flush()
    revision: int | None = session.scalar(_NEXT_REVISION)
    if revision is None:
        raise RuntimeError("the feed table has lost its row; run `modelyard-registry migrate`")
    event = {"revision": revision, "kind": kind, "workspace_id": model.workspace_id}
    session.execute(_INSERT, {**event, "model": model.name, "data": data})
    session.info["revision"] = revision
    return revision


def latest_revision(session: ReadSession | WriteSession) -> int:
    """The newest revision there is."""
    return session.scalar(sa.select(FeedRow.revision)) or 0


class Event(Protocol):
    """What an event is chosen by."""

    @property
    def kind(self) -> str: ...
    @property
    def workspace_id(self) -> int: ...
    @property
    def model(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a watcher may see, and what of that it asks for: names and kinds, `*` in them for anything; none: all.

    Each rule is here twice, for events in memory and, as a condition, for those in the database.
    """

    caller: Caller
    models: Sequence[str] = ()
    kinds: Sequence[str] = ()

    def sees(self, event: Event) -> bool:
        """Whether it may know of this event."""
        caller = self.caller
        return event.workspace_id == caller.workspace_id and caller.permits(Permission.READ, event.model)

    def includes(self, event: Event) -> bool:
        """Whether it wants it, too."""
        return (
            _is_one_of(event.model, self.models) and _is_one_of(event.kind, self.kinds) and self.sees(event)
        )

    def seen(self) -> sa.ColumnElement[bool]:
        """Events that it may know of."""
        columns = EventRow.__table__.c
        return self.caller.sees(columns.workspace_id, columns.model)

    def of_models(self) -> sa.ColumnElement[bool]:
        """Those of the models that it wants."""
        return sa.and_(self.seen(), _in(EventRow.__table__.c.model, self.models))

    def condition(self) -> sa.ColumnElement[bool]:
        """Those that it wants."""
        return sa.and_(self.of_models(), _in(EventRow.__table__.c.kind, self.kinds))


@dataclass(frozen=True, slots=True)
class Look(Generic[E]):
    """What a look at the feed found: `events`, and where to go on.

    `revision` is what the watcher may know: the newest event that it may see, or the last one here when there are more.
    `examined` is not for its eyes: up to there everything was looked at.
    """

    revision: int
    examined: int
    events: Sequence[E]


def look(session: ReadSession, since: int, wanted: Wanted, limit: int) -> Look[EventRow]:
    """The first `limit` events after revision `since`. Raises EventsTrimmed when some of them are not kept any more.

    When `since` is above the `revision` that is returned, then it was given out by another registry, or before a backup was
    restored, or to somebody with other rights: whoever asks has to look at everything again.
    """
    latest = latest_revision(session)
    newest = newest_seen(session, wanted, latest)
    query = sa.select(EventRow).where(EventRow.revision > since, EventRow.revision <= latest)
    events = session.scalars(query.where(wanted.condition()).order_by(EventRow.revision).limit(limit)).all()
    _require_kept(session, since, wanted)  # after the events were read: nothing was trimmed before that
    if len(events) == limit:
        return Look(events[-1].revision, events[-1].revision, events)
    return Look(newest, latest, events)


def newest_seen(session: ReadSession, wanted: Wanted, latest: int | None = None) -> int:
    """The revision of the newest event (up to `latest`) that may be seen; 0: there has never been one."""
    query = sa.select(sa.func.max(EventRow.revision)).where(wanted.seen())
    return session.scalar(query if latest is None else query.where(EventRow.revision <= latest)) or 0


def _require_kept(session: ReadSession, since: int, wanted: Wanted) -> None:
    missed = sa.select(sa.func.max(EventRow.revision)).where(
        EventRow.revision > since,
        EventRow.revision <= sa.select(FeedRow.trimmed).scalar_subquery(),
        wanted.of_models(),
    )
    if (oldest := session.scalar(missed)) is not None:
        raise EventsTrimmed(oldest)


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or name in patterns or any(matches(name, pattern) for pattern in patterns)


def _in(column: sa.ColumnElement[str], patterns: Sequence[str]) -> sa.ColumnElement[bool]:
    if not patterns:
        return sa.true()
    names = [pattern for pattern in patterns if "*" not in pattern]
    return sa.or_(column.in_(names), *(name_matches(column, each) for each in patterns if "*" in each))
