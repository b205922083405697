"""A registry and a serving adapter on this machine: `make up`, `make down`, the demo, and the end-to-end tests.

python -m deploy.local up      start both on their default ports, data under .run/, and leave them running
python -m deploy.local down    stop them
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import modelyard

RUN = Path(__file__).parent.parent / ".run"
TOKENS = ("MODELYARD_REGISTRY_TOKEN", "MODELYARD_TOKEN")
"""What the registry asks for, and what its clients send."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class NotStarted(Exception):
    """A server ended, or did not answer in time; the message ends with its log."""


@dataclass
class Server:
    """One server process: how to start it, where it answers, where it writes its log."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    answers: str
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, *, detached: bool = False) -> int:
        """Start, wait until it answers, and return the process id. Raises NotStarted.

        A detached server outlives this process and the terminal.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=detached,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_answering(self.answers):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NotStarted(f"the {self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self.process.pid

    def stop(self) -> int | None:
        """Ask it to stop, insist after a while; returns its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


@dataclass
class Stack:
    """A registry and an adapter that follows it, with all their data under `home`. A context manager.

    `token` opens the registry; without one, the registry leaves one in local.json under `home`.
    """

    home: Path
    registry_port: int
    adapter_port: int
    follow: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    token: str = field(default_factory=secrets.token_urlsafe, repr=False)

    def __post_init__(self) -> None:
        environment = {
            "MODELYARD_HOME": str(self.home),
            "MODELYARD_URL": self.registry_url,
            **(dict.fromkeys(TOKENS, self.token) if self.token else {}),
            **self.environment,
        }
        self.registry = Server(
            "registry",
            ["registry.cli", "serve", "--port", str(self.registry_port)],
            environment,
            f"{self.registry_url}/readyz",
            self.home / "registry.log",
        )
        models = [argument for reference in self.follow for argument in ("--model", reference)]
        self.adapter = Server(
            "adapter",
            ["serving_adapter.cli", "--port", str(self.adapter_port), *models],
            environment,
            f"{self.adapter_url}/v2/health/live",
            self.home / "adapter.log",
        )

    def client(self) -> modelyard.Client:
        """A client of the registry, with its token."""
        return modelyard.Client(self.registry_url, self.token)

    @property
    def registry_url(self) -> str:
        return f"http://127.0.0.1:{self.registry_port}"

    @property
    def adapter_url(self) -> str:
        return f"http://127.0.0.1:{self.adapter_port}"

    def __enter__(self) -> Self:
        try:
            self.registry.start()
            self.adapter.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop both, the adapter first."""
        self.adapter.stop()
        self.registry.stop()


def is_answering(url: str) -> bool:
    """Whether GET `url` is answered with 200."""
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback URL
            return bool(answer.status == 200)
    except HTTPError as answer:
        answer.close()
        return False
    except (URLError, OSError):
        return False


def up(registry_port: int = 7070, adapter_port: int = 8080) -> None:
    """Start both and leave them running."""
    if _running():
        print("Already running (`make down` stops it).")
    else:
        stack = Stack(RUN, registry_port, adapter_port, token="")
        _remember([stack.registry.start(detached=True)])
        _let_user_in()
        try:
            _remember([*_pids(), stack.adapter.start(detached=True)])
        except NotStarted:
            down()
            raise
    print(USAGE.format(registry=registry_port, adapter=adapter_port, logs=RUN))


def down() -> None:
    """Stop what `up` started."""
    for pid in reversed(_running()):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _running():
        if time.monotonic() > deadline:
            raise NotStarted(f"processes {_running()} do not stop; see the logs in {RUN}")
        time.sleep(0.05)
    _remember([])
    print("Stopped.")


USAGE = """
  registry   http://127.0.0.1:{registry}    API description at /docs
  adapter    http://127.0.0.1:{adapter}    follows `production` of every model; /status says what it serves

  Try it:
    .venv/bin/python -m examples.house_price              train, register, promote, predict, compare
    .venv/bin/modelyard ls                                what is registered
    curl -s http://127.0.0.1:{adapter}/v2/models          what is served
  Data and logs are in {logs}. `make down` stops both.
"""


def _let_user_in() -> None:
    """Put the token that the registry has left for its user where this user's SDK looks for it."""
    left = RUN / "local.json"
    home = Path(os.environ.get("MODELYARD_HOME") or Path.home() / ".modelyard")
    there = home / "local.json"
    if not left.exists():
        return
    # That of a registry elsewhere on this machine stays.
    if not there.exists() or json.loads(there.read_text())["url"] == json.loads(left.read_text())["url"]:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy(left, there)  # with its permissions: nobody else's


def _remember(pids: Sequence[int]) -> None:
    RUN.mkdir(exist_ok=True)
    (RUN / "pids.json").write_text(json.dumps(list(pids)))


def _pids() -> list[int]:
    try:
        return list(json.loads((RUN / "pids.json").read_text()))
    except FileNotFoundError:
        return []


def _running() -> list[int]:
    return [pid for pid in _pids() if _is_ours(pid)]


def _is_ours(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc on this system
        return True
    # Process ids come round again: another program may have this one by now. A process that has ended has no command.
    return b"registry.cli" in command or b"serving_adapter.cli" in command


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1] if len(sys.argv) > 1 else "up"]()
    except NotStarted as failure:
        sys.exit(f"error: {failure}")
