"""Finding a page of versions: where to begin, how to go on.

    one model   the search names it: walk along its versions, check the rest
    few         else, if some part leads to FEW versions at most: begin with those, check the rest
    in order    else, if some part has an index in the order of pages: walk along that, check the rest
    everything  else: walk along all versions in the order of pages, and check

With FEW as it is, a part that leads to more is true of so many that a walk soon has a page full. Databases decide this by
estimates; these are wrong here too often, since tags and metrics are rows of one table.

A page ends with the key of its last version, which never changes. So whatever is added meanwhile, no page repeats or skips
a version that was there, and was found, all the time. The cursor names the model, not its id, which would tell how many
models others have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeGuard

import sqlalchemy as sa

from registry import browse
from registry.access import Caller
from registry.browse import Session, Version
from registry.pages import Page, cut, invalid_cursor, read_cursor, read_time
from registry.search import And, Comparison, Node
from registry.search_hints import in_this_order, unindexed
from registry.search_sql import Source, condition, name_holds, of_model, source
from registry.tables import ModelRow, VersionRow

Order = Literal["model", "created"]
"""model: newest model first, of each the newest version first; created: newest version first."""

FEW = 4000
_COUNTED = 12
"""Selections that are counted at most: each takes up to a millisecond."""

Query = sa.Select[*tuple[Any, ...]]
_SHOWN = sa.select(VersionRow.model_id, VersionRow.number).where(VersionRow.deleted_at.is_(None))


@dataclass(frozen=True, slots=True)
class _Walk:
    """A query of versions, the columns that its pages go along, and what is left to be checked."""

    query: Query
    model_id: sa.ColumnElement[int]
    number: sa.ColumnElement[int]
    rest: Sequence[Node]


def search(
    session: Session, caller: Caller, node: Node, *, order: Order, limit: int, after: str | None
) -> Page[Version]:
    """Versions that the caller may read, for which the search holds. Raises InvalidCursor."""
    parts = _parts(node)
    walk = _walk(session, caller, parts, order)
    columns: list[Any] = [walk.model_id, walk.number]
    if order == "created":
        columns.insert(0, VersionRow.created_at)
    query = walk.query.where(*map(condition, walk.rest))
    if after is not None:
        query = query.where(_beyond(columns, _read(session, caller, order, after)))
    query = query.order_by(*(column.desc() for column in columns)).limit(limit + 1)
    keys = [(model_id, number) for model_id, number in session.execute(query)]
    shown = dict(zip(keys, browse.versions_at(session, keys[:limit]), strict=False))
    return Page(list(shown.values()), cut(keys, limit, lambda key: _key(order, shown[key]))[1])


def _parts(node: Node) -> list[Node]:
    """What has to hold, each by itself."""
    if not isinstance(node, And):
        return [node]
    return [part for each in node.parts for part in _parts(each)]


def _walk(session: Session, caller: Caller, parts: Sequence[Node], order: Order) -> _Walk:
    if any(_is_name(part) and part.operator == "=" for part in parts):
        return _along_models(caller, parts, ModelRow.__table__.c.workspace_id)
    if (few := _along_few(session, caller, parts, order)) is not None:
        return few
    # The index of names would have the models in another order.
    models = _along_models(caller, parts, unindexed(ModelRow.__table__.c.workspace_id))
    if order == "model" or _are_few(session, caller, models, parts):
        return models
    return _along_times(caller, parts)


def _are_few(session: Session, caller: Caller, models: _Walk, parts: Sequence[Node]) -> bool:
    """Whether the models that may be meant have few versions."""
    if caller.administrator and not any(map(_is_name, parts)):
        return False
    return _counts(session, [models.query]) <= [FEW]


def _is_name(part: Node) -> TypeGuard[Comparison]:
    return isinstance(part, Comparison) and part.field.name == "model"


def _along_few(session: Session, caller: Caller, parts: Sequence[Node], order: Order) -> _Walk | None:
    """Along the versions that one part of the search leads to, if they are few, or in order."""
    found = _counted(session, [(part, each) for part in parts if (each := source(part)) is not None])
    fewest, part, begin = min(found, key=lambda each: each[0], default=(FEW + 1, None, None))
    in_order = [(part, each) for _, part, each in found if each.ordered and order == "model"]
    if begin is not None and fewest <= FEW:
        few = begin.keys().subquery()
        columns = few.c.model_id, few.c.number
        sorted_ = sa.select(*columns).order_by(*(unindexed(column).desc() for column in columns))
        # OFFSET 0: no planner may begin with anything else.
        keys = sorted_.offset(sa.literal_column("0")).subquery()
    elif in_order:
        part, begin = in_order[0]
        keys = begin.keys().subquery()
    else:
        return None
    of_key = sa.and_(keys.c.model_id == VersionRow.model_id, keys.c.number == VersionRow.number)
    rest = [each for each in parts if each is not part or not isinstance(part, Comparison)]
    query = _SHOWN.join(keys, of_key).where(of_model(caller.sees_models()))
    return _Walk(query, keys.c.model_id, keys.c.number, rest)


def _along_models(caller: Caller, parts: Sequence[Node], workspace: sa.ColumnElement[int]) -> _Walk:
    """Along the models that may be meant."""
    models, versions = ModelRow.__table__, VersionRow.__table__
    names = [part for part in parts if _is_name(part)]
    query = _SHOWN.select_from(in_this_order(models, versions, models.c.id == versions.c.model_id))
    query = query.where(caller.sees(workspace, models.c.name), *map(name_holds, names))
    return _Walk(query, models.c.id, versions.c.number, [part for part in parts if not _is_name(part)])


def _along_times(caller: Caller, parts: Sequence[Node]) -> _Walk:
    columns = VersionRow.__table__.c
    return _Walk(_SHOWN.where(of_model(caller.sees_models())), columns.model_id, columns.number, parts)


def _counted(session: Session, found: Sequence[tuple[Node, Source]]) -> list[tuple[int, Node, Source]]:
    """How many keys each leads to at most, but for those that would have to be counted beyond all measure."""
    taken, left = [], _COUNTED
    for part, each in found:
        if len(each.parts) <= left:
            taken.append((part, each))
            left -= len(each.parts)
    counts = iter(_counts(session, [selection for _, each in taken for selection in each.parts]))
    return [(sum(next(counts) for _ in each.parts), part, each) for part, each in taken]


def _counts(session: Session, selections: Sequence[Any]) -> list[int]:
    """How many keys there are in each; nobody counts further than FEW."""
    counted = [
        sa.select(sa.func.count()).select_from(each.limit(FEW + 1).subquery()).scalar_subquery()
        for each in selections
    ]
    return list(session.execute(sa.select(*counted)).one()) if counted else []


def _key(order: Order, version: Version) -> tuple[str | int, ...]:
    at = () if order == "model" else (version.created_at.isoformat(timespec="microseconds"),)
    return (*at, version.model, version.number)


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
