"""`modelyard search`: versions of all models, by whatever is known about them."""

import click

from modelyard._answer import answer, json_option
from modelyard._client import Client


@click.command()
@click.argument("query", nargs=-1)
@click.option(
    "--order",
    type=click.Choice(["model", "created"]),
    default="model",
    show_default=True,
    help="Newest model first, of each the newest version first; or newest version first.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Versions at most.")
@json_option
def search(query: tuple[str, ...], order: str, limit: int, as_json: bool) -> None:
    """Show the versions for which QUERY holds.

    \b
    modelyard search 'tags.team = risk AND metrics.auc[test] >= 0.97'
    modelyard search 'model ~ fraud-* AND NOT (stage = none OR alias = champion)'
    modelyard search 'created >= 2026-11-01 AND params.depth < 8' --order created

    Comparisons (= != < <= > >=, ~ for a pattern with *, contains) of model, number, stage, alias, creator, created, format,
    archived, description, tags.NAME, metadata.NAME, params.NAME and metrics.NAME[DATASET, SLICE], with AND, OR, NOT and
    parentheses. Quote the whole for the shell, and inside it values that are not one word.
    """  # noqa: D301 - \b is for click: leave these lines as they are
    from itertools import islice

    from modelyard._tables import print_found

    with Client() as client:
        found = list(islice(client.search(" ".join(query), order=order), limit))
    answer(as_json, found, lambda: print_found(found))
