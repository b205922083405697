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
    with pytest.raises(CandidateRejected, match="did not finish within 0.5 s"):
        impatient.check(scripted(tmp_path, {"load": "hang"}))
    wait_until(lambda: len(descendants(os.getpid())) <= 2, timeout_s=10, what="the child to be gone")
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
    before = descendants(os.getpid())
    try:
        loader.check(scripted(tmp_path, {"answer": 1}))
        for pid in descendants(os.getpid()) - before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not descendants(os.getpid()) - before, timeout_s=10, what="the fork server to die")
        loader.check(scripted(tmp_path, {"answer": 1}))
    finally:
        loader.close()


def test_when_the_loader_dies_the_candidate_is_not_blamed(tmp_path: Path) -> None:
    """It may be tried again: nothing is known about it."""
    loader = Loader([], timeout_s=20, memory_bytes=GIB)
    before = descendants(os.getpid())
    outcome: list[BaseException] = []

    def check() -> None:
        try:
            loader.check(scripted(tmp_path, {"load": "hang"}))
        except LoaderBroken as error:
            outcome.append(error)

    try:
        thread = threading.Thread(target=check)
        thread.start()
        wait_until(lambda: len(descendants(os.getpid()) - before) == 2, timeout_s=30, what="the child")
        os.kill(min(descendants(os.getpid()) - before), signal.SIGKILL)
        thread.join(20)
    finally:
        loader.close()
    assert outcome
    assert not descendants(os.getpid()) - before


def test_closing_ends_every_child(tmp_path: Path) -> None:
    loader = Loader([], timeout_s=60, memory_bytes=GIB)
    before = descendants(os.getpid())
    hanging = threading.Thread(target=lambda: pytest.raises(LoaderBroken, loader.check, candidate))
    candidate = scripted(tmp_path, {"load": "hang"})
    hanging.start()
    wait_until(lambda: len(descendants(os.getpid()) - before) == 2, timeout_s=30, what="the child")
    loader.close()
    hanging.join(20)
    wait_until(lambda: not descendants(os.getpid()) - before, timeout_s=10, what="every child to be gone")
    with pytest.raises(LoaderBroken, match="stopping"):
        loader.check(candidate)


def test_no_child_is_left_and_nothing_is_open_after_many_candidates(loader: Loader, tmp_path: Path) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid()))

    candidate = scripted(tmp_path, {"answer": 1})
    loader.check(candidate)
    wait_until(lambda: len(descendants(os.getpid())) == 1, timeout_s=10, what="the child to be reaped")
    before = state()
    for _ in range(30):
        loader.check(candidate)
    wait_until(lambda: state() == before, timeout_s=10, what="everything to be as before")
