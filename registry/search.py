"""The grammar of searches: text in, a tree of comparisons out. It knows no tables; search_sql.py makes conditions of the tree.

    search      = [ either ]                                  nothing: every version
    either      = both { OR both }
    both        = term { AND term }
    term        = NOT term | "(" either ")" | comparison
    comparison  = field operator value
    field       = model | number | stage | alias | creator | created | format | archived | description
                | tags.NAME | metadata.NAME | params.NAME | metrics.NAME [ "[" DATASET [ "," SLICE ] "]" ]

    a value is      and is compared with
    text            =  !=  ~ (a pattern: * is any number of characters)  contains
    a number        =  !=  <  <=  >  >=
    a time          the same; a day such as 2026-11-22 (UTC) is all of it: <= that day includes its evening
    true, false     =  !=

A name or value is a word, or text in quotes, in which a backslash takes the next character as it is. What metadata and
parameters are compared as is seen from the value: 12 is a number, "12" is text.

A comparison holds for a version that has a value for which it holds: `tags.team != risk` wants a team, and another one;
`NOT tags.team = risk` is true of versions without a team as well.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from registry.domain import Stage
from registry.search_tokens import Token, expected, tokens

MAX_DEPTH = 20
"""How deep parentheses and NOT may be nested."""
MAX_COMPARISONS = 50

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "~", "contains"]
Type = Literal["text", "number", "time", "boolean", "stage"]

STAGES = get_args(Stage)


@dataclass(frozen=True, slots=True)
class Field:
    """What is compared: `key` is what stands behind tags., metadata., params. or metrics."""

    name: str
    key: str = ""
    dataset: str = ""
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A time: a day, or one microsecond. `after` is the first moment that is not in it any more."""

    first: datetime
    after: datetime


Value = str | float | bool | Span


@dataclass(frozen=True, slots=True)
class Comparison:
    field: Field
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Not:
    part: "Node"


@dataclass(frozen=True, slots=True)
class And:
    """Of no parts: true."""

    parts: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple["Node", ...]


Node = Comparison | Not | And | Or

_PLAIN: dict[str, Type] = {
    "model": "text",
    "number": "number",
    "stage": "stage",
    "alias": "text",
    "creator": "text",
    "created": "time",
    "format": "text",
    "archived": "boolean",
    "description": "text",
}
# None: as the value looks
_KEYED: dict[str, Type | None] = {"tags": "text", "metadata": None, "params": None, "metrics": "number"}
_OPERATORS: dict[Type, tuple[Operator, ...]] = {
    "text": ("=", "!=", "~", "contains"),
    "number": ("=", "!=", "<", "<=", ">", ">="),
    "time": ("=", "!=", "<", "<=", ">", ">="),
    "boolean": ("=", "!="),
    "stage": ("=", "!="),
}
_EXPECTED: dict[Type, str] = {
    "text": "text: a word, or anything in quotes",
    "number": "a number such as 0.97",
    "time": "a day such as 2026-11-22, or a time such as 2026-11-22T10:00:00Z",
    "boolean": "true or false",
    "stage": f"one of the stages {', '.join(STAGES)}",
}
_FIELDS = f"a field: {', '.join(_PLAIN)}, {', '.join(f'{name}.NAME' for name in _KEYED)}"
_KEYWORDS = ("and", "or", "not", "contains")

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def parse(text: str) -> Node:
    """The tree of a search. Raises InvalidQuery with the position and what was expected there."""
    return _Parser(tokens(text)).parse()


