"""The grammar of searches: what is printed in it is read back the same, and whatever cannot be read says where."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidQuery
from registry.search import MAX_COMPARISONS, MAX_DEPTH, And, Comparison, Field, Node, Not, Or, Span, parse
from registry.search_tokens import MAX_LENGTH

DAY = Span(datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC))


def moment(*at: int) -> Span:
    first = datetime(*at, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month …
    return Span(first, first + timedelta(microseconds=1))


def tag(name: str, value: str) -> Comparison:
    return Comparison(Field("tags", name), "=", value)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", And()),
        (" \n", And()),
        ("model = fraud", Comparison(Field("model"), "=", "fraud")),
        ("model~fraud-*", Comparison(Field("model"), "~", "fraud-*")),
        ("tags.team = 7", tag("team", "7")),
        ("tags.a.b/c = 'it'", tag("a.b/c", "it")),
        (r'tags."a \"b\"\\" = "c\n"', tag('a "b"\\', "cn")),
        ("params.depth >= 12", Comparison(Field("params", "depth"), ">=", 12.0)),
        ('params.depth = "12"', Comparison(Field("params", "depth"), "=", "12")),
        ("params.depth ~ 1*", Comparison(Field("params", "depth"), "~", "1*")),
        ("params.depth ~ 12", Comparison(Field("params", "depth"), "~", "12")),
        ("metadata.reviewed != true", Comparison(Field("metadata", "reviewed"), "!=", True)),
        ("metadata.until < 2026-11-22", Comparison(Field("metadata", "until"), "<", DAY)),
        ("metadata.name = 2026-11-22x", Comparison(Field("metadata", "name"), "=", "2026-11-22x")),
        ("metrics.auc > -.5e-1", Comparison(Field("metrics", "auc"), ">", -0.05)),
        ("metrics.auc[test]=1", Comparison(Field("metrics", "auc", "test"), "=", 1.0)),
        (
            'metrics.auc[test, "age > 60"] = 1',
            Comparison(Field("metrics", "auc", "test", "age > 60"), "=", 1.0),
        ),
        ("metrics.auc[,adults] = 1", Comparison(Field("metrics", "auc", "", "adults"), "=", 1.0)),
        ("stage = production", Comparison(Field("stage"), "=", "production")),
        ("created = 2026-11-22", Comparison(Field("created"), "=", DAY)),
        (
            "created > 2026-11-22T10:00:00.5+01:00",
            Comparison(Field("created"), ">", moment(2026, 11, 22, 9, 0, 0, 500_000)),
        ),
        ("created > 2026-11-22T10:00", Comparison(Field("created"), ">", moment(2026, 11, 22, 10))),
        ("archived = false", Comparison(Field("archived"), "=", False)),
        ("number >= 3", Comparison(Field("number"), ">=", 3.0)),
        ("description CONTAINS 'a b'", Comparison(Field("description"), "contains", "a b")),
        ("tags.a=1 and tags.b=2 AND tags.c=3", And((tag("a", "1"), tag("b", "2"), tag("c", "3")))),
        ("tags.a=1 OR tags.b=2 AND tags.c=3", Or((tag("a", "1"), And((tag("b", "2"), tag("c", "3")))))),
        ("(tags.a=1 or tags.b=2) AND tags.c=3", And((Or((tag("a", "1"), tag("b", "2"))), tag("c", "3")))),
        ("NOT tags.a=1 AND not not tags.b=2", And((Not(tag("a", "1")), Not(Not(tag("b", "2")))))),
    ],
)
def test_reading(text: str, tree: Node) -> None:
    assert parse(text) == tree


FIELD = "a field: model, "
TEXT_OPERATORS = "one of = != ~ contains"
NUMBER_OPERATORS = "one of = != < <= > >="
LONG = " " * (MAX_LENGTH + 1)
DEEP = "(" * (MAX_DEPTH + 1)
MANY = " AND ".join(["archived=true"] * (MAX_COMPARISONS + 1))


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("fraud", 1, FIELD),
        ("team = risk", 1, FIELD),
        ("tags = risk", 1, FIELD),
        ("stage.x = none", 1, FIELD),
        ("'model' = fraud", 1, FIELD),
        ("model = a AND", 14, FIELD),
        ("model = a AND OR model = b", 15, FIELD),
        ("NOT", 4, FIELD),
        ("()", 2, FIELD),
        ("tags. = risk", 6, "a name, in quotes"),
        ("tags.'' = risk", 6, "a name, in quotes"),
        ("tags. 'x' = risk", 6, "a name, in quotes"),
        ("model fraud", 7, TEXT_OPERATORS),
        ("model", 6, TEXT_OPERATORS),
        ("model > fraud", 7, TEXT_OPERATORS),
        ("metrics.auc ~ 0.9*", 13, NUMBER_OPERATORS),
        ("params.x 12", 10, "one of = != < <= > >= ~ contains"),
        ("params.x < abc", 10, TEXT_OPERATORS),
        ("params.x < true", 10, "one of = !="),
        ("archived < true", 10, "one of = !="),
        ("model = ", 9, "text: a word"),
        ("model = AND", 9, "text: a word"),
        ("model = (a)", 9, "text: a word"),
        ("metrics.auc = high", 15, "a number"),
        ("metrics.auc = '1'", 15, "a number"),
        ("metrics.auc = 1e999", 15, "a number"),
        ("metrics.auc = nan", 15, "a number"),
        ("metrics.auc = 1_0", 15, "a number"),
        ("metrics.auc[] = 1", 13, "a dataset"),
        ("metrics.auc[a,] = 1", 15, "a slice"),
        ("metrics.auc[a b] = 1", 15, "]"),
        ("tags.auc[a] = 1", 9, TEXT_OPERATORS),
        ("created > yesterday", 11, "a day"),
        ("created > 2026-02-30", 11, "a day"),
        ("created > 9999-12-31", 11, "a day"),
        ("archived = yes", 12, "true or false"),
        ("stage = Production", 9, "one of the stages none, staging, production, archived"),
        ("(model = a", 11, "AND, OR or )"),
        ("model = a)", 10, "AND, OR or the end"),
        ("model = a b", 11, "AND, OR or the end"),
        ("model = 'a", 9, "the closing quote"),
        ("model = a\\", 10, "a field, an operator or a value"),
        ("model = a\0", 10, "a character that text can have"),
        ("model = '\ud800'", 10, "a character that text can have"),
        (LONG, MAX_LENGTH + 1, "a search of at most 2000 characters"),
        (DEEP, MAX_DEPTH + 1, "at most 20 nested"),
        ("NOT " * (MAX_DEPTH + 1), 4 * MAX_DEPTH + 1, "at most 20 nested"),
        (MANY, 1 + 18 * MAX_COMPARISONS, "at most 50 comparisons"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse(text)
    assert caught.value.data["position"] == position
    assert str(caught.value.data["expected"]).startswith(expected)
    assert f"At character {position} " in str(caught.value)


def test_as_much_as_may_be() -> None:
    parse("(" * MAX_DEPTH + "archived=true" + ")" * MAX_DEPTH + "AND (archived = true)")
    parse(" AND ".join(["archived=true"] * MAX_COMPARISONS))
    parse("model = " + "a" * (MAX_LENGTH - 8))


KEYED = ("tags", "metadata", "params", "metrics")
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
days = st.dates(max_value=datetime(9999, 12, 30, tzinfo=UTC).date()).map(
    lambda day: Span(start := datetime(day.year, day.month, day.day, tzinfo=UTC), start + timedelta(days=1))
)
texts = st.tuples(st.sampled_from(["=", "!=", "~", "contains"]), names | st.just(""))
ordered = st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), numbers)
times = st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), days)
flags = st.tuples(st.sampled_from(["=", "!="]), st.booleans())


def of(fields: st.SearchStrategy[Field], said: st.SearchStrategy[Any]) -> st.SearchStrategy[Node]:
    return st.builds(lambda field, rest: Comparison(field, *rest), fields, said)


comparisons = (
    of(st.sampled_from(["model", "alias", "creator", "format", "description"]).map(Field), texts)
    | of(st.builds(Field, st.just("tags"), names), texts)
    | of(st.builds(Field, st.sampled_from(["metadata", "params"]), names), texts | ordered | times | flags)
    | of(st.builds(Field, st.just("metrics"), names, names | st.just(""), names), ordered)
    | of(st.just(Field("created")), times)
    | of(st.just(Field("archived")), flags)
    | of(st.just(Field("number")), ordered)
)
trees = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def printed(node: Node) -> str:
    match node:
        case Comparison(field, operator, value):
            return f"{_field(field)} {operator} {_value(value)}"
        case Not(part):
            return f"NOT ({printed(part)})"
        case And(parts):
            return " AND ".join(f"({printed(part)})" for part in parts)
        case Or(parts):
            return "\tor\n".join(f"({printed(part)})" for part in parts)


def _field(field: Field) -> str:
    name = f"{field.name}.{quoted(field.key)}" if field.name in KEYED else field.name
    if not field.dataset and not field.slice:
        return name
    return f"{name}[{quoted(field.dataset) if field.dataset else ''}, {quoted(field.slice)}]"


def _value(value: object) -> str:
    if isinstance(value, Span):
        return value.first.date().isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(trees)
def test_what_is_printed_is_read_back(tree: Node) -> None:
    assert parse(printed(tree)) == tree


pieces = st.sampled_from(
    [
        "tags.a",
        "metrics.b",
        "[",
        "]",
        ",",
        "(",
        ")",
        "=",
        "~",
        "<",
        "AND",
        "NOT",
        "'",
        '"',
        "1",
        "x",
        "\\",
        "*",
    ]
)


@given(st.lists(pieces | st.text(max_size=3), max_size=12).map(" ".join) | st.text(max_size=40))
def test_anything_is_read_or_refused_at_a_position_in_it(text: str) -> None:
    try:
        parse(text)
    except InvalidQuery as error:
        position = error.data["position"]
        assert isinstance(position, int)
        assert 1 <= position <= len(text) + 1
