"""docs/governance.md tells the truth: its policy can be set, and its commands do what it says, one after the other."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from registry.checks import KINDS
from tests.guides import blocks, page, shell
from tests.servers.app import TOKEN
from tests.servers.registry import Registry

GUIDE = page("governance.md")


def test_its_commands_give_what_it_says(start_registry: Callable[..., Registry], tmp_path: Path) -> None:
    script = "".join(block.text for block in blocks(GUIDE))
    told = shell(script, tmp_path, MODELYARD_URL=start_registry().url, MODELYARD_TOKEN=TOKEN)
    for expected in (
        "It would become a request that needs 1 approval.",
        "fraud/1 was not promoted yet: request 1 has to be approved",
        "State done",
        "fraud/1 was not promoted yet: request 2 waits for its time",
        "Version fraud/1",
        "withdrawn",
        "fraud is frozen.\nfraud is not frozen.",
        "better on the test set",
    ):
        assert expected in re.sub(" +", " ", told), (expected, told)
    assert json.loads((tmp_path / "policy.json").read_text())["rollback_by"] == ["role:promoter"]


def test_every_kind_of_check_is_there() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, flags=re.MULTILINE)) == set(KINDS)
