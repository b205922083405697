"""`modelyard login` against a real registry and a real identity provider, as people and pipelines use it."""

import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from modelyard import _login, cli
from modelyard._errors import ConfigurationError, ConnectionFailed, UnexpectedAnswer

from registry import passwords
from registry.database import Database
from tests.servers.app import TOKEN
from tests.servers.browser import Browser
from tests.servers.canaille import PERSON, RELUCTANT, Canaille
from tests.servers.issuer import Issuer
from tests.servers.people import add_person, issued
from tests.servers.ports import free_port, wait_until
from tests.servers.registry import Registry

PROGRAM = Path(sys.executable).with_name("modelyard")
ROOT = Path(__file__).parents[2]
PASSWORD = "a horse of another colour"
START = re.compile(r"http://[^\s\"]+/start\?[^\s\"]+")


@dataclass
class Site:
    """A registry with people who can log in."""

    registry: Registry
    database: Database

    @property
    def url(self) -> str:
        return self.registry.url


@pytest.fixture
def site(
    start_registry: Callable[..., Registry], tmp_path: Path, canaille: Canaille, issuer: Issuer
) -> Iterator[Site]:
    port, url = free_port(), f"sqlite:///{tmp_path / 'registry.db'}"
    people = canaille.register(f"http://127.0.0.1:{port}/api/v1/auth/oidc/callback")
    programs = {**issuer.settings, "client_id": None, "client_secret": None}
    registry = start_registry(
        port=port,
        database_url=url,
        storage_url="memory://",
        environment={"MODELYARD_REGISTRY_OIDC": json.dumps([people, programs])},
    )
    database = Database(url)
    add_person(database, "bob", passwords.hash_password(PASSWORD, "bob"))
    yield Site(registry, database)
    database.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    for name in ("MODELYARD_TOKEN", "MODELYARD_URL", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def stored(home: Path) -> dict[str, str]:
    path = home / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return dict(json.loads(path.read_text()))


@dataclass
class Waiting:
    """A `modelyard login --browser` that waits for a browser that is not there."""

    process: "subprocess.Popen[str]"
    told: str = ""
    address: str = ""
    redirect: str = ""
    state: str = ""
    port: int = field(default=0)

    def until_it_waits(self) -> "Waiting":
        assert self.process.stderr is not None
        while not (found := START.search(self.told)):
            line = self.process.stderr.readline()
            assert line, self.told
            self.told += line
        self.address = found.group()
        query = parse_qs(urlsplit(self.address).query)
        self.redirect, self.state = query["redirect_uri"][0], query["state"][0]
        self.port = urlsplit(self.redirect).port or 0
        return self

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, self.told + err


@pytest.fixture
def wait_for_browser(site: Site) -> Iterator[Callable[..., Waiting]]:
    """Starts the command on a machine without a browser."""
    started: list[Waiting] = []

    def start(*options: str, **environment: str) -> Waiting:
        process = subprocess.Popen(
            [PROGRAM, "login", site.url, "--browser", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PATH": "/nonexistent"} | environment,
        )
        started.append(Waiting(process))
        return started[-1].until_it_waits()

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_a_person_logs_in_in_the_browser_that_opens(site: Site, home: Path) -> None:
    script = f"{sys.executable} -m tests.servers.browser %s &"
    environment = {
        "BROWSER": script,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [PROGRAM, "login", site.url, "--browser"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Logged in to {site.url} as {PERSON}, for 12 hours ({home / 'config.json'}).\n"
    assert done.stderr.startswith(f"Log in here:\n\n  {site.url}/api/v1/auth/oidc/canaille/start?")
    assert stored(home)["url"] == site.url
    assert stored(home)["token"]
    assert [row[:2] for row in issued(site.database)] == [(PERSON, "session")]


def test_without_a_browser_here_the_address_can_be_opened_by_hand(
    wait_for_browser: Callable[..., Waiting], home: Path
) -> None:
    waiting = wait_for_browser("--json")
    assert json.loads(waiting.told) == {"open": {"url": waiting.address}}
    browser = Browser()
    page = browser.log_in(waiting.address)
    browser.close()
    assert "You are logged in." in page.text
    assert page.headers["content-security-policy"] == "default-src 'none'"
    status, out, err = waiting.end()
    assert (status, err) == (0, waiting.told)
    answer = json.loads(out)
    assert (answer["principal"], answer["expires_in"]) == (PERSON, 12 * 3600)
    token = stored(home)["token"]
    assert token not in out + err
    assert all(token not in each for each in browser.visited)


def test_whoever_refuses_is_told_so_on_the_command_line(
    wait_for_browser: Callable[..., Waiting], home: Path
) -> None:
    waiting = wait_for_browser()
    browser = Browser()
    page = browser.log_in(waiting.address, who=RELUCTANT)
    browser.close()
    assert "You are not logged in." in page.text
    status, out, err = waiting.end()
    assert (status, out) == (1, "")
    assert "error: The identity provider let nobody in: it answered access_denied. (login_refused)" in err
    assert not (home / "config.json").exists()


def test_only_the_answer_to_this_login_counts(wait_for_browser: Callable[..., Waiting], home: Path) -> None:
    waiting = wait_for_browser()
    base = f"http://127.0.0.1:{waiting.port}"
    with socket.create_connection(("127.0.0.1", waiting.port)):  # a browser that connects ahead of time
        good = {"code": "stolen", "state": waiting.state}
        assert httpx2.get(waiting.redirect).status_code == 400
        assert httpx2.get(waiting.redirect, params={"code": "x", "state": "x" * 43}).status_code == 400
        assert httpx2.get(waiting.redirect, params={"code": "x", "state": "é"}).status_code == 400
        assert httpx2.get(f"{base}/", params=good).status_code == 404
        assert httpx2.get(f"{base}/modelyard/login/", params=good).status_code == 404
        foreign = httpx2.get(waiting.redirect, params=good, headers={"Host": f"evil.example:{waiting.port}"})
        assert foreign.status_code == 404
        assert httpx2.post(waiting.redirect, params=good).status_code == 501
        browser = Browser()
        assert "You are logged in." in browser.log_in(waiting.address).text
        browser.close()
    assert waiting.end()[0] == 0
    assert stored(home)["token"]


def test_a_code_that_the_registry_did_not_make_is_refused(
    wait_for_browser: Callable[..., Waiting], home: Path
) -> None:
    waiting = wait_for_browser("--json")
    httpx2.get(waiting.redirect, params={"code": "made-up", "state": waiting.state})
    status, out, err = waiting.end()
    assert (status, out) == (1, "")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "login_expired"
    assert not (home / "config.json").exists()


def test_interrupted_it_leaves_nothing_behind(wait_for_browser: Callable[..., Waiting], home: Path) -> None:
    waiting = wait_for_browser()
    waiting.process.send_signal(signal.SIGINT)
    status, out, err = waiting.end()
    assert (status, out) == (130, "")
    assert err.endswith("error: interrupted\n")
    assert "Traceback" not in err
    assert not (home / "config.json").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", waiting.port))


def test_it_does_not_wait_for_ever(site: Site) -> None:
    shown: list[str] = []
    with _login.connected(site.url) as http, pytest.raises(ConnectionFailed, match=r"within 0\.2 s"):
        _login.with_browser(http, None, shown.append, wait_s=0.2)
    assert START.fullmatch(shown[0])


@pytest.mark.parametrize(
    ("methods", "issuer", "error", "message"),
    [
        ({"issuers": []}, None, ConfigurationError, "no identity provider"),
        ({"issuers": [{"name": "ci", "start": None}]}, None, ConfigurationError, "no identity provider"),
        (
            {"issuers": [{"name": "b", "start": "https://b"}, {"name": "a", "start": "https://a"}]},
            None,
            ConfigurationError,
            r"choose with --issuer \(a, b\)",
        ),
        ({"issuers": [{"name": "a", "start": "https://a"}]}, "c", ConfigurationError, "but a"),
        ({"issuers": [{"name": "a", "start": "file:///etc/passwd"}]}, None, UnexpectedAnswer, "not a page"),
        ({"issuers": [{"name": "a", "start": 5}]}, None, UnexpectedAnswer, "not a page"),
        ({}, None, UnexpectedAnswer, "how to log in"),
        ([], None, UnexpectedAnswer, "how to log in"),
        ({"issuers": [{}]}, None, UnexpectedAnswer, "how to log in"),
    ],
)
def test_which_identity_provider_it_is(
    methods: Any, issuer: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _login._choose(methods, issuer)


def test_one_is_chosen_by_name() -> None:
    two = {"issuers": [{"name": "b", "start": "https://b"}, {"name": "a", "start": "https://a"}]}
    assert _login._choose(two, "b") == "https://b"


def login(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str, stdin: str = "") -> int:
    with (tmp_path / "stdin").open("w+") as stream:
        stream.write(stdin)
        stream.seek(0)
        monkeypatch.setattr(sys, "stdin", stream)
        return cli.run(["login", site.url, *options])


def test_a_password_from_standard_input(
    site: Site,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (site, monkeypatch, tmp_path, "--user", "bob", "--password-stdin", "--json")
    assert login(*arguments, stdin="wrong\n") == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "wrong_credentials"
    assert not (home / "config.json").exists()
    assert login(*arguments, stdin=PASSWORD + "\r\n") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["principal"], answer["expires_in"]) == ("bob", 12 * 3600)
    assert [row[:2] for row in issued(site.database)] == [("bob", "session")]
    assert PASSWORD not in json.dumps(answer)


def test_who_tries_too_often_is_told_how_long_to_wait(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (site, monkeypatch, tmp_path, "--user", "bob", "--password-stdin")
    for _ in range(10):
        assert login(*arguments, stdin="wrong\n") == 1
    capsys.readouterr()
    assert login(*arguments, stdin=PASSWORD) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: Too many attempts. Try again in \d+ seconds. \(too_many_attempts\)\n", told)


def test_a_password_is_asked_for_without_showing_it(site: Site, home: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PROGRAM, [str(PROGRAM), "login", site.url, "--user", "bob"])  # noqa: S606 - the program under test
    shown = b""

    def read() -> bool:
        nonlocal shown
        ready, _, _ = select.select([terminal], [], [], 0)
        if ready:
            shown += os.read(terminal, 1024)
        return b"Password of bob" in shown

    wait_until(read, timeout_s=60, what="the question")
    os.write(terminal, PASSWORD.encode() + b"\n")
    try:
        while chunk := os.read(terminal, 1024):
            shown += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert PASSWORD.encode() not in shown
    assert f"Logged in to {site.url} as bob, for 12 hours".encode() in shown
    assert stored(home)["token"]


@pytest.fixture
def admin(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command as an administrator; returns what it printed."""

    def run(*arguments: str) -> str:
        with monkeypatch.context() as patch:
            patch.setenv("MODELYARD_URL", site.url)
            patch.setenv("MODELYARD_TOKEN", TOKEN)
            assert cli.run(arguments) == 0
        return capsys.readouterr().out

    return run


def test_a_job_exchanges_its_identity_token(
    site: Site,
    home: Path,
    issuer: Issuer,
    admin: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (site, monkeypatch, tmp_path, "--id-token-stdin")
    assert login(*arguments, stdin=issuer.token()) == 1
    assert "no trusted publisher of this workspace" in capsys.readouterr().err
    trusted = ("--issuer", issuer.url, "--claim", "repository=acme/fraud", "--claim", "ref=refs/heads/*")
    for number, name in ((1, "fraud-ci"), (2, "other-ci")):
        admin("principal", "create", name)
        told = admin("publisher", "trust", name, *trusted)
        claims = "repository=acme/fraud, ref=refs/heads/*"
        assert told == f"Jobs of {issuer.url} with {claims} are {name} now ({number}).\n"
    assert login(*arguments, stdin=issuer.token()) == 1
    assert "(ambiguous_publisher)" in capsys.readouterr().err
    token = issuer.token()
    assert login(*arguments, "--principal", "fraud-ci", stdin=token + "\n") == 0
    told = capsys.readouterr().out
    assert told == f"Logged in to {site.url} as fraud-ci, for 15 minutes ({home / 'config.json'}).\n"
    assert login(*arguments, "--principal", "fraud-ci", stdin=token) == 1
    assert "exchanged before" in capsys.readouterr().err
    assert cli.run(["whoami", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "fraud-ci"
    assert "other-ci" in admin("publisher", "ls")
    assert admin("publisher", "rm", "2") == "Publisher 2 is trusted no longer.\n"
    assert [each["principal"] for each in json.loads(admin("publisher", "ls", "--json"))] == ["fraud-ci"]


@pytest.mark.usefixtures("site")
def test_a_person_who_is_expected_comes_in(
    canaille: Canaille, admin: Callable[..., str], wait_for_browser: Callable[..., Waiting]
) -> None:
    known = ("--issuer", canaille.url, "--subject", PERSON)
    admin("principal", "create", "the-alice-we-know", "--person", *known)
    waiting = wait_for_browser("--json")
    browser = Browser()
    browser.log_in(waiting.address)
    browser.close()
    _, out, _ = waiting.end()
    assert json.loads(out)["principal"] == "the-alice-we-know"
    assert cli.run(["principal", "create", "x", "--issuer", canaille.url]) == 2


def test_a_password_is_given_by_the_operator_and_changed_by_its_owner(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {
        "MODELYARD_HOME": str(site.registry.home),
        "MODELYARD_REGISTRY_DATABASE_URL": site.registry.database_url,
        "MODELYARD_REGISTRY_STORAGE_URL": "memory://",
    }

    def give(name: str, new: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "registry.cli", "password", name, "--stdin"]
        return subprocess.run(
            command,
            input=new + "\n",
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
        )

    assert give("bob", "the first password").stdout == "bob has a new password.\n"
    for name, new, told in (
        ("nobody", "the first password", "There is no person"),
        ("bob", "short", "at least 12"),
    ):
        refused = give(name, new)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert told in refused.stderr
    arguments = (site, monkeypatch, tmp_path, "--user", "bob", "--password-stdin")
    assert login(*arguments, stdin=PASSWORD) == 1
    assert login(*arguments, stdin="the first password") == 0
    capsys.readouterr()
    with (tmp_path / "both").open("w+") as stream:
        stream.write("the first password\nthe second password\n")
        stream.seek(0)
        monkeypatch.setattr(sys, "stdin", stream)
        assert cli.run(["password", "bob", "--stdin"]) == 0
    assert capsys.readouterr().out == "bob has a new password. Log in again.\n"
    wait_until(lambda: cli.run(["whoami"]) == 1, timeout_s=30, what="the session to end everywhere")
    assert "(unauthorized)" in capsys.readouterr().err
    assert login(*arguments, stdin="the first password") == 1
    assert login(*arguments, stdin="the second password") == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--browser", "--user", "bob"],
        ["--browser", "--token-stdin"],
        ["--id-token-stdin", "--token-stdin"],
        ["--issuer", "x"],
        ["--password-stdin"],
        ["--principal", "x"],
        ["--user", "bob", "--issuer", "x"],
    ],
)
def test_ways_to_log_in_are_not_mixed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["login", "http://127.0.0.1:1", *options]) == 2
    assert capsys.readouterr().err.startswith("Usage: modelyard login")


@pytest.mark.parametrize(
    "answer", [{}, [], {"token": "x"}, {"token": "x", "principal": "y", "expires_in": "z"}]
)
def test_an_answer_that_lets_nobody_in(answer: Any) -> None:
    with pytest.raises(UnexpectedAnswer):
        _login._session(answer)


def test_a_session_does_not_show_its_token() -> None:
    assert "secret" not in repr(_login.Session("secret", "bob", 1))
