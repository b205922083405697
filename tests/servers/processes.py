"""Child processes that cannot outlive the test session."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class Daemons:
    """Long-running children started one after the other; `stop` kills them all, latest first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        with self._log_of(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                [*_leash(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest, which stops these in order
            )

    def require_alive(self) -> None:
        """RuntimeError with the end of its log if one of the children has ended by itself."""
        for name, child in self._children.items():
            if child.poll() is not None:
                log = self._log_of(name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended with status {child.returncode}:\n{log}")

    def stop(self) -> None:
        """SIGKILL: the data are thrown away, so there is nothing to shut down gently."""
        for child in reversed(self._children.values()):
            child.kill()
            child.wait()

    def _log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"


@contextmanager
def daemons(logs: Path) -> Iterator[Daemons]:
    running = Daemons(logs)
    try:
        yield running
    finally:
        running.stop()


def _leash() -> list[str]:
    """Linux kills the child when pytest itself is killed and runs no teardown."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
