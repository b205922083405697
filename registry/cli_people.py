"""`modelyard-registry password NAME`: give a person a password. Afterwards they change it themselves."""

import json
import sys

import click

from registry import login
from registry.access import SYSTEM, Caller
from registry.cli_common import as_json_option, opened


@click.command("password")
@click.argument("name")
@click.option("--stdin", "from_stdin", is_flag=True, help="read it from standard input")
@as_json_option
def password_command(name: str, from_stdin: bool, as_json: bool) -> None:
    """Give the person NAME a password, which ends all their sessions.

    It is asked for twice, without showing it.
    """
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    with opened() as (_, database, _):
        login.set_password(database, Caller(SYSTEM, workspace="", workspace_id=0), name, password)
    click.echo(json.dumps({"name": name}) if as_json else f"{name} has a new password.")
