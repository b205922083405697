"""Searches of random versions find what a few lines of plain Python find, page by page, in both orders."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import search_plan
from registry.access import Caller, Right
from registry.database import Database
from registry.search import parse
from tests.servers.versions import Written, new_workspace, write

TEXTS = [
    "a",
    "A",
    "ab",
    "a_b",
    "a?b",
    "a[b]",
    "a%b",
    "12",
    "é*",
    "",
    "\U0010ffff",
    "x" * 128,
    "x" * 129,
    "x" * 130,
]
PATTERNS = [
    "*",
    "a*",
    "*b",
    "a_*",
    "a?b",
    "a[b]*",
    "a%*",
    "12",
    "é**",
    "\U0010ffff*",
    "x*x",
    "x" * 128 + "*",
    "b*",
]
NUMBERS = [-1.5, 0.0, 1.0, 2.0, 12.0, 1e300]
DAY = datetime(2026, 3, 1, tzinfo=UTC)
TIMES = [DAY + timedelta(microseconds=n) for n in (-1, 0, 1, 43_200_000_000, 86_399_999_999, 86_400_000_000)]
MODELS, ALIASES, CREATORS, FORMATS = (
    ["a1", "a_2", "b"],
    ["champion", "canary"],
    ["ada", "bob"],
    ["onnx", "files"],
)

Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Query:
    """A search as text, and as a function."""

    text: str
    holds: Callable[[Written], bool]


# --- what the operators mean

ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def of_text(operator: str, value: str) -> Test:
    if operator == "~":
        pattern = ".*".join(map(re.escape, value.split("*")))
        return lambda given: isinstance(given, str) and re.fullmatch(pattern, given, re.DOTALL) is not None
    if operator == "contains":
        return lambda given: isinstance(given, str) and value in given
    return lambda given: isinstance(given, str) and (given == value) == (operator == "=")


def of_number(operator: str, value: float) -> Test:
    return lambda given: type(given) in (int, float) and ORDERED[operator](given, value)


def of_boolean(operator: str, value: bool) -> Test:
    return lambda given: isinstance(given, bool) and (given is value) == (operator == "=")


def of_day(operator: str) -> Test:
    """A day is compared by days."""
    return lambda given: isinstance(given, datetime) and ORDERED[operator](given.date(), DAY.date())


def of_moment(operator: str, value: datetime) -> Test:
    return lambda given: isinstance(given, datetime) and ORDERED[operator](given, value)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- comparisons: the operator, the value as it is written, and what it means

said_text = st.tuples(st.sampled_from(["=", "!=", "contains"]), st.sampled_from(TEXTS)) | st.tuples(
    st.just("~"), st.sampled_from(PATTERNS)
)
texts = said_text.map(lambda said: (f"{said[0]} {quoted(said[1])}", of_text(*said)))
numbers = st.tuples(st.sampled_from(list(ORDERED)), st.sampled_from(NUMBERS)).map(
    lambda said: (f"{said[0]} {said[1]}", of_number(*said))
)
booleans = st.tuples(st.sampled_from(["=", "!="]), st.booleans()).map(
    lambda said: (f"{said[0]} {str(said[1]).lower()}", of_boolean(*said))
)
days = st.sampled_from(list(ORDERED)).map(lambda operator: (f"{operator} 2026-03-01", of_day(operator)))
moments = st.tuples(st.sampled_from(list(ORDERED)), st.sampled_from(TIMES)).map(
    lambda said: (f"{said[0]} {said[1].isoformat()}", of_moment(*said))
)
anything = texts | numbers | booleans | days | moments


def facts(field: str, kind: str, said: st.SearchStrategy[Any], datasets: Sequence[str] = ("",)) -> Any:
    def query(name: str, dataset: str, rest: tuple[str, Test]) -> Query:
        key, place = (kind, name, dataset, ""), f"[{dataset}]" if dataset else ""
        return Query(f"{field}.{name}{place} {rest[0]}", lambda v: key in v.facts and rest[1](v.facts[key]))

    return st.builds(query, st.sampled_from(["p", "q"]), st.sampled_from(datasets), said)


def column(field: str, said: st.SearchStrategy[Any], read: Callable[[Written], Any]) -> Any:
    return said.map(lambda rest: Query(f"{field} {rest[0]}", lambda v: rest[1](read(v))))


def named(values: Sequence[str], patterns: Sequence[str]) -> Any:
    said = st.tuples(st.sampled_from(["=", "!=", "contains"]), st.sampled_from(values))
    return (said | st.tuples(st.just("~"), st.sampled_from(patterns))).map(
        lambda each: (f"{each[0]} {quoted(each[1])}", of_text(*each))
    )


def stage_of(version: Written) -> str:
    return version.stage or ("archived" if version.archived else "none")


stages = st.tuples(
    st.sampled_from(["=", "!="]), st.sampled_from(["none", "staging", "production", "archived"])
)
aliases = named(ALIASES, ["c*", "*"]).map(
    lambda rest: Query(f"alias {rest[0]}", lambda v: any(map(rest[1], v.aliases)))
)
comparisons = st.one_of(
    facts("tags", "tag", texts),
    facts("metadata", "metadata", anything),
    facts("params", "parameter", anything),
    facts("metrics", "metric", numbers, ("", "test")),
    column("model", named(MODELS, ["a*", "*_2"]), lambda v: v.model),
    column("number", numbers, lambda v: v.number),
    column("stage", stages.map(lambda said: (" ".join(said), of_text(*said))), stage_of),
    aliases,
    column("creator", named(CREATORS, ["*d*"]), lambda v: v.creator),
    column("created", days | moments, lambda v: v.created),
    column("format", named(FORMATS, ["f*"]), lambda v: v.format),
    column("archived", booleans, lambda v: v.archived),
    column("description", texts, lambda v: v.description),
)


def all_of(parts: Sequence[Query]) -> Query:
    return Query(" AND ".join(f"({p.text})" for p in parts), lambda v: all(p.holds(v) for p in parts))


def any_of(parts: Sequence[Query]) -> Query:
    return Query(" OR ".join(f"({p.text})" for p in parts), lambda v: any(p.holds(v) for p in parts))


def none_of(part: Query) -> Query:
    return Query(f"NOT ({part.text})", lambda v: not part.holds(v))


several = lambda inner: st.lists(inner, min_size=2, max_size=3)  # noqa: E731 - a strategy of strategies
queries = st.recursive(
    comparisons,
    lambda inner: several(inner).map(all_of) | several(inner).map(any_of) | inner.map(none_of),
    max_leaves=5,
)

# --- versions

values = st.sampled_from([*TEXTS, *NUMBERS, *TIMES, True, False])
any_facts = st.fixed_dictionaries(
    {},
    optional={
        **{("tag", name, "", ""): st.sampled_from(TEXTS) for name in "pq"},
        **{(kind, name, "", ""): values for kind in ("metadata", "parameter") for name in "pq"},
        **{("metric", name, on, ""): st.sampled_from(NUMBERS) for name in "pq" for on in ("", "test")},
    },
)
plain = st.builds(
    Written,
    model=st.sampled_from(MODELS),
    number=st.just(0),
    format=st.sampled_from(FORMATS),
    creator=st.sampled_from(CREATORS),
    created=st.sampled_from(TIMES),
    archived=st.booleans(),
    deleted=st.sampled_from([False, False, False, True]),
    description=st.sampled_from(TEXTS),
    facts=any_facts,
)


@st.composite
def worlds(draw: st.DrawFn) -> list[Written]:
    """Numbered versions; stages and aliases are of one version of a model each."""
    drawn = draw(st.lists(plain, min_size=1, max_size=10))
    free = {model: ["staging", "production"] for model in MODELS}
    unheld = {model: list(ALIASES) for model in MODELS}
    made: list[Written] = []
    for each in drawn:
        stage = draw(st.sampled_from([None, *free[each.model]])) if not each.archived else None
        if stage:
            free[each.model].remove(stage)
        held = draw(st.sets(st.sampled_from(unheld[each.model]))) if unheld[each.model] else set()
        unheld[each.model] = [alias for alias in unheld[each.model] if alias not in held]
        number = 1 + sum(other.model == each.model for other in made)
        made.append(Written(**{**vars(each), "number": number, "stage": stage, "aliases": sorted(held)}))
    return made


def expected(
    world: Sequence[Written], query: Query, order: str, sees: Callable[[str], bool]
) -> list[tuple[str, int]]:
    age = {name: index for index, name in enumerate(dict.fromkeys(v.model for v in world))}
    found = [v for v in world if not v.deleted and sees(v.model) and query.holds(v)]
    by_model: Callable[[Written], Any] = lambda v: (age[v.model], v.number)  # noqa: E731
    by_time: Callable[[Written], Any] = lambda v: (v.created, age[v.model], v.number)  # noqa: E731
    found.sort(key=by_model if order == "model" else by_time, reverse=True)
    return [(v.model, v.number) for v in found]


@given(
    world=worlds(),
    asked=st.lists(
        st.tuples(queries, st.sampled_from(["model", "created"]), st.sampled_from([0, 2, 4000])),
        min_size=4,
        max_size=8,
    ),
    limit=st.integers(1, 4),
    reader=st.booleans(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_search_finds_what_it_says(
    database: Database, world: list[Written], asked: list[tuple[Query, Any, int]], limit: int, reader: bool
) -> None:
    caller = new_workspace(database)
    write(database, caller.workspace_id, world)
    if reader:
        caller = Caller("eve", caller.workspace, caller.workspace_id, rights=(Right("reader", "a*"),))
    for query, order, few in asked:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search_plan, "FEW", few)
            found = pages(database, caller, query.text, order, limit)
        sees = (lambda name: name.startswith("a")) if reader else (lambda _: True)
        assert found == expected(world, query, order, sees), query.text


def pages(database: Database, caller: Caller, text: str, order: Any, limit: int) -> list[tuple[str, int]]:
    found, after = [], None
    while True:
        with database.read() as session:
            page = search_plan.search(session, caller, parse(text), order=order, limit=limit, after=after)
        found += [(version.model, version.number) for version in page.items]
        if page.next is None:
            return found
        assert len(page.items) == limit
        assert page.next != after, "no end"
        after = page.next