class _Parser:
    """One method for each rule of the grammar; each reads what is its own and leaves the rest."""

    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._index = 0
        self._depth = 0
        self._comparisons = 0

    def parse(self) -> Node:
        if self._is_over():
            return And()
        found = self._either()
        if not self._is_over():
            raise expected("AND, OR or the end", self._next.at)
        return found

    @property
    def _next(self) -> Token:
        return self._tokens[self._index]

    def _is_over(self) -> bool:
        return self._next.kind == "end"

    def _take(self) -> Token:
        taken = self._next
        self._index += taken.kind != "end"
        return taken

    def _took(self, kind: str, text: str) -> bool:
        if self._next.kind != kind or self._next.text.lower() != text:
            return False
        self._take()
        return True

    def _either(self) -> Node:
        parts = [self._both()]
        while self._took("word", "or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Node:
        parts = [self._term()]
        while self._took("word", "and"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _term(self) -> Node:
        begun = self._next
        if self._took("word", "not"):
            self._deeper(begun)
            found: Node = Not(self._term())
        elif self._took("mark", "("):
            self._deeper(begun)
            found = self._either()
            if not self._took("mark", ")"):
                raise expected("AND, OR or )", self._next.at)
        else:
            return self._comparison()
        self._depth -= 1
        return found

    def _deeper(self, at: Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise expected(f"at most {MAX_DEPTH} nested parentheses and NOTs", at.at)

    def _comparison(self) -> Comparison:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise expected(f"at most {MAX_COMPARISONS} comparisons", self._next.at)
        field = self._field()
        token = self._next
        operator = self._operator(_type_of(field))
        if self._next.kind not in ("word", "text") or _is_keyword(self._next):
            raise expected(_EXPECTED[_type_of(field) or "text"], self._next.at)
        type_ = _type_of(field) or _looks_like(self._next, operator)
        if operator not in _OPERATORS[type_]:
            raise expected(_one_of(type_), token.at)
        return Comparison(field, operator, _value(self._take(), type_))

    def _field(self) -> Field:
        begun = self._take()
        name, dot, key = begun.text.partition(".")
        if begun.kind != "word" or name not in (_KEYED if dot else _PLAIN):
            raise expected(_FIELDS, begun.at)
        if not dot:
            return Field(name)
        if not key:
            if (self._next.kind, self._next.at) != ("text", begun.end) or not self._next.text:
                raise expected("a name, in quotes unless it is a word", begun.end)
            key = self._take().text
        if name != "metrics" or not self._took("mark", "["):
            return Field(name, key)
        dataset = self._part("a dataset", or_mark=",")
        slice_ = self._part("a slice") if self._took("mark", ",") else ""
        if not self._took("mark", "]"):
            raise expected("]", self._next.at)
        return Field(name, key, dataset, slice_)

    def _part(self, what: str, or_mark: str | None = None) -> str:
        if (self._next.kind, self._next.text) == ("mark", or_mark):
            return ""
        if self._next.kind not in ("word", "text"):
            raise expected(what, self._next.at)
        return self._take().text

    def _operator(self, type_: Type | None) -> Operator:
        token = self._take()
        for operator in get_args(Operator):
            if token.kind in ("operator", "word") and token.text.lower() == operator:
                return operator  # type: ignore[no-any-return]  # one of the literal's
        raise expected(_one_of(type_), token.at)


def _type_of(field: Field) -> Type | None:
    return _PLAIN[field.name] if field.name in _PLAIN else _KEYED[field.name]


def _one_of(type_: Type | None) -> str:
    return f"one of {' '.join(_OPERATORS[type_] if type_ else get_args(Operator))}"


def _is_keyword(token: Token) -> bool:
    return token.kind == "word" and token.text.lower() in _KEYWORDS


def _looks_like(token: Token, operator: Operator) -> Type:
    if token.kind == "text" or operator in ("~", "contains"):
        return "text"
    if token.text in ("true", "false"):
        return "boolean"
    if _NUMBER.fullmatch(token.text):
        return "number"
    return "time" if _DAY.fullmatch(token.text) or _TIME.fullmatch(token.text) else "text"


def _value(token: Token, type_: Type) -> Value:
    value: Value | None = token.text
    if type_ == "number":
        value = _number(token)
    elif type_ == "time":
        value = _span(token.text)
    elif type_ == "boolean":
        value = {"true": True, "false": False}.get(token.text)
    elif type_ == "stage":
        value = token.text if token.text in STAGES else None
    if value is None:
        raise expected(_EXPECTED[type_], token.at)
    return value


def _number(token: Token) -> float | None:
    if token.kind != "word" or not _NUMBER.fullmatch(token.text):
        return None
    value = float(token.text)
    return value if math.isfinite(value) else None


def _span(text: str) -> Span | None:
    is_day = _DAY.fullmatch(text)
    if not is_day and not _TIME.fullmatch(text):
        return None
    try:
        first = datetime.fromisoformat(text)
        first = first.replace(tzinfo=UTC) if first.tzinfo is None else first.astimezone(UTC)
        return Span(first, first + (timedelta(days=1) if is_day else timedelta(microseconds=1)))
    except (ValueError, OverflowError):
        return None
