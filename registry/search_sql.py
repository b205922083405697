"""From the tree of a search to conditions in SQL, and to where its versions can be found by an index.

    condition(node)     of a row of versions: does the search hold for it?
    source(node)        the keys of all versions for which it holds, when an index leads to them; else None

Facts and pointers of a version are probed by their primary key. Each probe is a subquery that the planner may not turn into
a join (OFFSET 0): what is cheap is decided by search_plan.py, which counts, and not by estimates, which are wrong
about facts by orders of magnitude, since the columns of that table depend on each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from registry.domain import POINTER_STAGES
from registry.facts_tables import HEAD, FactRow
from registry.search import And, Comparison, Node, Not, Or, Span
from registry.search_hints import unindexed
from registry.tables import ModelRow, PointerRow, VersionRow

Condition = sa.ColumnElement[bool]
Column = sa.ColumnElement[Any]
Keys = sa.Select[*tuple[Any, ...]]

_NOTHING: Any = sa.literal_column("0")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARED: dict[str, Callable[[Any, Any], Condition]] = {
    "=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge,
}  # fmt: skip
_KINDS = {"tags": "tag", "metadata": "metadata", "params": "parameter", "metrics": "metric"}
_COLUMNS: dict[str, Column] = {
    # Compared with numbers that need not be whole.
    "number": sa.type_coerce(VersionRow.__table__.c.number, sa.Double()),
    "creator": VersionRow.__table__.c.created_by,
    "created": VersionRow.__table__.c.created_at,
    "format": VersionRow.__table__.c.format,
    "archived": VersionRow.__table__.c.archived,
    "description": VersionRow.__table__.c.description,
}
# Each has an index.
_INDEXED = ("creator", "format")


@dataclass(frozen=True, slots=True)
class Source:
    """Each part selects model_id and number, each pair once. `ordered`: an index has them in the order of pages."""

    parts: tuple[Keys, ...]
    ordered: bool = False

    def keys(self) -> Keys | sa.CompoundSelect[*tuple[Any, ...]]:
        """All keys, each once."""
        return self.parts[0] if len(self.parts) == 1 else sa.union(*self.parts)


def condition(node: Node) -> Condition:
    """Whether the search holds for a row of versions."""
    match node:
        case And(parts):
            return sa.and_(sa.true(), *map(condition, parts))
        case Or(parts):
            return sa.or_(sa.false(), *map(condition, parts))
        case Not(part):
            return sa.not_(condition(part))
        case Comparison():
            return _holds(node)


def of_model(condition: Condition) -> Condition:
    """Whether it holds for the model of a row of versions."""
    query: Keys = sa.select(sa.literal_column("1")).where(ModelRow.id == VersionRow.model_id, condition)
    return query.correlate(VersionRow).offset(_NOTHING).exists()


def name_holds(said: Comparison) -> Condition:
    """A comparison of the model's name, as a condition on the table of models."""
    return _compare(ModelRow.__table__.c.name, said)


def source(node: Node) -> Source | None:
    """Where all versions can be found for which the search holds, and perhaps others for which it does not."""
    match node:
        case And(parts):
            return next((found for part in parts if (found := source(part)) is not None), None)
        case Or(parts):
            sources = [source(part) for part in parts]
            known = [part for each in sources if each is not None for part in each.parts]
            return None if None in sources else Source(tuple(known))
        case Comparison():
            return _found(node)
        case Not():
            return None


def _holds(said: Comparison) -> Condition:
    if said.field.name in _KINDS:
        return _probe(FactRow, _fact(said))
    if said.field.name == "model":
        return of_model(name_holds(said))
    if said.field.name == "alias":
        return _probe(PointerRow, PointerRow.kind == "alias", _compare(PointerRow.name, said))
    if said.field.name == "stage":
        holds = _in_stage(str(said.value))
        return holds if said.operator == "=" else sa.not_(holds)
    column = _COLUMNS[said.field.name]
    return _compare(unindexed(column) if said.field.name in _INDEXED else column, said)


def _found(said: Comparison) -> Source | None:
    name = said.field.name
    if name in _KINDS:
        return _found_facts(said)
    if name == "alias" and _is_narrow(said):
        return _found_pointers(PointerRow.kind == "alias", _compare(PointerRow.name, said))
    if name == "stage" and said.value in POINTER_STAGES and said.operator == "=":
        return _found_pointers(PointerRow.name == said.value)
    of_version = sa.select(VersionRow.model_id, VersionRow.number)
    if (name in _INDEXED and said.operator == "=") or (name == "created" and _is_narrow(said)):
        return Source((of_version.where(_compare(_COLUMNS[name], said)),))
    return None


def _found_facts(said: Comparison) -> Source | None:
    if not _is_narrow(said):
        return None
    keys = sa.select(FactRow.model_id, FactRow.number).where(_fact(said, by_index=True))
    return Source((keys,), ordered=said.operator == "=" and not isinstance(said.value, Span))


def _found_pointers(*conditions: Condition) -> Source:
    keys = sa.select(PointerRow.model_id, PointerRow.number).where(
        PointerRow.number.is_not(None), *conditions
    )
    return Source((keys.distinct(),))


