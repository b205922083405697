"""The process in which candidates are tried. It imports what runtimes need, then forks once per candidate.

    adapter ──control socket: one socket per candidate──▶ this process   never opens a candidate's file
       ▲                                                       │ fork
       │                                                       ▼
       └────────────candidate's socket──────────────────── child: limits, load, rehearse, answer, _exit

Importing scikit-learn and skops takes seconds, forking takes milliseconds: a promotion does not wait for an import,
and requests do not lose a core to one. A candidate that crashes, hangs, exits or eats its memory ends its own child.

On a candidate's socket, one JSON message per line:

    adapter -> child     Task
    child -> adapter     {"pid": …}, then {"accepted": true}  or  {"phase": …, "rejected": …}
    this -> adapter      {"exit": …} when the child has ended: its code, or minus its signal

When the control socket closes, which it does even when the adapter is killed, this process ends, and with it (on
Linux) whatever children are left. Elsewhere they end with their time limit.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from serving_adapter.candidate import Candidate, load, rehearse
from serving_adapter.errors import CandidateRejected

_PR_SET_PDEATHSIG = 1
# A child that its time limit did not end (a blocked signal) is ended by the adapter; this is for when that is gone.
_GRACE_S = 5


class Task(msgspec.Struct, frozen=True):
    """One candidate, and what its child may use: wall-clock seconds, and bytes beyond what is mapped at the start."""

    candidate: Candidate
    timeout_s: float
    memory_bytes: int


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Anything that is said about a candidate on its socket."""

    pid: int | None = None
    accepted: bool = False
    phase: str | None = None
    rejected: str | None = None
    exit: int | None = None


def main(control_fd: int, runtimes: Iterable[str]) -> None:
    """Serve until the control socket closes."""
    with socket.socket(fileno=control_fd) as control:
        _ForkServer(control, runtimes).serve()


class _ForkServer:
    """Forks on request and reports how each child ended."""

    def __init__(self, control: socket.socket, runtimes: Iterable[str]) -> None:
        self._control = control
        self._to_import = deque(runtimes)
        self._children: dict[int, socket.socket] = {}
        self._open = True

    def serve(self) -> None:
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as ready:
            ready.register(self._control, selectors.EVENT_READ, self._accept)
            ready.register(woken, selectors.EVENT_READ, lambda: self._reap(woken))
            while self._open:
                events = ready.select(timeout=0 if self._to_import else None)
                for key, _ in events:
                    react: Callable[[], None] = key.data
                    react()
                if not events and self._to_import:
                    self._import(self._to_import.popleft())

    def _import(self, runtime: str) -> None:
        """One at a time, while nobody waits: an ONNX model at the start need not wait for scikit-learn."""
        with contextlib.suppress(
            ImportError
        ):  # its library is not installed; candidates that need it are told so
            importlib.import_module(runtime)
        gc.freeze()  # what is shared with the children stays shared: their collectors do not touch it

    def _accept(self) -> None:
        message, fds, _, _ = socket.recv_fds(self._control, 1, 1)
        if not message:
            self._open = False
            return
        conversation = socket.socket(fileno=fds[0])
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(conversation, parent)
        self._children[pid] = conversation

    def _become_child(self, conversation: socket.socket, parent: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (self._control, *self._children.values()):
                inherited.close()
            _tie_to(parent)
            _mute()
            # said here and not by the parent, whom a quick child would overtake
            _say(conversation, Message(pid=os.getpid()))
            _try_candidate(conversation)
        finally:
            # No handlers, no buffers, no destructors: all of them belong to the process that forked.
            os._exit(0)

    def _reap(self, woken: socket.socket) -> None:
        woken.recv(4096)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._children.pop(pid) as conversation:
                _say(conversation, Message(exit=os.waitstatus_to_exitcode(status)))


def _try_candidate(conversation: socket.socket) -> None:
    with conversation.makefile("rb") as lines:
        task = msgspec.json.decode(lines.readline(), type=Task)
    _limit(task)
    try:
        rehearse(load(task.candidate), task.candidate)
    except CandidateRejected as error:
        verdict = Message(phase=error.phase, rejected=str(error))
    except MemoryError:
        verdict = Message(
            phase="load", rejected=f"loading takes more than {task.memory_bytes} bytes of memory"
        )
    except BaseException as error:  # noqa: BLE001 - SystemExit too: whatever leaves the candidate is about the candidate
        verdict = Message(phase="load", rejected=f"loading raised {type(error).__name__}")
    else:
        verdict = Message(accepted=True)
    _say(conversation, verdict)


def _say(conversation: socket.socket, message: Message) -> None:
    # The adapter hangs up once it knows enough.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        conversation.sendall(msgspec.json.encode(message) + b"\n")


def _tie_to(parent: int) -> None:
    """Die when the parent does, by whatever means."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _mute() -> None:
    """What a candidate prints, or a library prints about it, is not the adapter's log."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)


def _limit(task: Task) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _mapped_bytes() + task.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.setitimer(signal.ITIMER_REAL, task.timeout_s + _GRACE_S)


def _mapped_bytes() -> int:
    """Address space that the imports already take, on Linux; elsewhere it is not told, and counts as nothing."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a Path would be ceremony here
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
