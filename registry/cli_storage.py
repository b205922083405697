"""`modelyard-registry storage verify URL`: can this store be trusted with models?"""

import json
import sys

import click

from storage import BlobStore, open_store
from storage.verify import Report, Result, verify


@click.group()
def storage() -> None:
    """Look at the place where the bytes are kept."""


@storage.command("verify")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="machine-readable output")
def verify_command(url: str, as_json: bool) -> None:
    """Try out the store at URL, and exit with 1 if it cannot be trusted.

    It writes blobs of its own, some 60 MB in all, and deletes them again; nothing else in the store is touched.
    """
    shown = _scheme(url)

    def opened() -> BlobStore:
        nonlocal shown
        store = open_store(url)
        shown = url  # it was parsed, and so it holds no secret
        return store

    report = verify(opened, _progress if sys.stderr.isatty() else lambda _: None)
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    click.echo(json.dumps({"url": shown, **report.as_json()}) if as_json else _table(shown, report))
    if not report.trusted:
        sys.exit(1)


def _progress(name: str) -> None:
    click.echo(f"\r\033[K{name} …", nl=False, err=True)


def _table(shown: str, report: Report) -> str:
    lines = [f"{check.outcome:<4} {check.name:<20} {_told(check)}" for check in report.checks]
    return "\n".join([shown, "", *lines, "", _verdict(report)])


def _told(check: Result) -> str:
    return f"{check.meaning} ({check.detail})" if check.detail else check.meaning


def _verdict(report: Report) -> str:
    if report.trusted:
        return "yes: this store can be trusted"
    failed = "; ".join(f"{check.name}: {check.detail}" for check in report.failed)
    return f"no: this store cannot be trusted: {failed}"


def _scheme(url: str) -> str:
    """All that is told of a URL which may be wrong, and then hold a password anywhere."""
    scheme = url.partition(":")[0]
    return f"{scheme}:…" if scheme in {"file", "memory", "s3", "minio"} else "…"
