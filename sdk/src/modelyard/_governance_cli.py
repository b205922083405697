"""`modelyard policy`, `request`, `freeze` and `thaw`: what promotions need, and who approves them."""

import json
from collections.abc import Callable
from typing import Any

import click

from modelyard._answer import Command, answer, json_option
from modelyard._ask import Item, ask, moment, tell, tell_table, text
from modelyard._client import Client
from modelyard._governance import PromotionRequest, Verdict


def tell_verdict(as_json: bool, verdict: Verdict) -> None:
    """What a promotion would become."""
    answer(as_json, verdict, lambda: _print_verdict(verdict))


@click.group()
def policy() -> None:
    """Say what promotions need, per pattern of model names."""


@policy.command("ls")
@click.argument("model", required=False)
@json_option
def list_policies(model: str | None, as_json: bool) -> None:
    """List the policies, or those that count for a model."""
    columns: dict[str, Callable[[Item], str]] = {
        "MODELS": text("pattern"),
        "REVISION": text("revision"),
        "EDGES": lambda item: "; ".join(_edge(each) for each in item["edges"]),
        "SET": moment("set_at"),
        "BY": text("set_by"),
    }
    found = ask("GET", "policies") if model is None else ask("GET", "models", model, "policies")
    tell_table(as_json, found, columns, "No policies: every promotion is let through.")


@policy.command()
@click.argument("pattern")
@json_option
def show(pattern: str, as_json: bool) -> None:  # noqa: ARG001 - it is JSON for people, too
    """Show a policy, as JSON that `policy set` takes."""
    found = ask("GET", "policies", pattern)
    answer(True, found, lambda: None)


@policy.command("set")
@click.argument("pattern")
@click.option("--file", "source", type=click.File(encoding="utf-8"), required=True, help="JSON; - for stdin.")
@click.option(
    "--expect", type=click.IntRange(min=0), metavar="REVISION", help="Only if it is at this revision."
)
@json_option
def set_policy(pattern: str, source: Any, expect: int | None, as_json: bool) -> None:
    """Set the policy for the models whose names match PATTERN: `edges`, and perhaps `rollback_by`."""
    try:
        said = json.load(source)
        body = {name: said[name] for name in ("edges", "rollback_by") if name in said}
    except (ValueError, TypeError) as error:
        raise click.BadParameter(f"it is not a JSON object: {error}", param_hint="--file") from error
    made = ask("PUT", "policies", pattern, body={**body, "expected_revision": expect})
    tell(as_json, made, "The policy for {pattern} is at revision {revision}.".format_map)


@policy.command()
@click.argument("pattern")
@json_option
def rm(pattern: str, as_json: bool) -> None:
    """Let a pattern have no policy any more."""
    ask("DELETE", "policies", pattern)
    tell(as_json, {"pattern": pattern}, "There is no policy for {pattern} any more.".format_map)


@click.group()
def request() -> None:
    """Look at promotions that others have to approve, and approve or reject them."""


@request.command("ls")
@click.argument("model")
@click.option("--all", "everything", is_flag=True, help="Those that are closed, too.")
@json_option
def list_requests(model: str, everything: bool, as_json: bool) -> None:
    """List the open promotion requests of a model, newest first."""
    from modelyard._tables import print_table, when

    with Client() as client:
        found = list(client.requests(model, still_open=not everything))
    columns = ["REQUEST", "VERSION", "TO", "STATE", "APPROVED BY", "ASKED BY", "EXPIRES", "REASON"]
    rows = [
        [
            str(r.id),
            str(r.number),
            r.to,
            r.state,
            ", ".join(r.approved_by),
            r.requested_by,
            when(r.expires_at),
            r.reason,
        ]
        for r in found
    ]
    answer(as_json, found, lambda: print_table(columns, rows, "No requests."))


@request.command("show")
@click.argument("model")
@click.argument("number", type=click.IntRange(min=1))
@json_option
def show_request(model: str, number: int, as_json: bool) -> None:
    """Show a promotion request, and all that was said about it."""
    with Client() as client:
        _tell_request(as_json, client.request(model, number))


def _on_request(command: Command) -> Command:
    for decorate in (
        json_option,
        click.option("--text", default="", help="Why; kept with the request."),
        click.argument("number", type=click.IntRange(min=1)),
        click.argument("model"),
    ):
        command = decorate(command)
    return command


