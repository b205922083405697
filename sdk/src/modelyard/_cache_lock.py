"""Locks on files. The operating system releases them when their process ends, however it ends.

locked(path): …           one at a time, over all processes and threads; others wait
locked_if_free(path)      the same without waiting
Hold.take(path)           kept until close(), or until the process is gone
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    _POLL_S = 0.05

    def _lock(descriptor: int, *, wait: bool) -> bool:
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def _close(descriptor: int) -> None:
        os.close(descriptor)

else:
    import fcntl

    def _lock(descriptor: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _close(descriptor: int) -> None:
        # Closing is not enough: a child that was forked meanwhile shares the lock, and may live long.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the lock on `path`, created if need be. Not reentrant: whoever asks twice waits for itself.

    Whoever has it may remove the file.
    """
    while True:
        with _open_locked(path, os.O_CREAT, wait=True) as got:
            if got:
                yield
                return


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Have the lock on `path`, or be told False when somebody else has it, or has just removed the file."""
    try:
        with _open_locked(path, 0, wait=False) as got:
            yield got
    except FileNotFoundError:
        yield False


def is_free(path: Path) -> bool:
    """Whether nobody has the lock on `path` at the moment."""
    with locked_if_free(path) as got:
        return got


@contextlib.contextmanager
def _open_locked(path: Path, flags: int, *, wait: bool) -> Iterator[bool]:
    descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        # Whoever had it may have removed the file: then this is the lock on a file that nobody else will find.
        yield _lock(descriptor, wait=wait) and _is_at(descriptor, path)
    finally:
        _close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock that stays until `close()`, or until this process and all children that it forked have ended."""

    _path: Path
    _descriptor: int
    _owner: int

    @classmethod
    def take(cls, path: Path) -> "Hold":
        """Create `path`, which must not exist, and lock it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _lock(descriptor, wait=True)
        return cls(path, descriptor, os.getpid())

    def close(self) -> None:
        """Let go; in a forked child it does nothing, since the lock is its parent's."""
        if os.getpid() != self._owner:
            return
        _close(self._descriptor)
        with contextlib.suppress(
            OSError
        ):  # where open files cannot be removed, somebody may be looking at it
            self._path.unlink()
