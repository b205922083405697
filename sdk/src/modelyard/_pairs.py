"""Options of the form NAME=VALUE."""

import click


def pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """What was given, by name."""
    found = {}
    for value in values:
        name, separator, content = value.partition("=")
        if not (name and separator):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        found[name] = content
    return found
