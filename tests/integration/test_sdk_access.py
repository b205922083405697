"""Who may do what, from the shell: people, robots, groups, grants, tokens and workspaces of a real registry."""

import json
import stat
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import modelyard
import pytest
from modelyard import Client, cli

from tests.servers.app import TOKEN
from tests.servers.ports import wait_until
from tests.servers.registry import Registry

Told = pytest.CaptureFixture[str]
Run = Callable[..., str]


@pytest.fixture(autouse=True)
def home(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def run(capsys: Told) -> Run:
    """Run a command that succeeds; returns what it printed on stdout."""

    def run_it(*arguments: object) -> str:
        status = cli.run([str(each) for each in arguments])
        told = capsys.readouterr()
        assert status == 0, told.err
        return told.out

    return run_it


@pytest.fixture
def acme(run: Run, registry_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A workspace of one's own, selected by the URL; returns its name."""
    name = f"w{uuid.uuid4().hex[:12]}"
    assert f"add /w/{name} to the registry's URL" in run("workspace", "create", name)
    monkeypatch.setenv("MODELYARD_URL", f"{registry_url}/w/{name}")
    return name


@pytest.fixture
def robot(run: Run, acme: str) -> str:
    """A robot of the workspace; returns its name."""
    name = f"ci@{acme}"
    assert run("principal", "create", name) == f"{name} is there (robot).\n"
    return name


@pytest.fixture
def as_robot(run: Run, robot: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on, the robot's token is used."""

    def become() -> None:
        token = run("token", "create", "test", "--principal", robot).strip()
        monkeypatch.setenv("MODELYARD_TOKEN", token)

    return become


def error_of(told: Told, *arguments: object) -> str:
    """What a command that fails says."""
    assert cli.run([str(each) for each in arguments]) == 1
    said = told.readouterr()
    assert said.out == ""
    return said.err


def test_a_token_stands_alone_on_stdout_and_is_shown_once(
    run: Run, robot: str, acme: str, capsys: Told
) -> None:
    assert (
        cli.run(["token", "create", "nightly", "--principal", robot, "--role", "reader", "--days", "7"]) == 0
    )
    told = capsys.readouterr()
    assert told.out.startswith("myd_")
    assert len(told.out.splitlines()) == 1
    assert f"of {robot} in workspace {acme}, at most reader of all models, until " in told.err
    assert told.out.strip() not in told.err
    everybody = json.loads(run("token", "ls", "--everybody", "--json"))
    (listed,) = (each for each in everybody if each["principal"] == robot)
    assert (listed["name"], listed["role"]) == ("nightly", "reader")
    assert "token" not in listed
    rows = run("token", "ls", "--everybody").splitlines()
    (row,) = (each for each in rows if listed["id"] in each)
    assert "reader of all models" in row
    assert told.out.strip() not in row


def test_a_token_lasts_as_long_as_was_said(run: Run, robot: str) -> None:
    def made(*options: str) -> dict[str, str]:
        return dict(json.loads(run("token", "create", "x", "--principal", robot, "--json", *options)))

    def days(token: dict[str, str]) -> int:
        made_at, expires_at = (datetime.fromisoformat(token[name]) for name in ("created_at", "expires_at"))
        return (expires_at - made_at).days

    assert (days(made()), days(made("--days", "1"))) == (90, 1)
    assert made("--no-expiry")["expires_at"] is None
    assert made("--everywhere")["workspace"] is None


def test_whoami_says_who_where_and_what(
    run: Run, robot: str, acme: str, as_robot: Callable[[], None]
) -> None:
    assert "an administrator of the registry" in run("whoami")
    run("grant", "give", "publisher", "--principal", robot, "--pattern", "fraud-*")
    as_robot()
    told = run("whoami")
    assert all(each in told for each in (robot, f"/w/{acme}", "publisher of fraud-*"))
    me = json.loads(run("whoami", "--json"))
    assert (me["name"], me["workspace"]) == (robot, acme)
    assert me["rights"] == [{"role": "publisher", "pattern": "fraud-*"}]


def test_what_is_granted_can_be_done_and_the_rest_cannot(
    run: Run, robot: str, as_robot: Callable[[], None], tmp_path: Path, capsys: Told
) -> None:
    (tmp_path / "m").write_bytes(b"weights")
    run("push", "other", "m")
    told = run("grant", "give", "publisher", "--principal", robot, "--pattern", "fraud-*")
    assert told == f"{robot} is now publisher of fraud-*.\n"
    as_robot()
    run("push", "fraud-eu", "m")
    told = error_of(capsys, "promote", "fraud-eu/1")
    assert "(forbidden)\nhint: `modelyard whoami` shows" in told
    assert "(model_not_found)" in error_of(capsys, "show", "other")
    assert "(forbidden)" in error_of(capsys, "grant", "ls")
    with Client() as client, pytest.raises(modelyard.Forbidden):
        client.promote("fraud-eu", 1)


def test_groups_hold_people_and_are_granted_to(
    run: Run, robot: str, as_robot: Callable[[], None], capsys: Told
) -> None:
    assert run("group", "ls") == "No groups yet.\n"
    run("group", "create", "risk")
    assert run("group", "add", "risk", robot) == f"In risk is {robot}.\n"
    assert run("grant", "give", "reader", "--group", "risk") == "group risk is now reader of all models.\n"
    assert f"risk   {robot}" in run("group", "ls")
    assert "group risk" in run("grant", "ls")
    assert "risk" in next(line for line in run("principal", "ls").splitlines() if line.startswith(robot))
    (given,) = json.loads(run("grant", "ls", "--json"))
    assert run("grant", "take", given["id"]) == "group risk is no longer reader of all models.\n"
    assert run("group", "remove", "risk", robot) == "In risk is nobody.\n"
    assert run("group", "rm", "risk") == "The group risk is gone, with its grants.\n"
    assert "(group_not_found)\nhint: `modelyard group ls`" in error_of(capsys, "group", "rm", "risk")
    as_robot()
    assert "(workspace_not_found)\nhint: `modelyard whoami`" in error_of(capsys, "ls")


def test_who_is_disabled_or_revoked_is_out_within_seconds(run: Run, robot: str, capsys: Told) -> None:
    run("grant", "give", "reader", "--principal", robot)
    made = json.loads(run("token", "create", "x", "--principal", robot, "--json"))
    with Client(token=made["token"]) as client:
        assert list(client.models()) == []
        assert run("principal", "disable", robot).startswith(f"{robot} is shut out;")
        wait_until(lambda: is_out(client), timeout_s=30, what="the robot to be shut out")
        assert run("principal", "enable", robot) == f"{robot} is let in.\n"
        wait_until(lambda: not is_out(client), timeout_s=30, what="the robot to be let in")
        assert f"The token {made['id']} (x) of {robot} is revoked" in run("token", "revoke", made["id"])
        wait_until(lambda: is_out(client), timeout_s=30, what="the token to be refused")
    assert made["id"] not in run("token", "ls", "--everybody")
    assert "(token_not_found)" in error_of(capsys, "token", "revoke", "nonsense")


def is_out(client: Client) -> bool:
    try:
        client.info()
    except modelyard.Unauthorized:
        return True
    return False


def test_a_workspace_is_a_registry_of_its_own(run: Run, acme: str, registry_url: str, tmp_path: Path) -> None:
    """Also for bytes: those of packs, parts and blobs are sent to it and fetched from it by paths of its own."""
    (tmp_path / "model").mkdir()
    large = bytes(range(256)) * (80 << 10)
    for name, content in {"large.bin": large, "small.txt": b"small"}.items():
        (tmp_path / "model" / name).write_bytes(content)
    name = f"fraud-{acme}"
    run("push", name, "model", "--promote")
    assert (Path(run("pull", name).strip()) / "large.bin").read_bytes() == large
    run("pull", f"{name}/1", "there")
    assert (tmp_path / "there" / "small.txt").read_bytes() == b"small"
    assert name in run("ls")
    run("export", name, "fraud.tar")
    run("import", "fraud.tar", "again")
    with Client(registry_url) as default, pytest.raises(modelyard.NotFound):
        default.model(name)
    with Client() as client:
        assert client.url == f"{registry_url}/w/{acme}"
        kinds = [event.kind for event in client.events(0).events if event.model == name]
    assert kinds == ["version.created", "pointer.moved"]
    assert run("pull", name, "--offline").strip()
    assert json.loads(run("show", f"{name}/1", "--json"))["stage"] == "production"


def test_a_version_is_copied_between_workspaces(
    run: Run, acme: str, registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").write_bytes(acme.encode())
    run("push", f"from-{acme}", "m")
    told = run("cp", f"from-{acme}/1", "--to", registry_url, "--token-env", "MODELYARD_TOKEN")
    assert f"{registry_url}/w/{acme} -> from-{acme}/1 at {registry_url} " in told
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    assert f"from-{acme}" in run("ls")


def test_limits_are_shown_set_and_kept(run: Run, acme: str, tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "m").write_bytes(b"weights")
    run("workspace", "limit", acme, "--max-versions", 1, "--max-bytes", 1000, "--max-requests", 5000)
    run("push", "fraud", "m")
    told = run("workspace", "show")
    assert all(each in told for each in ("1 of 1", "7 B of 1.0 kB", "5000"))
    (tmp_path / "m").write_bytes(b"better weights")
    told = error_of(capsys, "push", "fraud", "m")
    assert "(quota_exceeded)\nhint: `modelyard workspace show`" in told
    shown = json.loads(run("workspace", "limit", acme, "--json"))["limits"]
    assert shown == {"max_versions": None, "max_bytes": None, "max_requests_per_minute": None}
    run("push", "fraud", "m")
    assert f"{acme}  " in run("workspace", "ls")
    assert "default" in run("workspace", "ls")


def test_a_workspace_that_is_not_there_is_told_as_such(
    registry_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setenv("MODELYARD_URL", f"{registry_url}/w/absent")
    assert "There is no workspace 'absent'" in error_of(capsys, "ls")
    assert "(workspace_not_found)" in error_of(capsys, "whoami")


@pytest.fixture
def closed(start_registry: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry on this machine with nothing set, and its user's home."""
    for name in ("MODELYARD_REGISTRY_TOKEN", "MODELYARD_REGISTRY_SECRET_KEY", "MODELYARD_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("MODELYARD_URL")
    running = start_registry()
    monkeypatch.setenv("MODELYARD_HOME", str(running.home))
    return running


def test_the_registry_of_this_machine_knows_its_user_and_nobody_else(
    closed: Registry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Told
) -> None:
    assert stat.S_IMODE((closed.home / "local.json").stat().st_mode) == 0o600
    told = run("login", closed.url)
    assert f"Logged in to {closed.url}" in told
    assert "No token is needed" in told
    assert "token" not in json.loads((closed.home / "config.json").read_text())
    assert "local" in run("whoami")
    run("workspace", "create", "acme")
    assert "No token is needed" in run("login", f"http://localhost:{closed.port}/w/acme")
    (tmp_path / "m").write_bytes(b"weights")
    run("push", "fraud", "m")
    assert json.loads(run("whoami", "--json"))["workspace"] == "acme"
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "somebody-else"))
    assert "(unauthorized)" in error_of(capsys, "login", closed.url)


def test_somebody_else_logs_in_on_this_machine_with_a_token(
    closed: Registry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELYARD_URL", closed.url)
    run("principal", "create", "kim", "--person")
    run("grant", "give", "reader", "--principal", "kim")
    token = run("token", "create", "laptop", "--principal", "kim").strip()
    monkeypatch.delenv("MODELYARD_URL")
    with (tmp_path / "stdin").open("w+") as stdin:
        stdin.write(token + "\n")
        stdin.seek(0)
        monkeypatch.setattr(sys, "stdin", stdin)
        assert "No token is needed" not in run("login", closed.url, "--token-stdin")
    assert json.loads(run("whoami", "--json"))["name"] == "kim"


def test_a_version_is_copied_to_the_registry_of_this_machine(
    registry_url: str, closed: Registry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which has a token for its user, so that none has to be given."""
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    monkeypatch.setenv("MODELYARD_TOKEN", TOKEN)
    name = f"fraud-{uuid.uuid4().hex}"
    (tmp_path / "m").write_bytes(b"weights")
    run("push", name, "m")
    assert f"-> {name}/1 at {closed.url}" in run("cp", f"{name}/1", "--to", closed.url)
