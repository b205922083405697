"""`modelyard publisher`: whose CI jobs may act as which robot of a workspace, without any secret.

Needs the role admin there. A job exchanges its identity token with `modelyard login URL --id-token-stdin`.
"""

import click

from modelyard._answer import json_option
from modelyard._ask import Item, ask, moment, tell, tell_table, text
from modelyard._pairs import pairs


@click.group()
def publisher() -> None:
    """Trust CI jobs to be robots of this workspace."""


@publisher.command()
@click.argument("robot")
@click.option("--issuer", required=True, metavar="URL", help="Who signs the identity tokens of these jobs.")
@click.option(
    "--claim",
    "claims",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    callback=pairs,
    help="What such a token must say; * stands for any characters. Repeatable, and all must be true.",
)
@json_option
def trust(robot: str, issuer: str, claims: dict[str, str], as_json: bool) -> None:
    """Let jobs with these claims be ROBOT."""
    body = {"principal": robot, "issuer": issuer, "claims": claims}
    tell(as_json, ask("POST", "trusted-publishers", body=body), _told)


@publisher.command("ls")
@json_option
def list_publishers(as_json: bool) -> None:
    """List whose jobs are trusted."""
    columns = {
        "ID": text("id"),
        "ROBOT": text("principal"),
        "ISSUER": text("issuer"),
        "CLAIMS": _claims,
        "CREATED": moment("created_at"),
        "BY": text("created_by"),
    }
    tell_table(as_json, ask("GET", "trusted-publishers"), columns, "No jobs are trusted.")


@publisher.command()
@click.argument("id_", metavar="ID", type=click.IntRange(min=1))
@json_option
def rm(id_: int, as_json: bool) -> None:
    """Trust them no longer. Tokens that they have already stay good for some minutes."""
    ask("DELETE", "trusted-publishers", str(id_))
    tell(as_json, {"id": id_}, "Publisher {id} is trusted no longer.".format_map)


def _told(made: Item) -> str:
    return f"Jobs of {made['issuer']} with {_claims(made)} are {made['principal']} now ({made['id']})."


def _claims(item: Item) -> str:
    return ", ".join(f"{name}={value}" for name, value in item["claims"].items())
