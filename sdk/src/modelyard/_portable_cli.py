"""The commands that carry versions about: `export` and `import` by file, `cp` between registries.

A token never stands on the command line, where other users and the shell's history see it.
"""

import contextlib
import os
from collections.abc import Iterator

import click

from modelyard._answer import answer, json_option
from modelyard._client import Client
from modelyard._config import check_url, stored_token
from modelyard._errors import ConfigurationError
from modelyard._progress import progress_bar

TARGET_TOKEN = "MODELYARD_TO_TOKEN"  # noqa: S105 - the name of a variable


@click.command()
@click.argument("ref")
@click.argument("dest", required=False)
@click.option("--dir", "directory", is_flag=True, help="A directory instead of a tar file.")
@json_option
def export(ref: str, dest: str | None, directory: bool, as_json: bool) -> None:
    """Write a version to one portable file; prints its path.

    The file is an OCI image layout in the shape of CNCF ModelPack: `modelyard import`, oras and skopeo read it. DEST
    is a new file, or a directory to put NAME-NUMBER.modelyard.tar in (default: the current one).
    """
    from modelyard._portable import export

    with Client() as client:
        version = client.resolve(ref)
        with progress_bar(f"export {version.model}/{version.number}", wanted=not as_json) as progress:
            path = export(client, version, dest, directory=directory, progress=progress)
    answer(as_json, {"path": str(path), "version": version}, lambda: click.echo(str(path)))


@click.command("import")
@click.argument("path")
@click.argument("name", required=False)
@json_option
def import_(path: str, name: str | None, as_json: bool) -> None:
    """Make an exported version the next version of NAME (default: the name that it had).

    PATH is a file or directory from `modelyard export`, or another CNCF ModelPack artifact with raw layers. All of it
    is verified before anything is uploaded.
    """
    from modelyard._portable import import_
    from modelyard._tables import printable, size

    with Client() as client, progress_bar(f"import {path}", wanted=not as_json) as progress:
        version = import_(client, path, name, progress=progress)
    told = f"{version.model}/{version.number} {version.digest} ({version.format}, {size(version.size)})"
    answer(as_json, {"version": version}, lambda: click.echo(printable(told)))


@click.command()
@click.argument("ref")
@click.option("--to", "url", metavar="URL", help="The registry to copy to (default: the same one).")
@click.option("--as", "name", metavar="NAME", help="The model's name there (default: the same name).")
@click.option(
    "--token-env",
    default=TARGET_TOKEN,
    show_default=True,
    metavar="VARIABLE",
    help="The environment variable that holds the token for --to.",
)
@click.option("--force", is_flag=True, help="Copy even if the other registry has the same version.")
@json_option
def cp(ref: str, url: str | None, name: str | None, token_env: str, force: bool, as_json: bool) -> None:
    """Copy a version to another registry: `cp fraud@production --to https://models.example.org`.

    Digest, files and facts stay the same; pointers are not copied. What is there already is not copied again.
    """
    from modelyard._copy import copy
    from modelyard._tables import printable

    with (
        Client() as source,
        _target(source, url, token_env) as target,
        progress_bar(f"cp {ref}", wanted=not as_json) as progress,
    ):
        done = copy(source, ref, target, name, force=force, progress=progress)
    here, there = (f"{each.model}/{each.number}" for each in (done.source, done.target))
    verb = "->" if done.created else "is already"
    told = f"{here} at {source.url} {verb} {there} at {target.url} ({done.target.digest})"
    value = {"source": done.source, "target": done.target, "created": done.created}
    answer(as_json, {**value, "from": source.url, "to": target.url}, lambda: click.echo(printable(told)))


@contextlib.contextmanager
def _target(source: Client, url: str | None, token_env: str) -> Iterator[Client]:
    """The client for --to. Its token is its own, from the variable or kept for it: the source's is never sent to it."""
    if url is None or check_url(url) == source.url:
        yield source
        return
    token = os.environ.get(token_env)
    if token is None and token_env != TARGET_TOKEN:
        raise ConfigurationError(
            f"There is no environment variable {token_env}: set it to the token for {url}."
        )
    with Client(url, token or stored_token(url) or "") as target:
        yield target
