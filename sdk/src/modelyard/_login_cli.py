"""`modelyard login URL`: where the registry is, and a token for it. `modelyard password NAME`.

    (nothing), --token-stdin        a token that somebody made
    --browser                       log in with an identity provider
    --user NAME                     log in with a password
    --id-token-stdin                a CI job's identity token, exchanged

Whatever the way, a token is stored only after the registry has taken it.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from modelyard import _config
from modelyard._answer import answer, json_option
from modelyard._client import Client
from modelyard._errors import UnexpectedAnswer

if TYPE_CHECKING:
    from modelyard._login import Session

LOCAL = "\nNo token is needed: the registry of this machine keeps one for you in local.json. Another: --token-stdin."


@click.command()
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option("--browser", is_flag=True, help="Log in with an identity provider, in a browser.")
@click.option("--issuer", metavar="NAME", help="Which identity provider, if the registry has several.")
@click.option("--user", metavar="NAME", help="Log in with the password of NAME.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--id-token-stdin", is_flag=True, help="Exchange a CI job's identity token from standard input."
)
@click.option("--principal", metavar="NAME", help="As whom, if the identity token may be several.")
@json_option
def login(
    url: str,
    token_stdin: bool,
    browser: bool,
    issuer: str | None,
    user: str | None,
    password_stdin: bool,
    id_token_stdin: bool,
    principal: str | None,
    as_json: bool,
) -> None:
    """Store where the registry is, and a token for it.

    The token is asked for without showing it; without a terminal, none is used unless an option says where it comes from.
    The registry of this machine has a token for its user in local.json already.
    """
    if sum([token_stdin, browser, user is not None, id_token_stdin]) > 1:
        raise click.UsageError("One way to log in at a time.")
    if (issuer and not browser) or (password_stdin and not user) or (principal and not id_token_stdin):
        raise click.UsageError(
            "--issuer belongs to --browser, --password-stdin to --user, --principal to --id-token-stdin."
        )
    url = _config.check_url(url)
    if browser:
        _store_session(url, _with_browser(url, issuer, as_json=as_json), as_json=as_json)
    elif user:
        _store_session(url, _with_password(url, user, password_stdin=password_stdin), as_json=as_json)
    elif id_token_stdin:
        _store_session(url, _with_identity_token(url, principal), as_json=as_json)
    else:
        _store_given(url, token_stdin=token_stdin, as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read both from standard input, each in a line.")
@json_option
def password(name: str, from_stdin: bool, as_json: bool) -> None:
    """Change the password of NAME. The old one is asked for, then the new one; all sessions end."""
    from modelyard import _login

    if from_stdin:
        former, new = _line(), _line()
    else:
        former = _ask(f"Password of {name}")
        new = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    with _login.connected(_config.load().url) as http:
        _login.change_password(http, name, former, new)
    answer(as_json, {"name": name}, lambda: click.echo(f"{name} has a new password. Log in again."))


def _with_browser(url: str, issuer: str | None, *, as_json: bool) -> "Session":
    from modelyard import _login

    def show(address: str) -> None:
        told = json.dumps({"open": {"url": address}}) if as_json else f"Log in here:\n\n  {address}\n"
        click.echo(told, err=True)

    with _login.connected(url) as http:
        return _login.with_browser(http, issuer, show)


def _with_password(url: str, user: str, *, password_stdin: bool) -> "Session":
    from modelyard import _login

    given = _line() if password_stdin else _ask(f"Password of {user}")
    with _login.connected(url) as http:
        return _login.with_password(http, user, given)


def _with_identity_token(url: str, principal: str | None) -> "Session":
    from modelyard import _login

    with _login.connected(url) as http:
        return _login.with_identity_token(http, sys.stdin.readline().strip(), principal)


def _line() -> str:
    # A password may begin or end with a space; the end of the line is not part of it.
    return sys.stdin.readline().rstrip("\r\n")


def _ask(what: str) -> str:
    return str(click.prompt(what, default="", hide_input=True, show_default=False, err=True))


def _store_session(url: str, session: "Session", *, as_json: bool) -> None:
    told = _store(url, session.token) | {"principal": session.principal, "expires_in": session.expires_in}
    whom = f"{session.principal}, for {_duration(session.expires_in)}"
    answer(as_json, told, lambda: click.echo(f"Logged in to {url} as {whom} ({told['config']})."))


def _store_given(url: str, *, token_stdin: bool, as_json: bool) -> None:
    local, token = None if token_stdin else _config.local_token(url), ""
    if token_stdin:
        token = sys.stdin.readline().strip()
    elif local is None and sys.stdin.isatty():
        token = _ask("Token")
    told = _store(url, token, local)
    more = LOCAL if local else ""
    answer(as_json, told, lambda: click.echo(f"Logged in to {url} ({told['config']}).{more}"))


def _store(url: str, token: str, local: str | None = None) -> dict[str, Any]:
    """Store the token once the registry has taken it, or the one that it keeps for us itself; returns what to tell."""
    with Client(url, token or local or "") as client:
        info = client.info()
    if info.service != "modelyard-registry":
        raise UnexpectedAnswer(f"{url} is not a Modelyard registry.")
    return {"url": url, "config": str(_config.save(url, token)), "server": info}


def _duration(seconds: int) -> str:
    return f"{seconds // 3600} hours" if seconds >= 2 * 3600 else f"{seconds // 60} minutes"
