"""`modelyard cache`: what is kept on this machine, and for how long.

    ls                  versions, size, last use, pins          path     where it is
    pin REF  unpin REF  keep a version whatever is fetched      verify   hash everything
    clear               remove all that is neither pinned nor in use

A pointer such as fraud@production stands for the version that it named when it was last fetched: nothing here asks the
registry. With --json one JSON value on stdout.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from modelyard import _config
from modelyard._errors import IntegrityError

if TYPE_CHECKING:
    from modelyard._cache import Cache, Entry

Command = Callable[..., None]


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(command)


@click.group()
def cache() -> None:
    """Look after the versions that are kept on this machine."""


@cache.command("ls")
@_json_option
def list_(as_json: bool) -> None:
    """List the versions in the cache, used last first."""
    opened = _open()
    entries = opened.entries()
    taken = opened.bytes_taken()
    if as_json:
        listed = [_wire(entry) for entry in entries]
        _print_json({"bytes": taken, "limit_bytes": opened.limit_bytes, "versions": listed})
        return
    from modelyard._tables import print_table, size, when

    rows = [
        [
            entry.digest[7:19],
            ", ".join(entry.refs),
            str(entry.files),
            size(entry.size),
            when(entry.used_at),
            ", ".join(word for word, true in (("pinned", entry.pinned), ("in use", entry.in_use)) if true),
        ]
        for entry in entries
    ]
    print_table(["CONTENT", "LAST SEEN AS", "FILES", "SIZE", "USED", "KEPT"], rows, "Nothing is cached yet.")
    click.echo(f"{size(taken)} of {size(opened.limit_bytes)} in {opened.root}")


@cache.command()
@click.argument("ref")
@_json_option
def pin(ref: str, as_json: bool) -> None:
    """Keep the version that REF named last, whatever else is fetched."""
    digest = _open().refs.pin(ref)
    _answer(as_json, {"ref": ref, "digest": digest}, f"{ref} is pinned ({digest}).")


@cache.command()
@click.argument("ref")
@_json_option
def unpin(ref: str, as_json: bool) -> None:
    """Let what REF was pinned to be evicted."""
    was = _open().refs.unpin(ref)
    _answer(as_json, {"ref": ref, "unpinned": was}, f"{ref} is {'no longer' if was else 'not'} pinned.")


@cache.command()
@_json_option
def verify(as_json: bool) -> None:
    """Hash everything. What is damaged is fetched anew when it is used next; then the exit status is 1."""
    opened = _open()
    checked = [(entry, opened.damaged(entry.digest)) for entry in opened.entries()]
    if as_json:
        _print_json(
            [_wire(entry) | {"intact": paths is None, "damaged": paths or []} for entry, paths in checked]
        )
    else:
        from modelyard._tables import print_table

        rows = [
            [
                entry.digest[7:19],
                ", ".join(entry.refs),
                "intact" if paths is None else "damaged",
                ", ".join(paths or ()),
            ]
            for entry, paths in checked
        ]
        print_table(["CONTENT", "LAST SEEN AS", "STATE", "FILES"], rows, "Nothing is cached yet.")
    if damaged := sum(paths is not None for _, paths in checked):
        raise IntegrityError(
            f"{damaged} of {len(checked)} versions in the cache are damaged: `modelyard pull` repairs one."
        )


@cache.command()
@_json_option
def clear(as_json: bool) -> None:
    """Remove every version that is neither pinned nor in use."""
    gone = _open().evict(0)
    _answer(as_json, {"removed": gone}, f"{len(gone)} versions removed.")


@cache.command()
@_json_option
def path(as_json: bool) -> None:
    """Print where the cache is."""
    root = str(_config.home_directory() / "cache")
    _answer(as_json, {"path": root}, root)


def _open() -> "Cache":
    from modelyard._cache import Cache  # brings the HTTP client, which most commands start without

    config = _config.load()
    opened = Cache(config.home / "cache", registry=config.url)
    opened.prepare()
    return opened


def _wire(entry: "Entry") -> dict[str, Any]:
    return {
        "digest": entry.digest,
        "refs": entry.refs,
        "files": entry.files,
        "size": entry.size,
        "used_at": entry.used_at.isoformat().replace("+00:00", "Z"),
        "pinned": entry.pinned,
        "in_use": entry.in_use,
    }


def _answer(as_json: bool, value: Any, told: str) -> None:
    from modelyard._tables import printable

    if as_json:
        _print_json(value)
    else:
        click.echo(printable(told))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
