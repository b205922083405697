"""`modelyard whoami` and `modelyard token`: who one is, and the tokens that say so.

token create NAME     prints the token, alone, on stdout: it is not shown again
token ls              one's own; --everybody: also those of whoever one looks after
token revoke ID       ends one, everywhere within 2 seconds
"""

import click

from modelyard import _config
from modelyard._answer import answer, json_option
from modelyard._ask import ROLES, Item, ask, moment, right, tell, tell_table, text, understood


@click.command()
@json_option
def whoami(as_json: bool) -> None:
    """Show whose token is used, and what it may do in this workspace."""
    from modelyard._tables import print_facts

    me = ask("GET", "me")
    answer(as_json, me, lambda: print_facts(understood(_facts, me)))


@click.group()
def token() -> None:
    """Make, list and revoke API tokens."""


@token.command()
@click.argument("name")
@click.option("--principal", metavar="WHO", help="Somebody else, whom you look after.")
@click.option("--role", type=click.Choice(ROLES), help="At most what this role may.")
@click.option("--pattern", metavar="GLOB", help="Only for models with such names: `fraud-*`.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is good for (default: 90).")
@click.option("--no-expiry", is_flag=True, help="It is good until it is revoked.")
@click.option(
    "--everywhere", is_flag=True, help="In all workspaces where its owner has rights, not this one only."
)
@json_option
def create(
    name: str,
    principal: str | None,
    role: str | None,
    pattern: str | None,
    days: int | None,
    no_expiry: bool,
    everywhere: bool,
    as_json: bool,
) -> None:
    """Make a token for yourself or, with --principal, for somebody you look after; prints it on stdout.

    NAME is for you: where the token is used.
    """
    if days and no_expiry:
        raise click.UsageError("Either --days or --no-expiry.")
    wanted = {
        "name": name,
        "principal": principal,
        "role": role,
        "pattern": pattern,
        "everywhere": everywhere,
    }
    made = ask(
        "POST", "tokens", body=wanted | {"lifetime_s": None if no_expiry else (days or 90) * 24 * 3600}
    )

    def show() -> None:
        from modelyard._tables import printable

        click.echo(printable(understood(_told, made)), err=True)
        click.echo(printable(understood(text("token"), made)))

    answer(as_json, made, show)


@token.command("ls")
@click.option("--everybody", is_flag=True, help="Also those of whoever you look after.")
@json_option
def list_(everybody: bool, as_json: bool) -> None:
    """List the tokens that are still good, newest first."""
    found = ask("GET", "tokens", params={"everybody": "true"} if everybody else {})
    columns = {
        "ID": text("id"),
        "NAME": text("name"),
        "ENDS IN": text("last4"),
        "OF": text("principal"),
        "WORKSPACE": lambda each: each["workspace"] or "all",
        "AT MOST": _limit,
        "CREATED": moment("created_at"),
        "EXPIRES": moment("expires_at"),
    }
    tell_table(as_json, found, columns, "No tokens.")


@token.command()
@click.argument("id", metavar="ID")
@json_option
def revoke(id: str, as_json: bool) -> None:  # noqa: A002 - what people call it
    """End a token: its ID is in `modelyard token ls`, and in the token itself."""
    told = "The token {id} ({name}) of {principal} is revoked; within 2 seconds no registry takes it."
    tell(as_json, ask("DELETE", "tokens", id), told.format_map)


def _facts(me: Item) -> list[tuple[str, str]]:
    rights = ", ".join(right(each) for each in me["rights"])
    if me["administrator"]:
        rights = "everything: an administrator of the registry"
    return [
        ("Name", str(me["name"])),
        ("Registry", _config.load().url),
        ("Workspace", str(me["workspace"])),
        ("Rights", rights or "none in this workspace"),
        ("Token", str(me["token_id"] or "")),
        ("At most", right(me["scope"]) if me["scope"] else ""),
    ]


def _told(made: Item) -> str:
    where = f"in workspace {made['workspace']}" if made["workspace"] else "in all workspaces"
    until = f"until {moment('expires_at')(made)}" if made["expires_at"] else "until it is revoked"
    limit = f", at most {_limit(made)}" if made["role"] else ""
    return f"Token {made['id']} of {made['principal']} {where}{limit}, {until}. It is shown this once:"


def _limit(item: Item) -> str:
    return right(item) if item["role"] else ""
