"""docs/tutorial.md tells the truth: a reader who does what it says, from `make up` to `make down`, sees what it shows."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guides import Step, page, same, save_files, steps, terminal
from tests.servers.ports import free_port, wait_until

TUTORIAL = page("tutorial.md")
MAKE = """python -c '
from pathlib import Path
from deploy import local
local.RUN = Path("run").absolute()
local.{what}
'"""

Run = Callable[[str], str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command as if nobody else had the ports that `make up` takes."""
    for name in ("MODELYARD_TOKEN", "MODELYARD_REGISTRY_TOKEN"):
        monkeypatch.delenv(name)
    ports = {7070: free_port(), 8080: free_port()}
    url = f"http://127.0.0.1:{ports[7070]}"
    instead = {
        "make up": MAKE.format(what=f"up({ports[7070]}, {ports[8080]})"),
        "make down": MAKE.format(what="down()"),
        ". .venv/bin/activate": "true",  # the tests are in it
    }

    def run_it(command: str) -> str:
        command = instead.get(command, command)
        for theirs, ours in ports.items():
            command = command.replace(f":{theirs}/", f":{ours}/")
        told = terminal(command, tmp_path, MODELYARD_URL=url, PYTHONPATH=os.pathsep.join(sys.path))
        for theirs, ours in ports.items():
            told = re.sub(rf":{ours}\b", f":{theirs}", told)
        return told

    yield run_it
    run_it("make down")


def test_who_does_what_it_says_sees_what_it_shows(run: Run, tmp_path: Path) -> None:
    save_files(TUTORIAL, tmp_path)
    done = [_see(step, run) for step in steps(TUTORIAL)]
    assert (done[0], done[-1], len(done)) == ("make up", "make down", TUTORIAL.count("\n$ "))


def _see(step: Step, run: Run) -> str:
    told = ""

    def shows() -> bool:
        nonlocal told
        told = run(step.command)
        return _fits(step.prints, told)

    if step.command.startswith(("curl", "modelyard where")):  # an adapter takes a moment
        wait_until(shows, timeout_s=60, what=step.prints)
    else:
        assert shows(), f"$ {step.command}\n{told}"
    return step.command


def _fits(shown: str, told: str) -> bool:
    """After an ellipsis anything may come."""
    shown, told = same(shown), same(told)
    return told.startswith(shown[:-1].strip()) if shown.endswith("…") else told == shown
