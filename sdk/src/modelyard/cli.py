"""`modelyard`: the registry from a shell.

    login URL                     store where the registry is, and a token for it    (--browser, --user: get one)
    password NAME                 change one's password
    push NAME PATH                register a file or directory      (--promote: and give it a pointer)
    promote REF | NAME VERSION    move a stage or alias             rollback NAME: move it back
    pull REF [DEST]               fetch and verify
    ls [MODEL]  show REF|MODEL  history MODEL  search QUERY
    facts show|set|card|lineage REF   tag REF NAME=TEXT           what is said of a version
    compare REF REF               where MODEL: who runs it
    export REF [DEST]  import PATH [NAME]  cp REF --to URL     carry versions about
    cache ls|pin|unpin|verify|clear|path                       what was fetched

    policy ls|show|set|rm              what promotions need     freeze|thaw MODEL
    request ls|show|approve|reject|withdraw|comment     promotions that others approve

    whoami                             who the registry takes us for, and what we may do
    token create|ls|revoke             principal create|ls|disable|enable    group create|ls|rm|add|remove
    grant give|ls|take                 workspace create|ls|limit|show        publisher trust|ls|rm

For people: tables on stdout, progress on stderr. With --json (after the command's name): one JSON value on stdout.
_shell.py says what becomes of errors.
"""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

import click

from modelyard import _shell
from modelyard._access_cli import grant, group, principal
from modelyard._answer import Command, answer, json_option
from modelyard._cache_cli import cache
from modelyard._client import Client
from modelyard._facts import Value
from modelyard._facts_cli import compare, facts, tag, values, where
from modelyard._governance_cli import freeze, policy, request, tell_verdict, thaw
from modelyard._login_cli import login, password
from modelyard._pairs import pairs
from modelyard._portable_cli import cp, export, import_
from modelyard._progress import progress_bar
from modelyard._publisher_cli import publisher
from modelyard._ref import parse_ref
from modelyard._search_cli import search
from modelyard._token_cli import token, whoami
from modelyard._types import Version
from modelyard._version import __version__
from modelyard._workspace_cli import workspace


