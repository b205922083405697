"""Pages that neither repeat nor skip.

A page is cut by key, not by offset: the cursor names the last row seen, so that rows added meanwhile cannot shift it.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from registry.errors import InvalidCursor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`items`, and the cursor that gives the ones after them; None on the last page."""

    items: Sequence[T]
    next: str | None


def cut(rows: Sequence[T], limit: int, key: Callable[[T], object]) -> tuple[Sequence[T], str | None]:
    """The first `limit` rows, and the cursor of the last of them if there are more."""
    if len(rows) <= limit:
        return rows, None
    last = key(rows[limit - 1])
    values = last if isinstance(last, tuple) else (last,)
    return rows[:limit], base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def read_cursor(text: str, *kinds: type) -> Any:
    """What `key` gave for the last row: one value, or a list. Raises InvalidCursor unless it is of these kinds."""
    try:
        values = json.loads(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise invalid_cursor() from error
    if not isinstance(values, list) or list(map(type, values)) != list(kinds):
        raise invalid_cursor()
    if any(isinstance(value, int) and abs(value) > 2**63 - 1 for value in values):
        raise invalid_cursor()
    if any(isinstance(value, str) and not _is_plain(value) for value in values):
        raise invalid_cursor()
    return values[0] if len(values) == 1 else values


def read_time(text: str) -> datetime:
    """The time that a cursor holds as text. Raises InvalidCursor."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid_cursor() from error
    if at.tzinfo is None:
        raise invalid_cursor()
    return at


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def invalid_cursor() -> InvalidCursor:
    """The error that a cursor is not one of ours."""
    return InvalidCursor('The cursor "after" is not one that this registry gave out. Start again without it.')
