"""Comparisons of metrics, as policies demand them: `auc >= production.auc - 0.002`.

    comparison   sum (">=" | "<=" | ">" | "<" | "==" | "!=") sum
    sum          term { ("+" | "-") term }
    term         factor { ("*" | "/") factor }
    factor       "-" factor | number | metric | "(" sum ")"
    metric       [pointer "."] name ["[" dataset ["," slice] "]"]
    name …       letters, digits, _ and, within, hyphens are for quotes: "val/f1-score"

A metric without a pointer is that of the version to be promoted; `production.auc` that of whoever holds production. Numbers
are exact: 0.972 - 0.002 is 0.97, not the nearest that a processor has.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from registry.errors import InvalidExpression

MAX_LENGTH = 500
MAX_DEPTH = 32

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
           |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
           |"(?P<quoted>[^"]{1,128})"
           |(?P<sign>>=|<=|==|!=|[-+*/()<>.,\[\]]))""",
    re.VERBOSE | re.ASCII,
)
_COMPARE: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMBINE: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """Which number is meant: of the version itself, or of the holder of a pointer."""

    pointer: str | None
    name: str
    dataset: str = ""
    slice: str = ""

    def __str__(self) -> str:
        at = ", ".join(filter(None, (self.dataset, self.slice)))
        return (f"{self.pointer}." if self.pointer else "") + self.name + (f"[{at}]" if at else "")


@dataclass(frozen=True, slots=True)
class _Operation:
    sign: str
    left: "_Node"
    right: "_Node"


_Node = Fraction | Metric | _Operation
Look = Callable[[Metric], float]


@dataclass(frozen=True, slots=True)
class Comparison:
    sign: str
    left: _Node
    right: _Node

    def metrics(self) -> Iterator[Metric]:
        """All that it asks for, from left to right."""
        yield from _metrics(self.left)
        yield from _metrics(self.right)

    def holds(self, look: Look) -> bool:
        """Whether it is true of the numbers that `look` gives. Raises ZeroDivisionError."""
        return _COMPARE[self.sign](_value(self.left, look), _value(self.right, look))


def parse(text: str) -> Comparison:
    """Read a comparison. Raises InvalidExpression, which says where it stops making sense."""
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(f"A comparison has at most {MAX_LENGTH} characters.", MAX_LENGTH)
    return _Parser(text).comparison()


def _metrics(node: _Node) -> Iterator[Metric]:
    if isinstance(node, Metric):
        yield node
    elif isinstance(node, _Operation):
        yield from _metrics(node.left)
        yield from _metrics(node.right)


def _value(node: _Node, look: Look) -> Fraction:
    if isinstance(node, Fraction):
        return node
    if isinstance(node, Metric):
        return Fraction(repr(look(node)))
    return _COMBINE[node.sign](_value(node.left, look), _value(node.right, look))


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def comparison(self) -> Comparison:
        left = self._sum()
        sign = self._sign(*_COMPARE)
        if sign is None:
            raise self._wrong("a comparison: >=, <=, >, <, == or !=")
        found = Comparison(sign, left, self._sum())
        if self._kind() != "end":
            raise self._wrong("nothing more")
        return found

    def _sum(self) -> _Node:
        return self._chain(self._term, "+", "-")

    def _term(self) -> _Node:
        return self._chain(self._factor, "*", "/")

    def _chain(self, part: Callable[[], _Node], *signs: str) -> _Node:
        found = part()
        while sign := self._sign(*signs):
            found = _Operation(sign, found, part())
        return found

    def _factor(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"at most {MAX_DEPTH} levels")
        try:
            if self._sign("-"):
                return _Operation("-", Fraction(0), self._factor())
            if self._sign("("):
                found = self._sum()
                self._require(")")
                return found
            if self._kind() == "number":
                return self._number()
            return self._metric()
        finally:
            self._depth -= 1

    def _number(self) -> Fraction:
        value = float(self._tokens[self._at][1])
        if not math.isfinite(value):
            raise self._wrong("a number that is not too large")
        self._at += 1
        return Fraction(repr(value))

    def _metric(self) -> Metric:
        name = self._name("a number or the name of a metric")
        pointer = None
        if self._sign("."):
            pointer, name = name, self._name("the name of a metric")
        dataset = slice_ = ""
        if self._sign("["):
            dataset = self._name("the name of a dataset")
            if self._sign(","):
                slice_ = self._name("the name of a slice")
            self._require("]")
        return Metric(pointer, name, dataset, slice_)

    def _name(self, what: str) -> str:
        if self._kind() != "name":
            raise self._wrong(what)
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _sign(self, *signs: str) -> str | None:
        kind, text, _ = self._tokens[self._at]
        if kind != "sign" or text not in signs:
            return None
        self._at += 1
        return text

    def _require(self, sign: str) -> None:
        if self._sign(sign) is None:
            raise self._wrong(f'"{sign}"')

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _wrong(self, expected: str) -> InvalidExpression:
        position = self._tokens[self._at][2]
        return InvalidExpression(f"At character {position + 1}, {expected} was expected.", position)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise InvalidExpression(f"At character {start + 1} is something that means nothing here.", start)
        kind = str(found.lastgroup)
        yield "name" if kind == "quoted" else kind, found[kind], found.start(kind)
        at = found.end()
    yield "end", "", end
