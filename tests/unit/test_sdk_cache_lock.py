"""Locks between processes: what happens to files that vanish, and to descriptors that others share."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard import _cache_lock
from modelyard._cache_lock import Hold, is_free, locked, locked_if_free


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Descriptors that stay open, as they would in a child forked while the lock was held."""
    copies: list[int] = []
    lock = _cache_lock._lock

    def copying(descriptor: int, *, wait: bool) -> bool:
        copies.append(os.dup(descriptor))
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(_cache_lock, "_lock", copying)
    yield copies
    for copy in copies:
        os.close(copy)


def test_one_at_a_time(path: Path) -> None:
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait(30)
        with locked(path):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(path):
        inside.set()
        with locked_if_free(path) as got:
            assert not got
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert is_free(path)


def test_a_lock_on_a_removed_file_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = _cache_lock._lock, []

    def remove_first(descriptor: int, *, wait: bool) -> bool:
        if not removed:  # as if whoever had the lock removed the file before it let go
            removed.append(path.unlink())
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(_cache_lock, "_lock", remove_first)
    with locked(path):
        assert path.exists()
        assert not is_free(path)
    removed.clear()
    with locked_if_free(path) as got:
        assert not got
    with locked_if_free(path) as got:
        assert not got


@pytest.mark.usefixtures("shared")
def test_a_forked_child_keeps_no_lock(path: Path) -> None:
    with locked(path):
        assert not is_free(path)
    assert is_free(path)


def test_a_forked_child_cannot_end_its_parents_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold.take(path)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        hold.close()
    assert not is_free(path)
    hold.close()


@pytest.mark.usefixtures("shared")
def test_a_hold_ends_with_close(path: Path) -> None:
    hold = Hold.take(path)
    assert not is_free(path)
    hold.close()
    assert not path.exists()
    path.touch()
    with pytest.raises(FileExistsError):
        Hold.take(path)
