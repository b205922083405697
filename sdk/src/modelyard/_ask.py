"""What the commands about access ask: the API's own JSON, told as it is or as a table.

They are for whoever looks after a registry, from a shell or a pipeline. Training code has no use for them, so that Client
has no methods for them, and what the API adds needs no release of the SDK.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import click

from modelyard import _config
from modelyard._answer import answer
from modelyard._errors import UnexpectedAnswer

ROLES = ("reader", "publisher", "promoter", "owner", "admin")

Item = Mapping[str, Any]
Columns = Mapping[str, Callable[[Item], str]]
T = TypeVar("T")


def ask(method: str, *path: str, body: Item | None = None, params: Mapping[str, str] | None = None) -> Any:
    """The registry's answer about `path`, the names below /api/v1."""
    from modelyard._http import Http

    where = "/api/v1/" + "/".join(_segment(each) for each in path)
    with contextlib.closing(Http(_config.load(), timeout_s=30.0)) as http:
        if method == "GET":
            return http.get(where, params)
        return http.send(method, where, body, repeatable=method in ("PUT", "PATCH"))


def tell(as_json: bool, value: Any, sentence: Callable[[Item], str]) -> None:
    """Print an answer, or a sentence about it."""
    from modelyard._tables import printable

    answer(as_json, value, lambda: click.echo(printable(understood(sentence, value))))


def tell_table(as_json: bool, value: Any, columns: Columns, otherwise: str) -> None:
    """Print the items of an answer, or a table of them."""
    from modelyard._tables import print_table

    items: Sequence[Item] = understood(lambda: list(value["items"]))

    def print_all() -> None:
        rows = understood(lambda: [[cell(each) for cell in columns.values()] for each in items])
        print_table(list(columns), rows, otherwise)

    answer(as_json, items, print_all)


def understood(read: Callable[..., T], *values: Any) -> T:
    """What `read` makes of an answer. Raises UnexpectedAnswer."""
    try:
        return read(*values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(
            "The registry's answer cannot be understood. Is it of another version?"
        ) from error


def text(name: str) -> Callable[[Item], str]:
    """A cell with that field."""
    return lambda item: str(item[name])


def moment(name: str) -> Callable[[Item], str]:
    """A cell with that point in time."""

    def cell(item: Item) -> str:
        from modelyard._tables import when

        return when(datetime.fromisoformat(item[name])) if item[name] else "never"

    return cell


def right(item: Item) -> str:
    """A role for models, in words."""
    return f"{item['role']} of {'all models' if item['pattern'] == '*' else item['pattern']}"


def _segment(name: str) -> str:
    if not name.strip("."):
        raise click.BadParameter(f"{name!r} is not a name")
    return quote(name, safe="")
