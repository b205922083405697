"""Each call to the database and the store fails once, or from then on; each operation still takes effect exactly once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability import flow
from tests.reliability.world import World, opened

STRIDE = int(os.environ.get("MODELYARD_FAULT_STRIDE", "37"))
"""Every how manieth call is made to fail; `make soak` sets 1. Each way of failing begins at another one."""


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(database_url, tmp_path, monkeypatch) as world:
        yield world


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "until-healed"])
@pytest.mark.parametrize("after", [False, True], ids=["before-it-took-effect", "after"])
def test_whatever_fails_each_operation_takes_effect_once(world: World, *, after: bool, lasting: bool) -> None:
    for model in ("first", "reference"):  # the first life connects, and brings the bytes that all share
        world.faults.arm(0, after=False, lasting=False)
        flow.live(world, model)
    calls, reference = world.faults.calls, world.events("reference")
    assert calls > 200
    for at in range(1 + 2 * after + 4 * lasting, calls + 1, STRIDE):
        model = f"m{at}"
        world.faults.arm(at, after=after, lasting=lasting)
        flow.live(world, model)
        assert world.faults.failed, at
        world.faults.heal()
        assert world.events(model) == reference, at
        if at % 5 == 0:
            world.require_sound()
    world.require_nothing_leaked()
