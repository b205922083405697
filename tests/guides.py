"""Guides that are run: the code, files and commands of a page in docs/.

```python train.py        a file that the reader saves under that name
```console                commands, each after `$ `, and below it what it prints
```  (no language)        commands without what they print
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"

# What is different each time: moments, tokens, what curl's answers are called, and whose machine it is.
_VARIES = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d": "0000-00-00 00:00",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "0000-00-00T00:00:00Z",
    r"sha256:[0-9a-f]{12}": "sha256:000000000000",
    r"\b[0-9a-z]{16}\b": "id",
    r'"id":"[0-9a-f]{32}"': '"id":""',
    r"[^ ]+:8080\b": "here:8080",
    r" +": " ",
    r" $": "",
}


class Block(NamedTuple):
    language: str
    name: str
    text: str


class Step(NamedTuple):
    """A command, and what the page says that it prints."""

    command: str
    prints: str


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """All blocks of code, in order."""
    found = re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


def steps(text: str) -> Iterator[Step]:
    """What is between two `$ ` at the beginning of a line; a command goes on after a backslash."""
    for block in blocks(text):
        if block.language == "console":
            for each in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command = re.match(r"(?:.*\\\n)*.*\n", each)
                assert command, each
                yield Step(command[0].strip(), each[command.end() :])


def save_files(text: str, folder: Path) -> None:
    """Those that a reader saves."""
    named = [block for block in blocks(text) if block.name]
    assert len({block.name for block in named}) == len(named)
    for block in named:
        (folder / block.name).write_text(block.text, encoding="utf-8")


def same(text: str) -> str:
    """What a command has printed, without what is different each time."""
    for pattern, instead in _VARIES.items():
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.strip()


def shell(script: str, folder: Path, **environment: str) -> str:
    """What a script prints on stdout; every command in it must succeed."""
    done = _run(script, folder, environment, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def terminal(command: str, folder: Path, **environment: str) -> str:
    """What one sees of a command: stdout and stderr. One that fails says so with an error."""
    done = _run(command, folder, environment, stderr=subprocess.STDOUT)
    assert (done.returncode != 0) == ("error: " in done.stdout), (command, done.stdout)
    return done.stdout


def _run(
    script: str, folder: Path, environment: dict[str, str], *, stderr: int
) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=os.environ | {"MODELYARD_HOME": str(folder / "home"), "PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )
