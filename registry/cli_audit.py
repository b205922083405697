"""`modelyard-registry audit verify | list | checkpoint | public-key`: what an auditor runs.

`verify` exits with 1 when anything is wrong. It needs no secret: a public key that was kept elsewhere is worth more.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry import checkpoints
from registry.audit import Entry, entries, printable
from registry.audit_export import Exporter, stored_checkpoints
from registry.audit_verify import MOST, Report, verify
from registry.bootstrap import NotConfigured, secret_key
from registry.checkpoints import Found, NotAPublicKey, Signer
from registry.cli_common import as_json_option, fail, opened, read_settings
from registry.settings import Settings

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # as digests have it, so that whoever reads the output can compute them

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_time = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@click.group()
def audit() -> None:
    """Read the audit trail, and find out whether it is what was written."""


@audit.command("verify")
@click.option(
    "--public-key",
    "key_files",
    type=_file,
    multiple=True,
    help="PEM; else that of this registry's secret key",
)
@click.option(
    "--checkpoint", "kept", type=_file, multiple=True, help="a checkpoint that was kept elsewhere, as well"
)
@as_json_option
def verify_command(key_files: Sequence[Path], kept: Sequence[Path], as_json: bool) -> None:
    """Check every entry, the head and the checkpoints, and exit with 1 if the trail was tampered with."""
    with opened() as (settings, database, store):
        keys = _public_keys(settings, key_files)
        given = [Found(path.name, path.read_bytes()) for path in kept]
        found = [*stored_checkpoints(store), *given]
        with database.read() as session:
            report = verify(session, found, keys)
    click.echo(json.dumps(_as_json(report)) if as_json else _table(report))
    if not report.clean:
        sys.exit(1)


@audit.command("list")
@click.option("--workspace", help='of this workspace; "" for what concerns the whole instance')
@click.option("--actor", help="by this actor")
@click.option("--action", help="of this kind, such as pointer.moved")
@click.option("--resource", help="of this resource and all below it, such as models/fraud")
@click.option("--outcome", type=click.Choice(["done", "denied"]))
@click.option("--since", type=_time, help="UTC")
@click.option("--until", type=_time, help="UTC; before this")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--after", help="the cursor that the page before ended with")
@as_json_option
def list_command(as_json: bool, since: datetime | None, until: datetime | None, **asked: Any) -> None:
    """Entries, newest first."""
    with opened() as (_, database, _), database.read() as session:
        page = entries(session, since=_utc(since), until=_utc(until), **asked)
    if as_json:
        items = [{**dataclasses.asdict(entry), "at": f"{entry.at:{TIME}}"} for entry in page.items]
        click.echo(json.dumps({"items": items, "next": page.next}))
        return
    for entry in page.items:
        click.echo(_line(entry))
    if page.next is not None:
        click.echo(f"more: --after {page.next}", err=True)


@audit.command("checkpoint")
@as_json_option
def checkpoint_command(as_json: bool) -> None:
    """Check what is new, sign it, and store the checkpoint; print it, so that it can be kept elsewhere."""
    with opened() as (settings, database, store):
        checkpoint = Exporter(database, store, _signer(settings)).export()
    if checkpoint is None:
        fail("the audit trail is empty: there is nothing to sign")
    if as_json:
        click.echo(checkpoint.content(), nl=False)
    else:
        click.echo(f"entry {checkpoint.sequence}  {checkpoint.digest}  signed {checkpoint.at}")


@audit.command("public-key")
@as_json_option
def public_key_command(as_json: bool) -> None:
    """Print the key that checkpoints are verified with: keep it where the registry's operators cannot change it."""
    key = _signer(read_settings()).public_key
    pem = checkpoints.public_pem(key)
    click.echo(
        json.dumps({"key_id": checkpoints.key_id(key), "public_key": pem}) if as_json else pem, nl=as_json
    )


def _signer(settings: Settings) -> Signer:
    try:
        return Signer(secret_key(settings))
    except NotConfigured as error:
        fail(str(error))


def _public_keys(settings: Settings, files: Sequence[Path]) -> list[Ed25519PublicKey]:
    if not files:
        with contextlib.suppress(NotConfigured):
            return [Signer(secret_key(settings)).public_key]
        return []
    try:
        return [checkpoints.read_public_pem(path.read_bytes()) for path in files]
    except NotAPublicKey as error:
        fail(str(error))


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "entries": report.entries,
        "last": report.last._asdict(),
        "checkpoints": report.checkpoints,
        "signed_through": report.signed_through,
        "problems": [dataclasses.asdict(problem) for problem in report.problems],
    }


def _table(report: Report) -> str:
    lines = [
        f"{_range(problem.first, problem.last):<15} {problem.kind:<10} {printable(problem.detail)}"
        for problem in report.problems
    ]
    if report.problems:
        many = f"{MOST} problems or more" if len(lines) == MOST else f"{len(lines)} problems"
        lines.append(f"{many}; the first is at entry {report.problems[0].first}")
    else:
        lines.append(f"clean: {report.entries} entries, each as it was written")
    if report.signed_through:
        lines.append(f"signed through entry {report.signed_through} ({report.checkpoints} checkpoints)")
    elif report.entries:
        lines.append(
            "no checkpoint vouches for any of it: whoever owns the database could have rewritten it all"
        )
    return "\n".join(lines)


def _range(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first}-{last}"


def _line(entry: Entry) -> str:
    where = f"{entry.workspace or '(instance)'}: {entry.resource}"
    data = json.dumps(entry.data) if entry.data else ""
    told = (
        f"{entry.sequence:>8}",
        f"{entry.at:{TIME}}",
        entry.outcome,
        entry.actor,
        entry.action,
        where,
        data,
    )
    return printable("  ".join(told).rstrip())