def _is_narrow(said: Comparison) -> bool:
    """Whether what it looks for is together in an index."""
    return said.operator not in ("!=", "contains") and (
        said.operator != "~" or _prefix(str(said.value)) != ""
    )


def _probe(table: type[FactRow] | type[PointerRow], *conditions: Condition) -> Condition:
    of_version = table.model_id == VersionRow.model_id, table.number == VersionRow.number
    query: Keys = sa.select(sa.literal_column("1")).select_from(table).where(*of_version, *conditions)
    return query.correlate(VersionRow).offset(_NOTHING).exists()


def _in_stage(stage: str) -> Condition:
    if stage in POINTER_STAGES:
        return _probe(PointerRow, PointerRow.name == stage)
    in_none = sa.not_(_probe(PointerRow, PointerRow.kind == "stage"))
    return sa.and_(in_none, VersionRow.archived.is_(stage == "archived"))


def _fact(said: Comparison, *, by_index: bool = False) -> Condition:
    """Of a version's facts, or (by_index) of all, when no more is asked for than an index has."""
    field = said.field
    of_field = [FactRow.kind == _KINDS[field.name], FactRow.name == field.key]
    if not (by_index and isinstance(said.value, str)):  # only metrics have these
        of_field += [FactRow.dataset == field.dataset, FactRow.slice == field.slice]
    return sa.and_(*of_field, _fact_value(said, FactRow.__table__.c.value, by_index=by_index))


def _fact_value(said: Comparison, value: Column, *, by_index: bool) -> Condition:
    value = value if by_index else unindexed(value)
    match said.value:
        case str(text):
            whole = _compare(FactRow.text, said)
            return _begins(said, text, whole) if by_index else whole
        case bool():
            return sa.and_(FactRow.type == "boolean", _compare(value, said, float))
        case Span():
            return sa.and_(FactRow.type == "time", _compare(value, said, _seconds))
        case _:
            return sa.and_(FactRow.type == "number", _compare(value, said))


def _begins(said: Comparison, text: str, whole: Condition) -> Condition:
    """The same by the head, which is in the index; it is all of a text that is shorter."""
    if said.operator == "=":
        exact = FactRow.head == text[:HEAD]
        return exact if len(text) < HEAD else sa.and_(exact, whole)
    prefix = _prefix(text)[:HEAD]
    begins = sa.and_(FactRow.head >= prefix, FactRow.head < _after(prefix))
    return begins if text == f"{prefix}*" else sa.and_(begins, whole)


def _compare(column: Any, said: Comparison, value: Callable[[Any], Any] = lambda value: value) -> Condition:
    """Of texts all that is compared is bytes: they are not in the order of some language."""
    if said.operator == "~":
        return matches_pattern(column, sa.bindparam(None, said.value, type_=_Pattern()))
    if said.operator == "contains":
        return contains_text(column, sa.bindparam(None, said.value, type_=sa.String()))
    if isinstance(said.value, Span):
        return _compare_span(column, said.operator, value(said.value.first), value(said.value.after))
    return _COMPARED[said.operator](column, value(said.value))


def _compare_span(column: Any, operator: str, first: Any, after: Any) -> Condition:
    inside = sa.and_(column >= first, column < after)
    compared: dict[str, Condition] = {
        "=": inside,
        "!=": sa.not_(inside),
        "<": column < first,
        "<=": column < after,
        ">": column >= after,
        ">=": column >= first,
    }
    return compared[operator]


def _seconds(at: datetime) -> float:
    return (at - _EPOCH).total_seconds()


def _prefix(pattern: str) -> str:
    return pattern.partition("*")[0]


def _after(prefix: str) -> str:
    """The first text, by bytes of UTF-8, that is after all that begin with `prefix`."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1]) + 1
        if code == 0xD800:
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[: end - 1] + chr(code)
    return "\U0010ffff" * (HEAD + 1)


class _Pattern(sa.types.TypeDecorator[str]):
    """A pattern in which only * is special, as the database's own operator wants it."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Write a pattern of GLOB or LIKE."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return "".join(f"[{c}]" if c in "?[" else c for c in value)
        return "".join(f"\\{c}" if c in "\\%_" else c for c in value).replace("*", "%")


class matches_pattern(sa.sql.functions.FunctionElement[bool]):  # noqa: N801 - reads as the SQL function it is
    """Text and pattern, all of it, upper and lower case being different."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(matches_pattern, "sqlite")
def _matches_sqlite(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    text, pattern = (compiler.process(each, **options) for each in element.clauses)
    return f"{text} GLOB {pattern}"


@compiles(matches_pattern, "postgresql")
def _matches_postgresql(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    text, pattern = (compiler.process(each, **options) for each in element.clauses)
    return f"{text} LIKE {pattern}"


class contains_text(sa.sql.functions.FunctionElement[bool]):  # noqa: N801 - as above
    """Text and a part of it, upper and lower case being different."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(contains_text, "sqlite")
def _contains_sqlite(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}) > 0"


@compiles(contains_text, "postgresql")
def _contains_postgresql(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)}) > 0"
