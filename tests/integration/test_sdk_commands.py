"""Every command of `modelyard` against a real registry, for people and for programs."""

import json
import os
import pty
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modelyard import Client, cli

from tests.servers.registry import Registry

TOKEN = "a-token-of-sixteen-or-more"
PROGRAM = Path(sys.executable).with_name("modelyard")


@pytest.fixture(autouse=True)
def home(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def name() -> str:
    return f"sdk-{uuid.uuid4().hex}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    return tmp_path / "model"


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds; returns what it printed on stdout, and makes sure that stderr stayed empty."""

    def run_quietly(*arguments: object) -> str:
        assert cli.run([str(each) for each in arguments]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    return run_quietly


@pytest.fixture
def two(run: Run, name: str, folder: Path) -> str:
    """A model with two versions; returns its name."""
    run("push", name, folder)
    run("push", name, folder, "--metric", "auc=0.5")
    return name


def test_push_registers_with_everything_that_was_said(run: Run, name: str, folder: Path) -> None:
    told = run(
        *(
            "push",
            name,
            folder,
            "--metric",
            "auc=0.97",
            "--metric",
            "n=3",
            "--tag",
            "team=risk",
            "--tag",
            "a=b=c",
        ),
        *("--description", "nightly", "--format", "files"),
    )
    assert told.startswith(f"{name}/1 sha256:")
    assert told.endswith("(files, 7 B)\n")
    with Client() as client:
        version = client.resolve(f"{name}/1")
    assert (version.metrics, version.tags) == ({"auc": 0.97, "n": 3.0}, {"team": "risk", "a": "b=c"})
    assert (version.description, version.stage) == ("nightly", "none")


def test_push_promotes_too(run: Run, name: str, folder: Path) -> None:
    assert f"{name}@production is now {name}/1 (generation 1)\n" in run("push", name, folder, "--promote")
    assert f"{name}@canary is now {name}/2 (generation 1)\n" in run("push", name, folder, "--promote=canary")
    answer = json.loads(run("push", name, folder, "--promote", "staging", "--json"))
    assert (answer["version"]["number"], answer["promotion"]["pointer"]["name"]) == (3, "staging")
    answer = json.loads(run("push", name, folder, "--json"))
    assert (answer["version"]["number"], answer["promotion"]) == (4, None)


def test_promote_takes_a_version_in_each_form(run: Run, two: str) -> None:
    assert run("promote", f"{two}/1", "--to", "staging") == f"{two}@staging is now {two}/1 (generation 1)\n"
    assert run("promote", f"{two}@staging") == f"{two}@production is now {two}/1 (generation 1)\n"
    assert run("promote", two, 2, "--reason", "better") == f"{two}@production is now {two}/2 (generation 2)\n"
    assert run("promote", two, 2) == f"{two}@production is already {two}/2 (generation 2)\n"
    assert run("promote", two, 1, "--to", "none") == f"{two}/1 is now in stage none\n"
    answer = json.loads(run("promote", two, 1, "--to", "champion", "--expect", 0, "--json"))
    assert (answer["pointer"]["number"], answer["moved"]) == (1, True)


def test_a_stale_view_is_told_with_what_to_do(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["promote", two, "1", "--expect", "7"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "(generation_conflict)\nhint: Look with `modelyard history MODEL`" in told.err
    assert cli.run(["promote", two, "1", "--expect", "7", "--json"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "generation_conflict"
    assert error["message"]


def test_rollback_returns_to_the_version_before(
    run: Run, two: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("promote", two, 1)
    run("promote", two, 2)
    assert run("rollback", two, "--reason", "worse") == f"{two}@production is now {two}/1 (generation 3)\n"
    run("promote", two, 2, "--to", "champion")
    run("promote", two, 1, "--to", "champion")
    answer = json.loads(run("rollback", two, "--pointer", "champion", "--json"))
    assert (answer["pointer"]["name"], answer["pointer"]["number"]) == ("champion", 2)
    assert cli.run(["rollback", two, "--pointer", "staging"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_pull_prints_where_the_files_are(run: Run, two: str, tmp_path: Path) -> None:
    run("promote", two, 2)
    assert run("pull", two, "fetched") == f"{tmp_path / 'fetched'}\n"
    assert (tmp_path / "fetched" / "weights.bin").read_bytes() == b"weights"
    cached = Path(run("pull", f"{two}/1").strip())
    assert (cached / "weights.bin").read_bytes() == b"weights"
    answer = json.loads(run("pull", f"{two}@production", "--json"))
    assert (answer["path"], answer["version"]["number"]) == (str(cached), 2)


def test_pull_does_not_overwrite(two: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pull", f"{two}/1", str(folder)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_ls_lists_models_and_versions(run: Run, two: str) -> None:
    run("promote", two, 1)
    run("promote", two, 2, "--to", "canary")
    header, *rows = run("ls").splitlines()
    assert header.split() == ["MODEL", "LATEST", "PRODUCTION", "STAGING", "ALIASES", "CREATED"]
    assert [row.split()[:5] for row in rows if row.startswith(two)] == [[two, "2", "1", "-", "canary=2"]]
    header, second, first = run("ls", two).splitlines()
    assert header.split()[:4] == ["VERSION", "STAGE", "ALIASES", "FORMAT"]
    assert second.split()[:6] == ["2", "none", "canary", "files", "7", "B"]
    assert first.split()[:2] == ["1", "production"]
    assert two in {each["name"] for each in json.loads(run("ls", "--json"))}
    assert [each["number"] for each in json.loads(run("ls", two, "--json"))] == [2, 1]


def test_show_shows_a_version_or_a_model(run: Run, two: str) -> None:
    run("promote", two, 2, "--to", "champion")
    version = run("show", f"{two}@champion")
    for fact in (f"{two}/2", "champion", "auc=0.5", "weights.bin", "sha256:"):
        assert fact in version
    model = run("show", two)
    assert "Latest version  2" in model
    assert "champion" in model
    assert json.loads(run("show", f"{two}/1", "--json"))["number"] == 1
    assert json.loads(run("show", two, "--json"))["latest"] == 2


def test_history_shows_every_move(run: Run, two: str) -> None:
    run("promote", two, 1, "--reason", "go")
    run("promote", two, 2, "--to", "canary")
    header, *rows = run("history", two).splitlines()
    assert header.split() == ["WHEN", "POINTER", "FROM", "TO", "KIND", "GENERATION", "BY", "REASON"]
    assert [row.split()[2] for row in rows] == ["canary", "production"]
    assert len(run("history", two, "--pointer", "production").splitlines()) == 2
    [move] = json.loads(run("history", two, "--pointer", "production", "--json"))
    assert (move["from_number"], move["to_number"], move["kind"], move["reason"]) == (
        None,
        1,
        "promote",
        "go",
    )


def test_json_times_are_utc_and_say_so(run: Run, two: str) -> None:
    assert json.loads(run("show", two, "--json"))["created_at"].endswith("Z")


def test_login_verifies_and_stores(
    start_registry: Callable[..., Registry],
    tmp_path: Path,
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = start_registry(
        database_url=f"sqlite:///{tmp_path / 'registry.db'}",
        storage_url=(tmp_path / "blobs").as_uri(),
        environment={"MODELYARD_REGISTRY_TOKEN": TOKEN},
    )
    monkeypatch.delenv("MODELYARD_URL")
    monkeypatch.delenv("MODELYARD_TOKEN")

    def login(token: str, *options: str) -> int:
        with (tmp_path / "stdin").open("w+") as stdin:
            stdin.write(token + "\n")
            stdin.seek(0)
            monkeypatch.setattr(sys, "stdin", stdin)
            return cli.run(["login", running.url, *options])

    assert login("the-wrong-token", "--token-stdin") == 1
    assert login("") == 1
    assert "(unauthorized)\nhint: Log in with" in capsys.readouterr().err
    assert not (home / "config.json").exists()

    assert login(TOKEN, "--token-stdin", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["url"], answer["server"]["service"]) == (running.url, "modelyard-registry")
    assert TOKEN not in json.dumps(answer)
    assert stat.S_IMODE((home / "config.json").stat().st_mode) == 0o600
    assert run("ls") == "No models yet.\n"


def run_on_a_terminal(*arguments: str, environment: dict[str, str]) -> tuple[str, str]:
    """Run the program with stdout and stderr on terminals of their own; returns what each showed."""
    shown: dict[str, Any] = {}
    (out, out_end), (err, err_end) = pty.openpty(), pty.openpty()
    done = subprocess.run(
        [PROGRAM, *arguments], stdout=out_end, stderr=err_end, env=os.environ | environment, check=True
    )
    assert done.returncode == 0
    for name, end, master in (("out", out_end, out), ("err", err_end, err)):
        os.close(end)
        shown[name] = b""
        try:
            while chunk := os.read(master, 65536):
                shown[name] += chunk
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(master)
    return shown["out"].decode(), shown["err"].decode()


def test_colour_and_progress_are_for_terminals(run: Run, two: str) -> None:
    terminal = {"TERM": "xterm-256color", "NO_COLOR": "", "COLUMNS": "200"}
    out, _ = run_on_a_terminal("ls", two, environment=terminal)
    assert "\x1b[1m" in out
    _, err = run_on_a_terminal("pull", f"{two}/1", environment=terminal)
    assert f"pull {two}/1" in err
    _, err = run_on_a_terminal("pull", f"{two}/1", "again", "--json", environment=terminal)
    assert err == ""
    assert "\x1b" not in run("ls", two)


def test_no_color_is_honoured(two: str) -> None:
    out, _ = run_on_a_terminal("ls", two, environment={"TERM": "xterm-256color", "NO_COLOR": "1"})
    assert "VERSION" in out
    assert not any(f"\x1b[{code}" in out for code in (*range(30, 38), *range(90, 98)))


def test_warnings_are_told_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.onnx").write_text("not a graph")
    assert cli.run(["push", name, "broken.onnx"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{name}/1")
    assert told.err.startswith("warning: Registered without a signature: broken.onnx")
    assert len(told.err.splitlines()) == 1
    assert cli.run(["push", name, "broken.onnx", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["version"]["number"] == 2
    assert "without a signature" in json.loads(told.err)["warning"]["message"]


def test_a_file_that_is_refused_is_named(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link").symlink_to("weights.bin")
    assert cli.run(["push", name, str(folder)]) == 1
    assert capsys.readouterr().err.startswith("error: 'link' is a symbolic link")
