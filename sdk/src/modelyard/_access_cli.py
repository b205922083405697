"""`modelyard principal`, `group` and `grant`: who there is, and who may do what in a workspace.

    principal ──member of──> group ──granted──> role, for models whose names match a pattern
        └──────────────────granted──────────────┘

Needs the role admin there; people and administrators are made by administrators of the registry.
"""

from typing import Any

import click

from modelyard._answer import json_option
from modelyard._ask import ROLES, Item, ask, moment, right, tell, tell_table, text


@click.group()
def principal() -> None:
    """Make people and robots, and shut them out."""


@principal.command("create")
@click.argument("name")
@click.option("--person", is_flag=True, help="A person; without it, a robot of this workspace.")
@click.option("--administrator", is_flag=True, help="May do everything in this registry.")
@click.option("--issuer", metavar="URL", help="The identity provider with which this person logs in, …")
@click.option("--subject", metavar="SUB", help="… and who they are there (the claim sub).")
@json_option
def create_principal(
    name: str, person: bool, administrator: bool, issuer: str | None, subject: str | None, as_json: bool
) -> None:
    """Make a robot, or a person. They have no rights yet, and no token."""
    if (issuer is None) != (subject is None):
        raise click.UsageError("--issuer and --subject belong together.")
    body: dict[str, Any] = {"name": name, "kind": "person" if person else "robot"}
    body["administrator"] = administrator
    if issuer is not None:
        body["identity"] = {"issuer": issuer, "subject": subject}
    tell(
        as_json,
        ask("POST", "principals", body=body),
        lambda made: f"{made['name']} is there ({_kind(made)}).",
    )


@principal.command("ls")
@json_option
def list_principals(as_json: bool) -> None:
    """List whom you look after, and the members of this workspace's groups."""
    columns = {
        "NAME": text("name"),
        "KIND": _kind,
        "OF": lambda each: each["workspace"] or "registry",
        "GROUPS HERE": lambda each: ", ".join(each["groups"]),
        "STATE": lambda each: "disabled" if each["disabled"] else "",
        "CREATED": moment("created_at"),
        "BY": text("created_by"),
    }
    tell_table(as_json, ask("GET", "principals"), columns, "Nobody yet.")


@principal.command()
@click.argument("name")
@json_option
def disable(name: str, as_json: bool) -> None:
    """Shut somebody out, with all their tokens. Nothing that they did is lost."""
    told = "{name} is shut out; within 2 seconds no registry takes a token of theirs."
    tell(as_json, ask("PATCH", "principals", name, body={"disabled": True}), told.format_map)


@principal.command()
@click.argument("name")
@json_option
def enable(name: str, as_json: bool) -> None:
    """Let somebody in again, with the tokens that they had."""
    tell(as_json, ask("PATCH", "principals", name, body={"disabled": False}), "{name} is let in.".format_map)


@click.group()
def group() -> None:
    """Put people and robots together, to grant rights to all of them."""


@group.command("create")
@click.argument("name")
@json_option
def create_group(name: str, as_json: bool) -> None:
    """Make a group without members."""
    tell(as_json, ask("POST", "groups", body={"name": name}), "The group {name} is there.".format_map)


@group.command("ls")
@json_option
def list_groups(as_json: bool) -> None:
    """List the groups of this workspace with their members."""
    columns = {
        "GROUP": text("name"),
        "MEMBERS": lambda each: ", ".join(each["members"]),
        "CREATED": moment("created_at"),
        "BY": text("created_by"),
    }
    tell_table(as_json, ask("GET", "groups"), columns, "No groups yet.")


@group.command()
@click.argument("name")
@json_option
def rm(name: str, as_json: bool) -> None:
    """Remove a group, and with it what it was granted."""
    ask("DELETE", "groups", name)
    tell(as_json, {"name": name}, "The group {name} is gone, with its grants.".format_map)


@group.command()
@click.argument("name")
@click.argument("principal", metavar="WHO")
@json_option
def add(name: str, principal: str, as_json: bool) -> None:
    """Put somebody into a group."""
    tell(as_json, ask("PUT", "groups", name, "members", principal), _members)


@group.command()
@click.argument("name")
@click.argument("principal", metavar="WHO")
@json_option
def remove(name: str, principal: str, as_json: bool) -> None:
    """Take somebody out of a group."""
    tell(as_json, ask("DELETE", "groups", name, "members", principal), _members)


@click.group()
def grant() -> None:
    """Give rights in this workspace, and take them back."""


@grant.command()
@click.argument("role", type=click.Choice(ROLES))
@click.option("--principal", metavar="WHO", help="To this person or robot.")
@click.option("--group", metavar="GROUP", help="To all members of this group.")
@click.option(
    "--pattern", default="*", show_default=True, help="For models with such names, there yet or not."
)
@json_option
def give(role: str, principal: str | None, group: str | None, pattern: str, as_json: bool) -> None:
    """Grant a role to a person, robot or group, for all models or for some."""
    if (principal is None) == (group is None):
        raise click.UsageError("Either --principal or --group.")
    body = {"principal": principal, "group": group, "role": role, "pattern": pattern}
    tell(as_json, ask("POST", "grants", body=body), lambda given: f"{_whom(given)} is now {right(given)}.")


@grant.command("ls")
@json_option
def list_grants(as_json: bool) -> None:
    """List what is granted in this workspace, and to whom."""
    columns = {
        "ID": text("id"),
        "TO": _whom,
        "ROLE": text("role"),
        "PATTERN": text("pattern"),
        "GIVEN": moment("created_at"),
        "BY": text("created_by"),
    }
    tell_table(as_json, ask("GET", "grants"), columns, "Nothing is granted yet.")


@grant.command()
@click.argument("id", metavar="ID", type=click.IntRange(min=1))
@json_option
def take(id: int, as_json: bool) -> None:  # noqa: A002 - what people call it
    """Take a grant back: its ID is in `modelyard grant ls`."""
    tell(as_json, ask("DELETE", "grants", str(id)), lambda gone: f"{_whom(gone)} is no longer {right(gone)}.")


def _whom(item: Item) -> str:
    return str(item["principal"]) if item["principal"] else f"group {item['group']}"


def _kind(item: Item) -> str:
    return f"{item['kind']}, administrator" if item["administrator"] else str(item["kind"])


def _members(item: Item) -> str:
    return f"In {item['name']} {'are' if len(item['members']) > 1 else 'is'} {', '.join(item['members']) or 'nobody'}."
