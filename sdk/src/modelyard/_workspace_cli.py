"""`modelyard workspace`: names, rights and limits of their own within one registry.

Which one a command is about, the URL says: http://127.0.0.1:7070/w/acme. Without /w/… it is "default".
"""

from collections.abc import Callable
from typing import Any

import click

from modelyard._answer import Command, answer, json_option
from modelyard._ask import Item, ask, moment, tell, tell_table, text, understood

_LIMITS = {
    "max_versions": ("--max-versions", "At most so many versions."),
    "max_bytes": ("--max-bytes", "At most so many bytes in files, before deduplication."),
    "max_requests_per_minute": ("--max-requests", "At most so many requests a minute of each caller."),
}


def _limit_options(command: Command) -> Command:
    for name, (option, help_text) in reversed(_LIMITS.items()):
        least = 1 if name == "max_requests_per_minute" else 0
        command = click.option(option, name, type=click.IntRange(min=least), metavar="N", help=help_text)(
            command
        )
    return command


@click.group()
def workspace() -> None:
    """Make, list and limit workspaces."""


@workspace.command()
@click.argument("name")
@_limit_options
@json_option
def create(name: str, as_json: bool, **limits: int | None) -> None:
    """Make a workspace. Nobody but administrators has rights in it yet."""
    made = ask("POST", "workspaces", body={"name": name, **limits})
    told = "The workspace {name} is there: add /w/{name} to the registry's URL."
    tell(as_json, made, told.format_map)


@workspace.command("ls")
@json_option
def list_(as_json: bool) -> None:
    """List all workspaces, what they have and what they may have."""
    columns: dict[str, Callable[[Item], str]] = {
        "WORKSPACE": text("name"),
        "VERSIONS": _versions,
        "BYTES": _bytes,
        "REQUESTS A MINUTE": _requests,
        "CREATED": moment("created_at"),
        "BY": text("created_by"),
    }
    tell_table(as_json, ask("GET", "workspaces"), columns, "No workspaces.")


@workspace.command()
@json_option
def show(as_json: bool) -> None:
    """Show the workspace that the URL selects: what it has, and what it may have."""
    _show(as_json, ask("GET", "workspace"))


@workspace.command()
@click.argument("name")
@_limit_options
@json_option
def limit(name: str, as_json: bool, **limits: int | None) -> None:
    """Set all limits of a workspace: what is left out is not limited. What is there already stays."""
    _show(as_json, ask("PUT", "workspaces", name, "limits", body=limits))


def _show(as_json: bool, found: Any) -> None:
    from modelyard._tables import print_facts

    answer(as_json, found, lambda: print_facts(understood(_facts, found)))


def _facts(found: Item) -> list[tuple[str, str]]:
    return [
        ("Workspace", str(found["name"])),
        ("Versions", _versions(found)),
        ("Bytes", _bytes(found)),
        ("Requests a minute", _requests(found)),
        ("Created", f"{moment('created_at')(found)} by {found['created_by']}"),
    ]


def _versions(item: Item) -> str:
    return _of(str(item["versions"]), item["limits"]["max_versions"], str)


def _bytes(item: Item) -> str:
    from modelyard._tables import size

    return _of(size(item["bytes"]), item["limits"]["max_bytes"], size)


def _requests(item: Item) -> str:
    return str(item["limits"]["max_requests_per_minute"] or "no limit")


def _of(has: str, most: int | None, told: Callable[[int], str]) -> str:
    return has if most is None else f"{has} of {told(most)}"
