import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modelyard import Model, Move, cli
from modelyard._tables import print_history, print_models, printable, size

from tests.servers.ports import free_port
from tests.unit.sdk_fake import FakeRegistry, file_of, version_wire

COMMANDS = {
    "login": ["http://127.0.0.1:1"],
    "push": ["fraud", "."],
    "promote": ["fraud/3"],
    "rollback": ["fraud"],
    "pull": ["fraud"],
    "ls": [],
    "show": ["fraud"],
    "search": ["stage = production"],
    "history": ["fraud"],
    "export": ["fraud/1"],
    "cp": ["fraud/1", "--to", "http://127.0.0.1:1"],
    "facts": ["show", "fraud/1"],
    "tag": ["fraud/1", "team=risk"],
    "compare": ["fraud/1", "fraud/2"],
    "where": ["fraud"],
    "policy": ["show", "fraud-*"],
    "request": ["ls", "fraud"],
    "freeze": ["fraud", "--reason", "audit"],
    "thaw": ["fraud"],
    "whoami": [],
    "token": ["create", "ci"],
    "principal": ["disable", "ci"],
    "group": ["add", "team", "ci"],
    "grant": ["give", "reader", "--group", "team"],
    "publisher": ["rm", "1"],
    "workspace": ["show"],
}
OTHERS = {"cache", "import", "password"}
"""Commands that ask no registry, or not first of all."""


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No registry runs where the commands look for one."""
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("MODELYARD_TOKEN", raising=False)
    monkeypatch.setattr("modelyard._http.FIRST_PAUSE_S", 0.0)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "model.bin").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "work")


def test_the_commands_are_those_that_the_module_describes() -> None:
    assert set(cli.app.commands) == {*COMMANDS, *OTHERS}
    assert all(name in (cli.__doc__ or "") for name in cli.app.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_is_wrong_and_what_to_do(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([name, *COMMANDS[name]]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: cannot reach the registry at http://127.0.0.1:")
    assert "modelyard-registry serve" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_errors_as_json_when_asked_to(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([name, *COMMANDS[name], "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["error"]["code"] == "connection_failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["promote", "fraud"],
        ["promote", "fraud/3", "4"],
        ["promote", "fraud", "0"],
        ["promote", "fraud", "1", "--expect", "-1"],
        ["push", "fraud"],
        ["push", "fraud", ".", "--metric", "auc"],
        ["push", "fraud", ".", "--metric", "auc=high"],
        ["push", "fraud", ".", "--tag", "=x"],
        ["nonsense"],
        ["ls", "--nonsense"],
        ["pull"],
        ["token", "create", "ci", "--days", "0"],
        ["token", "create", "ci", "--days", "7", "--no-expiry"],
        ["token", "create", "ci", "--role", "king"],
        ["grant", "give", "king", "--principal", "ci"],
        ["grant", "give", "reader"],
        ["grant", "give", "reader", "--principal", "ci", "--group", "team"],
        ["grant", "take", "0"],
        ["group", "rm", ".."],
        ["principal", "disable", ""],
        ["workspace", "limit", "acme", "--max-versions", "-1"],
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: modelyard")
    assert cli.run([*arguments, "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["error"]["code"] == "usage"


@pytest.mark.parametrize("reference", ["fraud@latest", "fr aud", "fraud/x", "../x"])
def test_a_reference_that_is_none_is_an_error(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pull", reference]) == 1
    assert capsys.readouterr().err.startswith("error: '")


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().err
    assert cli.run(["--help"]) == 0
    assert cli.run(["-h"]) == 0
    assert cli.run(["--version"]) == 0
    assert "modelyard, version 0.1.0" in capsys.readouterr().out


def test_the_command_is_installed() -> None:
    program = Path(sys.executable).with_name("modelyard")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "modelyard, version 0.1.0\n"


def test_a_failed_login_stores_nothing(tmp_path: Path) -> None:
    assert cli.run(["login", "http://127.0.0.1:1"]) == 1
    assert cli.run(["login", "http://user:secret@127.0.0.1:1"]) == 1
    assert not (tmp_path / "home" / "config.json").exists()


def test_a_token_is_asked_for_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def prompt(_text: str, **options: object) -> str:
        asked.append(options)
        return "secret"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.prompt", prompt)
    assert cli.run(["login", "http://127.0.0.1:1"]) == 1
    assert asked[0]["hide_input"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcode 模型", "plain ünïcode 模型"),
        (
            "\x1b[31mred\x1b]0;title\x07",
            "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}",
        ),
        ("two\nlines\r\x08", "two lines\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
        (
            "\u202eesrever\u202c\x9b",
            "\N{REPLACEMENT CHARACTER}esrever\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}",
        ),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_printed(text: str, expected: str) -> None:
    assert printable(text) == expected


def move(reason: str) -> Move:
    at = datetime(2026, 11, 22, 7, tzinfo=UTC)
    return Move("fraud", "production", 2, 1, 2, "promote", "kim", reason, at, "0", "0")


def test_a_reason_can_neither_colour_nor_hide_nor_format(capsys: pytest.CaptureFixture[str]) -> None:
    print_history([move("[bold red]sneaky[/] \x1b[2J :smile: http://x")], "")
    told = capsys.readouterr().out
    assert "[bold red]sneaky[/] \N{REPLACEMENT CHARACTER}[2J :smile: http://x" in told
    assert "\x1b" not in told


def test_a_table_in_a_pipe_is_neither_cut_nor_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_history([move("because " * 100 + "end")], "")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].rstrip().endswith("end")


def test_an_empty_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_models([])
    assert capsys.readouterr().out == "No models yet.\n"


def test_a_model_without_versions_has_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    print_models([Model("fraud", "", datetime(2026, 11, 22, tzinfo=UTC), None, ())])
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["fraud", "-", "-", "-"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_345_678, "2.3 MB"), (5e12, "5.0 TB")],
)
def test_sizes_are_for_people(count: float, expected: str) -> None:
    assert size(count) == expected


class Stalling(BaseHTTPRequestHandler):
    """A registry whose version never ends: half of its file arrives, then nothing."""

    half_sent: threading.Event
    over: threading.Event
    content = b"x" * 4_000_000

    def do_GET(self) -> None:  # the name that http.server wants
        files = [file_of("model.bin", self.content), file_of("other.bin", self.content)]
        if self.path.endswith("/versions/1"):
            self._send(json.dumps(version_wire(files)).encode())
        elif self.path.endswith("/downloads"):
            self._send(json.dumps(FakeRegistry().downloads(files)).encode())
        else:
            self._send(self.content[:2_000_000], promised=len(self.content))
            self.half_sent.set()
            self.over.wait(60)

    def _send(self, body: bytes, promised: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def stalling() -> Iterator[ThreadingHTTPServer]:
    Stalling.half_sent, Stalling.over = threading.Event(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    Stalling.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("dest", [["dest"], []])
def test_ctrl_c_ends_a_download_at_once_and_leaves_nothing(
    stalling: ThreadingHTTPServer, tmp_path: Path, dest: list[str]
) -> None:
    environment = os.environ | {"MODELYARD_URL": f"http://127.0.0.1:{stalling.server_port}"}
    command = [sys.executable, "-m", "modelyard.cli", "pull", "fraud/1", *dest]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert Stalling.half_sent.wait(30)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 20  # the dead server is given 30 s otherwise
    assert told == "error: interrupted\n"
    assert [each.name for each in Path().iterdir()] == ["model.bin"]  # what was there before
    versions = tmp_path / "home" / "cache" / "versions"
    assert dest or list(versions.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error(stalling: ThreadingHTTPServer) -> None:
    environment = os.environ | {"MODELYARD_URL": f"http://127.0.0.1:{stalling.server_port}"}
    command = f"{sys.executable} -m modelyard.cli show fraud/1 --json; echo status $? >&2"
    piped = ["bash", "-c", f"({command}) | true"]
    done = subprocess.run(piped, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "status 0\n"
