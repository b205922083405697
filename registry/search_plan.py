"""Finding a page of versions: where to begin, how to go on.

    few         some part of the search leads to at most FEW versions: begin with those, check the rest, sort
    in order    else, if some part has an index in the order of pages: walk along that, check the rest
    everything  else: walk along all versions in the order of pages, and check

With FEW as it is, a part that leads to more is true of so many that a walk soon has a page full. Databases decide this by
estimates; these are wrong here too often, since tags and metrics are rows of one table.

A page ends with the key of its last version, which never changes. So whatever is added meanwhile, no page repeats or skips
a version that was there, and was found, all the time. The cursor names the model, not its id, which would tell how many
models others have.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from registry import browse
from registry.access import Caller
from registry.browse import Session, Version
from registry.pages import Page, cut, invalid_cursor, read_cursor, read_time
from registry.search import And, Node
from registry.search_sql import Source, condition, source
from registry.tables import ModelRow, VersionRow

Order = Literal["model", "created"]
"""model: newest model first, of each the newest version first; created: newest version first."""
ORDERS = get_args(Order)

FEW = 4000
_COUNTED = 12
"""Selections that are counted at most: each takes up to a millisecond."""


def search(
    session: Session, caller: Caller, node: Node, *, order: Order, limit: int, after: str | None
) -> Page[Version]:
    """Versions that the caller may read, for which the search holds. Raises InvalidCursor."""
    begin, is_walk = _begin(session, _parts(node), order)
    query = (
        sa.select(VersionRow.model_id, VersionRow.number, VersionRow.created_at, ModelRow.name)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(caller.sees_models(), VersionRow.deleted_at.is_(None), condition(node))
    )
    model_id, number = VersionRow.model_id, VersionRow.number
    if begin is not None:
        # OFFSET 0: no planner may begin with anything else, nor go through what was found in another order.
        keys = begin.subquery() if is_walk else begin.offset(sa.literal_column("0")).subquery()
        query = query.join(keys, sa.and_(keys.c.model_id == model_id, keys.c.number == number))
        if is_walk:
            model_id, number = keys.c.model_id, keys.c.number
    columns = [model_id, number] if order == "model" else [VersionRow.created_at, model_id, number]
    if after is not None:
        query = query.where(_beyond(columns, _read(session, caller, order, after)))
    query = query.order_by(*(column.desc() for column in columns)).limit(limit + 1)
    rows, following = cut(session.execute(query).all(), limit, lambda row: _key(order, row))
    return Page(browse.versions_at(session, [(row.model_id, row.number) for row in rows]), following)


def _parts(node: Node) -> list[Node]:
    """What has to hold, each by itself."""
    if not isinstance(node, And):
        return [node]
    return [part for each in node.parts for part in _parts(each)]


def _begin(session: Session, parts: Sequence[Node], order: Order) -> tuple[Any, bool]:
    """The keys to begin with, and whether to walk along them in their own order; None: with all versions."""
    sources = _countable([found for part in parts if (found := source(part)) is not None])
    counts = _counts(session, sources)
    if counts and min(counts) <= FEW:
        return sources[counts.index(min(counts))].keys(), False
    ordered = [each for each in sources if each.ordered] if order == "model" else []
    return (ordered[0].keys(), True) if ordered else (None, True)


def _countable(sources: Sequence[Source]) -> list[Source]:
    taken, left = [], _COUNTED
    for each in sources:
        if len(each.parts) <= left:
            taken.append(each)
            left -= len(each.parts)
    return taken


def _counts(session: Session, sources: Sequence[Source]) -> list[int]:
    """How many keys there are in each, at most; nobody counts further than FEW."""
    counted = [
        sa.select(sa.func.count()).select_from(part.limit(FEW + 1).subquery()).scalar_subquery()
        for each in sources
        for part in each.parts
    ]
    found = iter(session.execute(sa.select(*counted)).one() if counted else ())
    return [sum(next(found) for _ in each.parts) for each in sources]


def _key(order: Order, row: Any) -> tuple[str | int, ...]:
    at = () if order == "model" else (row.created_at.isoformat(timespec="microseconds"),)
    return (*at, row.name, row.number)


def _read(session: Session, caller: Caller, order: Order, after: str) -> list[Any]:
    """The key that a cursor stands for."""
    kinds = (str, int) if order == "model" else (str, str, int)
    *at, name, number = read_cursor(after, *kinds)
    query = sa.select(ModelRow.id).where(caller.sees_models(), ModelRow.name == name)
    if (model_id := session.scalar(query)) is None:
        raise invalid_cursor()
    times: list[datetime] = [read_time(text) for text in at]
    return [*times, model_id, number]


def _beyond(columns: Sequence[Any], key: Sequence[Any]) -> sa.ColumnElement[bool]:
    types = [column.type for column in columns]
    return sa.tuple_(*columns) < sa.tuple_(*key, types=types)
