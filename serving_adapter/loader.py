"""The loader: tries a candidate in a child process before the adapter lets it near a request.

check(candidate) ──▶ the fork server (loader_child.py) ──fork──▶ child ──▶ accepted
                                                                      └──▶ CandidateRejected: it said no, raised, crashed,
                                                                           exited, or did not finish in time
The fork server is started at once, in the background, so that it is warm when the first promotion comes; if it dies it
is started again. It sees neither the adapter's token nor its working directory.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import msgspec

from serving_adapter.candidate import Candidate
from serving_adapter.errors import CandidateRejected, LoaderBroken
from serving_adapter.loader_child import Message, Task

# The path list comes from us rather than from PYTHONPATH or the working directory, which -I switches off.
_BOOT = """
import json, sys
fd, paths, runtimes = json.loads(sys.argv[1])
sys.path[:] = paths
from serving_adapter.loader_child import main
main(fd, runtimes)
"""
# Allowed by name: a token or a cloud credential that the adapter holds must not be in reach of a candidate.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_START_TIMEOUT_S = 120.0  # importing scikit-learn and skops from a cold disk
_STOP_TIMEOUT_S = 5.0
_AT_A_TIME = 4  # candidates; more would only slow each other down


class Loader:
    """Starts the fork server, hands it candidates, and understands how they ended."""

    def __init__(self, runtimes: Iterable[str], *, timeout_s: float, memory_bytes: int) -> None:
        self._runtimes = list(runtimes)
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_AT_A_TIME)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Start the fork server; it warms up by itself."""
        with self._lock:
            self._ensure()

    def check(self, candidate: Candidate) -> None:
        """Return if the candidate loads and answers its example in a child.

        Raises CandidateRejected otherwise, and LoaderBroken when the loader, not the candidate, is at fault.
        """
        task = Task(candidate, self._timeout_s, self._memory_bytes)
        with self._room, self._converse() as conversation:
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # it is gone; the answers below say why
                conversation.sendall(msgspec.json.encode(task) + b"\n")
            with contextlib.closing(_answers(conversation)) as answers:
                self._await_verdict(conversation, answers)

    def close(self) -> None:
        """End the fork server and every child."""
        with self._lock:
            self._closed = True
            self._drop()

    def _await_verdict(self, conversation: socket.socket, answers: Iterator[Message]) -> None:
        pid = _child(answers)
        conversation.settimeout(self._timeout_s)
        try:
            for answer in answers:
                if answer.accepted:
                    return
                _raise_if_bad(answer)
        except TimeoutError as error:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise CandidateRejected("load", f"loading did not finish within {self._timeout_s:g} s") from error

    @contextlib.contextmanager
    def _converse(self) -> Iterator[socket.socket]:
        """A socket whose other end the fork server gives to a new child."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send(theirs)
            ours.settimeout(_START_TIMEOUT_S)
            yield ours

    def _send(self, conversation: socket.socket) -> None:
        with self._lock:
            try:
                socket.send_fds(self._ensure(), [b"+"], [conversation.fileno()])
            except OSError:
                self._drop()  # it has died since the last candidate: once more, with a new one
                socket.send_fds(self._ensure(), [b"+"], [conversation.fileno()])

    def _ensure(self) -> socket.socket:
        if self._closed:
            raise LoaderBroken("the adapter is stopping")
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = self._spawn(theirs)
        return self._control

    def _spawn(self, control: socket.socket) -> subprocess.Popen[bytes]:
        settings = json.dumps(
            [control.fileno(), [path or str(Path.cwd()) for path in sys.path], self._runtimes]
        )
        return subprocess.Popen(  # noqa: S603 - our own interpreter and code, no shell
            [sys.executable, "-I", "-c", _BOOT, settings],
            pass_fds=[control.fileno()],
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ONE_THREAD,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the adapter, which then ends this in order
        )

    def _drop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            _end(self._process)
            self._process = None


def _answers(conversation: socket.socket) -> Generator[Message]:
    """What the fork server and the child say, until one of them hangs up; never ends without a verdict."""
    with conversation.makefile("rb") as lines, contextlib.suppress(ConnectionResetError):
        for line in lines:
            yield msgspec.json.decode(line, type=Message)
    raise LoaderBroken("the loader's process ended while it tried a candidate")


def _child(answers: Iterator[Message]) -> int:
    """The child's process id, which it says first."""
    try:
        hello = next(answers)
    except TimeoutError as error:
        raise LoaderBroken("the loader's process did not start in time") from error
    if hello.pid is None:
        raise LoaderBroken("the loader's process ended before it tried the candidate")
    return hello.pid


def _raise_if_bad(answer: Message) -> None:
    if answer.rejected is not None:
        raise CandidateRejected(answer.phase or "load", answer.rejected)
    if answer.exit is not None:
        raise CandidateRejected("load", f"the process that loaded it {_ending(answer.exit)}")


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exited with code {exit_code} instead of answering"
    return f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
