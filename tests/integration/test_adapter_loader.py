"""The loader's child, for real: whatever a candidate does there, the adapter's process is told and lives on."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_adapter.candidate import Candidate
from serving_adapter.errors import CandidateRejected, LoaderBroken
from serving_adapter.loader import Loader
from tests.servers.adapter import adding_onnx, descendants, write_example
from tests.servers.adapter_runtime import FORMATS
from tests.servers.ports import wait_until

ONNX = "serving_adapter.runtimes.onnx"
GIB = 2**30


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    running = Loader([*FORMATS.values(), ONNX], timeout_s=20, memory_bytes=4 * GIB)
    running.start()
    yield running
    running.close()


@pytest.fixture
def impatient() -> Iterator[Loader]:
    running = Loader([*FORMATS.values()], timeout_s=0.5, memory_bytes=4 * GIB)
    yield running
    running.close()


def scripted(folder: Path, script: dict[str, Any], *, y: float | None = None) -> Candidate:
    (folder / "model.json").write_text(json.dumps(script))
    if y is not None:
        write_example(folder, y)
    example = None if y is None else "example.json"
    return Candidate(str(folder), "model.json", FORMATS["scripted"], example)


def fork_server(loader: Loader) -> int:
    assert loader._process is not None
    return loader._process.pid


def children(loader: Loader) -> set[int]:
    """The processes in which candidates are being tried."""
    return descendants(fork_server(loader))


def test_a_good_candidate_is_accepted(loader: Loader, tmp_path: Path) -> None:
    loader.check(scripted(tmp_path, {"answer": 3}, y=3))


def test_a_good_onnx_model_is_accepted(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(adding_onnx(2))
    write_example(tmp_path, 3)
    loader.check(Candidate(str(tmp_path), "model.onnx", ONNX, "example.json"))


@pytest.mark.parametrize(
    ("script", "phase", "expected"),
    [
        ({"load": "raise"}, "load", "raised RuntimeError: this model does not want to be loaded"),
        ({"load": "exit"}, "load", "exited with code 3 instead of answering"),
        ({"load": "segfault"}, "load", r"was ended by signal 11 \(Segmentation fault\)"),
        ({"load": "memory"}, "load", "emory"),
        ({"answer": "raise"}, "example", r"the model failed on this input \(ValueError\)"),
        ({"answer": "nan"}, "example", "output 'y' is not finite"),
        ({"answer": "shape"}, "example", "output 'y' must be FP64 of shape"),
        ({"answer": "type"}, "example", "output 'y' must be FP64"),
        ({"answer": "nothing"}, "example", "without the output 'y'"),
        ({"answer": 3.1}, "example", "differs from what was recorded: 3.1 instead of 3.0"),
    ],
)
def test_a_bad_candidate_is_rejected_in_words(
    loader: Loader, tmp_path: Path, script: dict[str, Any], phase: str, expected: str
) -> None:
    with pytest.raises(CandidateRejected, match=expected) as caught:
        loader.check(scripted(tmp_path, script, y=3))
    assert caught.value.phase == phase
    assert str(tmp_path) not in str(caught.value)
    loader.check(scripted(tmp_path, {"answer": 3}, y=3))


def test_a_small_difference_is_only_rounding(loader: Loader, tmp_path: Path) -> None:
    loader.check(scripted(tmp_path, {"answer": 3.001}, y=3))


@pytest.mark.parametrize("content", [b"", b"\x00garbage" * 100, adding_onnx(2)[:-20]])
def test_garbage_is_rejected(loader: Loader, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CandidateRejected):
        loader.check(Candidate(str(tmp_path), "model.onnx", ONNX))


@pytest.mark.parametrize("example", ["{}", "[", '{"inputs":[],"outputs":[]}', '{"inputs":5,"outputs":[]}'])
def test_an_example_that_cannot_be_used_is_rejected(loader: Loader, tmp_path: Path, example: str) -> None:
    candidate = scripted(tmp_path, {"answer": 3}, y=3)
    (tmp_path / "example.json").write_text(example)
    with pytest.raises(CandidateRejected) as caught:
        loader.check(candidate)
    assert caught.value.phase == "example"


def test_a_runtime_that_is_not_there_is_rejected(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(CandidateRejected, match="No module named 'no_such_runtime'"):
        loader.check(Candidate(str(tmp_path), "model", "no_such_runtime"))


def test_a_candidate_that_hangs_is_ended(impatient: Loader, tmp_path: Path) -> None:
    with pytest.raises(CandidateRejected, match=r"did not finish within 0\.5 s"):
        impatient.check(scripted(tmp_path, {"load": "hang"}))
    # Sooner than its own alarm, which is there in case nobody ends it.
    wait_until(lambda: not children(impatient), timeout_s=3, what="the child to be gone")
    impatient.check(scripted(tmp_path, {"answer": 1}))


def test_candidates_are_tried_side_by_side(loader: Loader, tmp_path: Path) -> None:
    """A slow one does not hold up a quick one."""
    (tmp_path / "slow").mkdir()
    slow = threading.Thread(
        target=loader.check, args=(scripted(tmp_path / "slow", {"answer": 1, "load_s": 3}),)
    )
    slow.start()
    loader.check(scripted(tmp_path, {"answer": 1}))
    assert slow.is_alive()
    slow.join()


def test_a_candidate_sees_neither_our_secrets_nor_our_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    loader = Loader([], timeout_s=20, memory_bytes=GIB)
    try:
        with pytest.raises(CandidateRejected, match="cwd=/ variables=") as caught:
            loader.check(scripted(tmp_path, {"load": "environment"}))
    finally:
        loader.close()
    assert "MODELYARD" not in str(caught.value)
    assert "AWS" not in str(caught.value)


def test_a_killed_fork_server_is_started_again(tmp_path: Path) -> None:
    loader = Loader([], timeout_s=20, memory_bytes=GIB)
    try:
        loader.check(scripted(tmp_path, {"answer": 1}))
        first = fork_server(loader)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        loader.check(scripted(tmp_path, {"answer": 1}))
        assert fork_server(loader) != first
    finally:
        loader.close()


class Hanging:
    """A candidate that hangs in its child; `outcome` is what the loader says about it in the end."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.outcome: list[Exception] = []
        self._loader = loader
        self._candidate = scripted(folder, {"load": "hang"})
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(self._has_begun, timeout_s=30, what="the child")

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _has_begun(self) -> bool:
        return self._loader._process is not None and bool(children(self._loader))

    def _run(self) -> None:
        try:
            self._loader.check(self._candidate)
        except (CandidateRejected, LoaderBroken) as error:
            self.outcome.append(error)


