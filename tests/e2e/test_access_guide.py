"""docs/access.md tells the truth: its commands do what it says, from an empty registry to a workspace of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import modelyard
import pytest

from tests.guides import blocks, page, shell
from tests.servers.app import TOKEN
from tests.servers.registry import Registry

GUIDE = page("access.md")
PLACE = "http://models.example:7070"


@pytest.fixture
def public(start_registry: Callable[..., Registry]) -> Registry:
    """A registry that others can reach, with nobody in it."""
    return start_registry(environment={"MODELYARD_REGISTRY_HOST": "0.0.0.0"})  # noqa: S104 - for seconds


def test_its_commands_give_what_it_says(
    public: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_start, *rest = (block.text for block in blocks(GUIDE))
    assert "modelyard-registry serve --host 0.0.0.0" in to_start
    script = "".join(rest).replace(PLACE, public.url)
    assert script.count("TOKEN=…") == 1
    told = shell(script.replace("TOKEN=…", f"TOKEN={TOKEN}"), tmp_path)
    assert re.findall(r"Workspace +(\w+)", told) == ["acme"]

    login = re.findall(r"`(modelyard login .*? < kims-token)`", GUIDE)[0].replace(PLACE, public.url)
    monkeypatch.delenv("MODELYARD_TOKEN")
    told = shell(
        f"{login} > /dev/null; modelyard whoami --json; modelyard grant ls --json > grants", tmp_path
    )
    assert (json.loads(told)["name"], json.loads(told)["administrator"]) == ("kim", True)
    granted = json.loads((tmp_path / "grants").read_text())
    assert {(each["principal"] or each["group"], each["role"], each["pattern"]) for each in granted} == {
        ("risk", "owner", "fraud-*"),
        ("train-fraud", "publisher", "fraud-*"),
        ("release-fraud", "promoter", "fraud-*"),
        ("serve", "reader", "*"),
    }
    _starts_without_the_first_token(public, (tmp_path / "kims-token").read_text().strip(), monkeypatch)


def _starts_without_the_first_token(registry: Registry, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers to its public name."""
    registry.stop()
    monkeypatch.delenv("MODELYARD_REGISTRY_TOKEN")
    registry.start()
    headers = {"Host": "models.example:7070", "Authorization": f"Bearer {token}"}
    answer = httpx2.get(f"{registry.url}/api/v1/me", headers=headers, trust_env=False)
    assert (answer.status_code, answer.json().get("name")) == (200, "kim")
    with modelyard.Client(registry.url, TOKEN) as client, pytest.raises(modelyard.Unauthorized):
        client.info()


def test_its_roles_are_those_of_the_registry() -> None:
    from registry.access import ROLES, Permission

    columns = [Permission.READ, Permission.PUBLISH, Permission.PROMOTE, Permission.OWN, Permission.ADMIN]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", GUIDE, flags=re.MULTILINE)
    told = {
        role: {column for column, cell in zip(columns, cells.split("|"), strict=True) if cell.strip()}
        for role, cells in rows
    }
    # Whoever may read a model may say that they run it: the page has no column for that.
    assert told == {role: set(permissions) - {Permission.REPORT} for role, permissions in ROLES.items()}
    assert all(Permission.REPORT in permissions for permissions in ROLES.values())