def main() -> NoReturn:
    """Entry point of the program."""
    _shell.run_and_exit(app, sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Run one command in this process and return its exit status."""
    return _shell.run(app, arguments)


def _numbers(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    try:
        return {name: float(content) for name, content in pairs(context, parameter, values).items()}
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _reason_option(command: Command) -> Command:
    return click.option("--reason", default="", help="Why; kept in the history.")(command)


def _expect_option(command: Command) -> Command:
    help_text = "Only if the pointer is at this generation (0: never used)."
    return click.option("--expect", type=click.IntRange(min=0), metavar="GENERATION", help=help_text)(command)


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a time like 2026-11-22T10:00:00Z") from error
    return at.astimezone() if at.tzinfo is None else at


def _at_option(help_text: str) -> Callable[[Command], Command]:
    return click.option("--at", metavar="TIME", callback=_moment, help=help_text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelyard")
def app() -> None:
    """Register, promote and fetch trained models.

    REF is `model/3` (a version), `model@production` or `model@alias` (what it points to), or `model` (its production).
    """


@app.command()
@click.argument("name")
@click.argument("path")
@click.option("--format", "chosen_format", help="sklearn-skops, onnx, mlflow or files; guessed if not given.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER", callback=_numbers)
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", callback=pairs)
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", callback=values)
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", callback=values)
@click.option("--description", default="")
@click.option(
    "--promote",
    "pointer",
    is_flag=False,
    flag_value="production",
    metavar="[POINTER]",
    help="Promote it, too.",
)
@json_option
def push(
    name: str,
    path: str,
    chosen_format: str | None,
    metrics: dict[str, float],
    tags: dict[str, str],
    metadata: dict[str, Value],
    parameters: dict[str, Value],
    description: str,
    pointer: str | None,
    as_json: bool,
) -> None:
    """Register a file or directory as the next version of NAME."""
    from modelyard._tables import printable, promotion_told, size

    with Client() as client:
        with progress_bar(f"push {name}", wanted=not as_json) as progress:
            version = client.register(
                name,
                path,
                format=chosen_format,
                metrics=metrics,
                description=description,
                tags=tags,
                metadata=metadata,
                parameters=parameters,
                progress=progress,
            )
        promotion = client.promote(name, version.number, pointer) if pointer else None

    def tell() -> None:
        click.echo(
            printable(f"{name}/{version.number} {version.digest} ({version.format}, {size(version.size)})")
        )
        if promotion:
            click.echo(promotion_told(promotion))

    answer(as_json, {"version": version, "promotion": promotion}, tell)


@app.command()
@click.argument("ref")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option(
    "--to", default="production", show_default=True, help="production, staging, archived, none or an alias."
)
@_expect_option
@_reason_option
@_at_option("Not before then: 2026-11-22T10:00:00Z.")
@click.option("--dry-run", is_flag=True, help="Only show what policy says.")
@json_option
def promote(
    ref: str,
    version: int | None,
    to: str,
    expect: int | None,
    reason: str,
    at: datetime | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give a version a stage or alias: `promote fraud/3`, `promote fraud 3`, `promote fraud@staging`."""
    from modelyard._tables import promotion_told

    parsed = parse_ref(ref)
    if (version is None) == (ref == parsed.model):
        raise click.UsageError(
            "Name one version: `promote fraud/3`, `promote fraud 3` or `promote fraud@staging`."
        )
    with Client() as client:
        number = version or parsed.number or client.resolve(parsed).number
        if dry_run:
            tell_verdict(as_json, client.preview(parsed.model, number, to))
            return
        promotion = client.promote(parsed.model, number, to, expected_generation=expect, reason=reason, at=at)
    answer(as_json, promotion, lambda: click.echo(promotion_told(promotion, timed=at is not None)))


@app.command()
@click.argument("name")
@click.option("--pointer", default="production", show_default=True, help="The stage or alias to move back.")
@_expect_option
@_reason_option
@json_option
def rollback(name: str, pointer: str, expect: int | None, reason: str, as_json: bool) -> None:
    """Return a pointer to the version that it held before."""
    from modelyard._tables import promotion_told

    with Client() as client:
        promotion = client.rollback(name, pointer, expected_generation=expect, reason=reason)
    answer(as_json, promotion, lambda: click.echo(promotion_told(promotion)))


@app.command()
@click.argument("ref")
@click.argument("dest", required=False)
@click.option("--offline", is_flag=True, help="Ask nobody: take what the cache has.")
@json_option
def pull(ref: str, dest: str | None, offline: bool, as_json: bool) -> None:
    """Fetch and verify a version; prints the directory that holds it.

    DEST must not exist or be empty. Without it, the verified cache is used: treat what is there as read-only.
    """
    with Client() as client, progress_bar(f"pull {ref}", wanted=not as_json) as progress:
        version = None if offline else client.resolve(ref)
        # into the cache by reference, so that offline the reference is known, too
        path = client.download(version if version and dest else ref, dest, offline=offline, progress=progress)
    answer(as_json, {"path": str(path), "version": version}, lambda: click.echo(str(path)))


@app.command("ls")
@click.argument("model", required=False)
@json_option
def list_(model: str | None, as_json: bool) -> None:
    """List the models, or the versions of one."""
    from modelyard._tables import print_models, print_versions

    with Client() as client:
        if model is None:
            models = list(client.models())
            answer(as_json, models, lambda: print_models(models))
        else:
            versions = list(client.versions(model))
            answer(as_json, versions, lambda: print_versions(versions))


@app.command()
@click.argument("ref", metavar="REF|MODEL")
@json_option
def show(ref: str, as_json: bool) -> None:
    """Show a version (REF with / or @), or a model."""
    from modelyard._tables import print_model, print_version

    parsed = parse_ref(ref)
    with Client() as client:
        found = client.model(parsed.model) if ref == parsed.model else client.resolve(parsed)
    answer(as_json, found, lambda: print_version(found) if isinstance(found, Version) else print_model(found))


@app.command()
@click.argument("model")
@click.option("--pointer", help="Only this stage or alias.")
@_at_option("What counted then: of each pointer the move before.")
@json_option
def history(model: str, pointer: str | None, at: datetime | None, as_json: bool) -> None:
    """Show who moved what, when and why, newest first."""
    from modelyard._tables import print_history

    otherwise = "Nothing has moved yet." if at is None else "Nothing had moved by then."
    with Client() as client:
        moves = list(client.history(model, pointer, at=at))
    answer(as_json, moves, lambda: print_history(moves, otherwise))


for command in (
    login,
    password,
    cache,
    export,
    import_,
    cp,
    facts,
    tag,
    compare,
    where,
    search,
    whoami,
    token,
    principal,
    group,
    grant,
    publisher,
    workspace,
    policy,
    request,
    freeze,
    thaw,
):
    app.add_command(command)


if __name__ == "__main__":
    main()