def test_when_the_loader_dies_the_candidate_is_not_blamed(tmp_path: Path) -> None:
    """It may be tried again: nothing is known about it. And its child is gone too."""
    loader = Loader([], timeout_s=20, memory_bytes=GIB)
    try:
        hanging = Hanging(loader, tmp_path)
        orphans = children(loader)
        os.kill(fork_server(loader), signal.SIGKILL)
        hanging.join()
    finally:
        loader.close()
    assert [type(error) for error in hanging.outcome] == [LoaderBroken]
    wait_until(lambda: not orphans & descendants(1), timeout_s=10, what="the child to be gone")


def test_closing_ends_every_child(tmp_path: Path) -> None:
    loader = Loader([], timeout_s=60, memory_bytes=GIB)
    hanging = Hanging(loader, tmp_path)
    processes = {fork_server(loader), *children(loader)}
    loader.close()
    hanging.join()
    assert [type(error) for error in hanging.outcome] == [LoaderBroken]
    wait_until(lambda: not processes & descendants(1), timeout_s=10, what="every child to be gone")
    with pytest.raises(LoaderBroken, match="stopping"):
        loader.check(scripted(tmp_path, {"answer": 1}))


def test_no_child_is_left_and_nothing_is_open_after_many_candidates(loader: Loader, tmp_path: Path) -> None:
    def state() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(children(loader))

    candidate = scripted(tmp_path, {"answer": 1})
    loader.check(candidate)
    wait_until(lambda: not children(loader), timeout_s=10, what="the child to be reaped")
    before = state()
    for _ in range(30):
        loader.check(candidate)
    wait_until(lambda: state() == before, timeout_s=10, what="everything to be as before")
