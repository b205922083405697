"""The words of a search, and the one error that a search can have: where, and what was expected there.

    tags.team = "fraud detection" AND (metrics.auc[test] >= 0.97 OR NOT stage = none)
    word      operator  text      word  mark            …                          end

Nothing of the text is repeated in an error: whoever asked has it, and finds the place by its position.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from registry.errors import InvalidQuery

MAX_LENGTH = 2000
"""Characters of a search."""

Kind = Literal["word", "text", "operator", "mark", "end"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<operator>!=|<=|>=|=|<|>|~)
      | (?P<mark>[()\[\],])
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<word>[^\s()\[\],=!<>~"'\\]+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BLANK = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Token:
    """`text` without quotes and escapes; `at` and `end`: the positions of its first character, and after its last."""

    kind: Kind
    text: str
    at: int
    end: int


def expected(what: str, at: int) -> InvalidQuery:
    """The error that something else is at this position, counted from 0."""
    return InvalidQuery(what, at + 1)


def tokens(text: str) -> list[Token]:
    """All tokens, "end" being the last. Raises InvalidQuery."""
    if len(text) > MAX_LENGTH:
        raise expected(f"a search of at most {MAX_LENGTH} characters", MAX_LENGTH)
    if found := _UNSTORABLE.search(text):
        raise expected("a character that text can have", found.start())
    return list(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while found := _TOKEN.match(text, at):
        kind: Kind = found.lastgroup  # type: ignore[assignment]  # the names of the groups are the kinds
        content = found[kind]
        if kind == "text":
            content = _ESCAPED.sub(r"\1", content[1:-1])
        yield Token(kind, content, found.start(kind), found.end())
        at = found.end()
    at = _BLANK.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
    if at < len(text):
        raise expected("the closing quote" if text[at] in "\"'" else "a field, an operator or a value", at)
    yield Token("end", "", at, at)
