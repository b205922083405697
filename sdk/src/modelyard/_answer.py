"""What a command says when it is done: a sentence or table for people, or with --json one JSON value."""

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

Command = Callable[..., None]


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(command)


def answer(as_json: bool, value: Any, tell: Callable[[], None]) -> None:
    """Print `value` as JSON, or let `tell` print."""
    if as_json:
        click.echo(json.dumps(value, default=_plain, indent=2))
    else:
        tell()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