@request.command()
@_on_request
@click.option(
    "--facts", type=click.IntRange(min=0), metavar="REVISION", help="Only if the facts are at this revision."
)
def approve(model: str, number: int, text: str, facts: int | None, as_json: bool) -> None:
    """Approve of what somebody else has asked for. The last approval that is needed promotes."""
    with Client() as client:
        _tell_request(as_json, client.approve(model, number, text=text, fact_revision=facts))


@request.command()
@_on_request
def reject(model: str, number: int, text: str, as_json: bool) -> None:
    """Refuse what a request asks for."""
    with Client() as client:
        _tell_request(as_json, client.reject(model, number, text=text))


@request.command()
@_on_request
def withdraw(model: str, number: int, text: str, as_json: bool) -> None:
    """Take back what you have asked for."""
    with Client() as client:
        _tell_request(as_json, client.withdraw(model, number, text=text))


@request.command()
@click.argument("model")
@click.argument("number", type=click.IntRange(min=1))
@click.argument("text")
@json_option
def comment(model: str, number: int, text: str, as_json: bool) -> None:
    """Say something about an open request."""
    with Client() as client:
        _tell_request(as_json, client.comment(model, number, text))


@click.command()
@click.argument("model")
@click.option("--reason", required=True, help="Why; told to whoever wants to promote.")
@json_option
def freeze(model: str, reason: str, as_json: bool) -> None:
    """Let no pointer of a model move until it is thawed."""
    with Client() as client:
        found = client.freeze(model, reason)
    answer(as_json, found, lambda: click.echo(f"{found.name} is frozen."))


@click.command()
@click.argument("model")
@json_option
def thaw(model: str, as_json: bool) -> None:
    """Let the pointers of a frozen model move again."""
    with Client() as client:
        found = client.thaw(model)
    answer(as_json, found, lambda: click.echo(f"{found.name} is not frozen."))


def _tell_request(as_json: bool, found: PromotionRequest) -> None:
    answer(as_json, found, lambda: _print_request(found))


def _print_request(found: PromotionRequest) -> None:
    from modelyard._tables import print_facts, print_table, when

    print_facts(
        [
            ("Request", f"{found.id}: {found.model}/{found.number} to {found.to}"),
            ("State", found.state),
            ("Approved by", ", ".join(found.approved_by)),
            ("Not before", when(found.at) if found.at else ""),
            ("Expires", when(found.expires_at)),
        ]
    )
    rows = [[when(e.at), e.author, e.kind, str(e.fact_revision), e.text] for e in found.entries]
    print_table(["WHEN", "WHO", "DID", "FACTS", "TEXT"], rows, "")


def _print_verdict(verdict: Verdict) -> None:
    from modelyard._tables import counted, print_table, printable

    told = {
        "moves": "It would be done at once.",
        "asks": f"It would become a request that needs {counted(verdict.approvals, 'approval')}.",
        "refused": "It would be refused.",
    }
    click.echo(told.get(verdict.outcome, verdict.outcome))
    if verdict.frozen is not None:
        click.echo(printable(f"The model is frozen: {verdict.frozen}"))
    if verdict.refused_by is not None:
        click.echo(printable(f"The policy for {verdict.refused_by} knows no such move."))
    if verdict.only_for:
        click.echo(printable(f"It is for {', '.join(verdict.only_for)} only."))
    rows = [
        ["passed" if each.passed else "FAILED", _check(each.check), each.said] for each in verdict.findings
    ]
    if rows:
        print_table(["", "CHECK", "FOUND"], rows, "")


def _edge(edge: Item) -> str:
    from modelyard._tables import counted

    needs = [_check(check) for check in edge["checks"]]
    needs += [counted(edge["approvals"], "approval")] if edge["approvals"] else []
    return f"{edge['from']} to {edge['to']}" + (f" ({', '.join(needs)})" if needs else "")


def _check(check: Item) -> str:
    if check["kind"] == "metric":
        return str(check["expression"])
    wanted = [str(value) for name, value in check.items() if name != "kind" and value is not None]
    return " ".join([str(check["kind"]), *wanted])
