"""`modelyard-registry sweep | scrub | fsck`: what an operator runs, or a timer, to keep the stored bytes in order."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import click

from registry import fsck, scrub, sweep, trim
from registry.cli_common import as_json_option, fail, opened, progress, read_settings, reported
from storage import open_store

_force = click.option("--force", is_flag=True, help="go on although it is an implausible share of everything")


@click.command("sweep")
@click.option("--apply", "apply", is_flag=True, help="do it; without, only tell what would be done")
@click.option(
    "--orphans", is_flag=True, help="also remove objects of the store, a day old, that no row knows"
)
@click.option("--max-per-second", type=click.FloatRange(min=0.1), default=math.inf, help="rows and objects")
@_force
@as_json_option
def sweep_command(apply: bool, orphans: bool, max_per_second: float, force: bool, as_json: bool) -> None:
    """Give back the space of bytes that nothing needs any more, and remove events that are too old."""
    with opened() as (settings, database, store):
        rules = sweep.Rules(
            settings.restore_window_s,
            settings.sweep_grace_s,
            settings.sweep_max_share,
            max_per_second=max_per_second,
            force=force,
            orphans=orphans,
        )
        if apply:
            events = trim.trim(database, settings.feed_retention_s)
        else:
            events = trim.removable(database, settings.feed_retention_s)
        done = (sweep.sweep if apply else sweep.plan)(database, store, rules)
    counts = {**dataclasses.asdict(done), "events": events}
    _tell({"applied": apply, **counts}, as_json)
    if not apply and not as_json:
        click.echo("Nothing was changed. Add --apply to do it.")
    if done.failed:
        fail(f"the store did not delete {done.failed} objects; the next sweep tries again")


@click.command("scrub")
@click.option(
    "--apply", "apply", is_flag=True, help="mark what is damaged (or sound again); without, only tell"
)
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=0, help="hours; skip what was found sound since"
)
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="blobs read at once"
)
@_force
@as_json_option
def scrub_command(apply: bool, older_than: float, parallel: int, force: bool, as_json: bool) -> None:
    """Read all stored bytes again, and exit with 1 if any are not what they should be."""
    with opened() as (settings, database, store):
        rules = scrub.Rules(
            apply=apply,
            older_than_s=older_than * 3600,
            parallel=parallel,
            max_share=settings.sweep_max_share,
            force=force,
        )
        found = scrub.scrub(database, store, rules, progress=_scrubbing)
    _tell({"applied": apply, **dataclasses.asdict(found)}, as_json)
    if not found.sound:
        sys.exit(1)


@click.command("fsck")
@click.option("--deep", is_flag=True, help="also read and hash every byte")
@as_json_option
def fsck_command(deep: bool, as_json: bool) -> None:
    """Check that database and store agree, and exit with 1 if they do not. Changes nothing."""
    with reported():
        settings = read_settings()
        store = open_store(settings.storage_url)
        problems = fsck.fsck(settings.database_url, store, deep=deep, progress=progress)
        store.close()
    if as_json:
        click.echo(json.dumps({"clean": not problems, "problems": [dataclasses.asdict(p) for p in problems]}))
    else:
        for problem in problems:
            click.echo(f"{problem.check:<10} {problem.subject:<40} {problem.detail}")
        click.echo(f"{len(problems)} problems" if problems else "clean")
    if problems:
        sys.exit(1)


def _tell(counts: Mapping[str, Any], as_json: bool) -> None:
    progress("")
    if as_json:
        click.echo(json.dumps(counts))
        return
    for name, value in counts.items():
        click.echo(f"{name:<12} {', '.join(value) if isinstance(value, tuple) else value}")


def _scrubbing(found: scrub.Scrubbed) -> None:
    progress(
        f"{found.blobs} blobs, {found.contents} contents, {found.bytes >> 20} MiB, {found.damaged} damaged"
    )
