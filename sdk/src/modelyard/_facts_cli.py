"""`modelyard facts`, `tag`, `compare` and `where`: what is said of versions, and who runs them."""

import contextlib
import json
from datetime import datetime
from typing import Any

import click

from modelyard._answer import answer, json_option
from modelyard._client import Client
from modelyard._facts import Card, Comparison, Deployment, Facts, Lineage, Metric, Value
from modelyard._pairs import pairs
from modelyard._ref import parse_ref

_DIGITS = len("sha256:") + 12
"""As much of a digest as people compare; --json has all of it."""
_KINDS = ("tag", "metadata", "parameter", "metric")


def values(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Value]:
    """What was given as NAME=VALUE, by name."""
    return {name: read_value(text) for name, text in pairs(context, parameter, given).items()}


def read_value(text: str) -> Value:
    """true, false, a number, a time with its offset from UTC, or a text; in double quotes it is always a text."""
    with contextlib.suppress(ValueError):
        value = json.loads(text, parse_constant=_no_number)
        if isinstance(value, (bool, int, float, str)):
            return value
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    return text


def _no_number(constant: str) -> None:
    raise ValueError(constant)


def _removed(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> list[tuple[str, str]]:
    found = []
    for each in given:
        kind, separator, name = each.partition(":")
        if kind not in _KINDS or not (separator and name):
            raise click.BadParameter(f"{each!r} is not KIND:NAME, with one of {', '.join(_KINDS)}")
        found.append((kind, name))
    return found


def _revision_option(command: Any) -> Any:
    help_text = "Only if the facts are at this revision."
    return click.option("--expect", type=click.IntRange(min=0), metavar="REVISION", help=help_text)(command)


@click.group()
def facts() -> None:
    """Show or change what is said of a version."""


@facts.command("show")
@click.argument("ref")
@json_option
def show_facts(ref: str, as_json: bool) -> None:
    """Show tags, metadata, parameters and metrics."""
    with Client() as client:
        found = client.facts(ref)
    answer(as_json, found, lambda: _print_facts(found))


@facts.command("set")
@click.argument("ref")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", callback=pairs)
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", callback=values)
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", callback=values)
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER", callback=values)
@click.option("--dataset", default="", help="The dataset that the metrics were measured on.")
@click.option("--slice", "slice_", default="", metavar="NAME", help="The slice of the dataset.")
@click.option("--remove", multiple=True, metavar="KIND:NAME", callback=_removed, help="As in metadata:owner.")
@_revision_option
@json_option
def set_facts(
    ref: str,
    tags: dict[str, str],
    metadata: dict[str, Value],
    parameters: dict[str, Value],
    metrics: dict[str, Value],
    dataset: str,
    slice_: str,
    remove: list[tuple[str, str]],
    expect: int | None,
    as_json: bool,
) -> None:
    """Set facts, or remove them; what is not named stays.

    A VALUE is true, false, a number, a time with its offset from UTC (2026-11-22T10:00:00Z), or a text.
    """
    gone: dict[str, dict[str, None]] = {kind: {} for kind in _KINDS}
    for kind, name in remove:
        gone[kind][name] = None
    for name, value in metrics.items():
        if isinstance(value, (bool, str, datetime)):
            raise click.BadParameter(f"{name}={value} is not a number", param_hint="--metric")
    measured: dict[str, Any] = {**metrics, **gone["metric"]}
    with Client() as client:
        found = client.change_facts(
            ref,
            tags={**tags, **gone["tag"]},
            metadata={**metadata, **gone["metadata"]},
            parameters={**parameters, **gone["parameter"]},
            metrics=[Metric(name, value, dataset, slice_) for name, value in measured.items()],
            expected_revision=expect,
        )
    answer(as_json, found, lambda: _print_facts(found))


@facts.command("card")
@click.argument("ref")
@click.option("--file", "source", type=click.File(encoding="utf-8"), help="Markdown to set; - for stdin.")
@click.option("--remove", is_flag=True, help="Remove the card.")
@_revision_option
@json_option
def card(ref: str, source: Any, remove: bool, expect: int | None, as_json: bool) -> None:
    """Show the model card, set it, or remove it."""
    if remove and source:
        raise click.UsageError("Either --file or --remove.")
    with Client() as client:
        if remove or source:
            found = client.set_card(ref, source.read() if source else "", expected_revision=expect)
        else:
            found = client.card(ref)
    answer(as_json, found, lambda: _print_card(found))


@facts.command("lineage")
@click.argument("ref")
@click.option("--run")
@click.option("--repository")
@click.option("--commit")
@click.option("--image", help="The container image.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME=DIGEST", callback=pairs)
@click.option("--parent", "parents", multiple=True, metavar="REF")
@_revision_option
@json_option
def lineage(
    ref: str,
    datasets: dict[str, str],
    parents: tuple[str, ...],
    expect: int | None,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Show what a version was made from, or, with options, say so; what is not given stays."""
    with Client() as client:
        found = client.lineage(ref)
        given = {name: text for name, text in texts.items() if text is not None}
        if given or datasets or parents:
            kept = {name: getattr(found, name) for name in texts}
            found = client.set_lineage(
                ref,
                **{**kept, **given},
                datasets={**found.datasets, **datasets},
                parents=dict.fromkeys([*found.parents, *map(parse_ref, parents)]),
                expected_revision=found.revision if expect is None else expect,
            )
    answer(as_json, found, lambda: _print_lineage(found))


@click.command()
@click.argument("ref")
@click.argument("tags", nargs=-1, metavar="[NAME=TEXT]...", callback=pairs)
@click.option("--remove", multiple=True, metavar="NAME")
@json_option
def tag(ref: str, tags: dict[str, str], remove: tuple[str, ...], as_json: bool) -> None:
    """Set or remove tags of a version, and show them: `tag fraud/3 team=risk --remove draft`."""
    with Client() as client:
        if tags or remove:
            found = client.change_facts(ref, tags={**tags, **dict.fromkeys(remove)})
        else:
            found = client.facts(ref)
    answer(as_json, found.tags, lambda: _print_tags(found))


@click.command()
@click.argument("left", metavar="REF")
@click.argument("right", metavar="REF")
@json_option
def compare(left: str, right: str, as_json: bool) -> None:
    """Show two versions side by side: metrics, and what else differs."""
    with Client() as client:
        found = client.compare(left, right)
    answer(as_json, found, lambda: _print_comparison(found))


@click.command()
@click.argument("ref", metavar="MODEL|MODEL/NUMBER")
@json_option
def where(ref: str, as_json: bool) -> None:
    """Show which serving adapters run a model, or one version of it."""
    parsed = parse_ref(ref)
    if parsed.number is None and ref != parsed.model:
        raise click.UsageError("Name a model, or a version: `where fraud`, `where fraud/3`.")
    with Client() as client:
        found = list(client.deployments(parsed.model, parsed.number))
    answer(as_json, found, lambda: _print_deployments(found))


def _print_facts(found: Facts) -> None:
    from modelyard._tables import print_table

    named = (("tag", found.tags), ("metadata", found.metadata), ("parameter", found.parameters))
    rows = [[kind, name, _shown(value), ""] for kind, said in named for name, value in said.items()]
    rows += [
        ["metric", each.name, _shown(each.value), _part(each.dataset, each.slice)] for each in found.metrics
    ]
    print_table(["KIND", "NAME", "VALUE", "MEASURED ON"], rows, "Nothing has been said of it yet.")
    click.echo(f"(revision {found.revision})")


def _print_tags(found: Facts) -> None:
    from modelyard._tables import print_table

    print_table(["TAG", "TEXT"], [[name, text] for name, text in found.tags.items()], "No tags.")


def _print_card(found: Card) -> None:
    from modelyard._tables import printable

    for line in found.text.splitlines() or ["It has no card."]:
        click.echo(printable(line))


def _print_lineage(found: Lineage) -> None:
    from modelyard._tables import print_facts

    print_facts(
        [
            ("Run", found.run),
            ("Repository", found.repository),
            ("Commit", found.commit),
            ("Image", found.image),
            *((f"Dataset {name}", digest) for name, digest in found.datasets.items()),
            ("Made from", ", ".join(map(str, found.parents))),
            ("Made of it", ", ".join(map(str, found.children))),
            ("Revision", str(found.revision)),
        ]
    )


def _print_comparison(found: Comparison) -> None:
    from modelyard._tables import print_facts, print_table

    one, other = (f"{side.model}/{side.number}" for side in (found.left, found.right))
    print_facts(
        [
            ("Content", "the same" if found.same_content else "differs"),
            ("Signature", "the same" if found.same_signature else "differs"),
        ]
    )
    metrics = [
        [m.name, _part(m.dataset, m.slice), _shown(m.left), _shown(m.right), _shown(m.difference)]
        for m in found.metrics
    ]
    print_table(["METRIC", "MEASURED ON", one, other, "DIFFERENCE"], metrics, "Neither has metrics.")
    if found.facts:
        click.echo()
        facts_ = [[f.kind, f.name, _shown(f.left), _shown(f.right)] for f in found.facts]
        print_table(["KIND", "NAME", one, other], facts_, "")
    if found.files:
        click.echo()
        files = [
            [f.path, *(side.digest[:_DIGITS] if side else "-" for side in (f.left, f.right))]
            for f in found.files
        ]
        print_table(["FILE", one, other], files, "")


def _print_deployments(found: list[Deployment]) -> None:
    from modelyard._tables import print_table, when

    rows = [
        [
            each.adapter,
            each.principal,
            f"{each.model}/{each.number}" if each.number else "nothing",
            each.follows,
            when(each.since) if each.since else "-",
            when(each.reported_at) if each.live else f"silent since {when(each.reported_at)}",
            each.trouble,
        ]
        for each in found
    ]
    columns = ["ADAPTER", "BY", "RUNS", "FOLLOWS", "SINCE", "REPORTED", "TROUBLE"]
    print_table(columns, rows, "No adapter has reported that it runs this.")


def _part(dataset: str, slice_: str) -> str:
    return " / ".join(part for part in (dataset, slice_) if part)


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return value.isoformat() if isinstance(value, datetime) else str(value)
