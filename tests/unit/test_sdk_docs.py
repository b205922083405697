"""docs/sdk.md, docs/cli.md and the README of the distribution say what the code does."""

import inspect
from pathlib import Path

import modelyard
import pytest
from modelyard import Client, _shell, cli
from modelyard._manifest import manifest_digest

from tests.unit.sdk_fake import file_of

ROOT = Path(__file__).parents[2]
SDK = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
README = (ROOT / "sdk" / "README.md").read_text(encoding="utf-8")
METHODS = [
    name for name, value in vars(Client).items() if inspect.isfunction(value) and not name.startswith("_")
]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"close"}))
def test_a_method_is_documented_with_its_parameters(name: str) -> None:
    parameters = [
        each for each in inspect.signature(getattr(Client, name)).parameters.values() if each.name != "self"
    ]
    shown = ", ".join(
        ("*, " if p.kind is p.KEYWORD_ONLY and parameters[at - 1].kind is not p.KEYWORD_ONLY else "")
        + (f'{p.name}="{p.default}"' if isinstance(p.default, str) and p.default else p.name)
        for at, p in enumerate(parameters)
    )
    assert f"`{name}({shown})`" in SDK


def test_every_error_is_documented() -> None:
    things = {name: getattr(modelyard, name) for name in modelyard.__all__}
    errors = {
        name for name, value in things.items() if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert {name for name in errors if f"`{name}`" not in SDK} == set()


def test_the_manifest_that_is_shown_has_the_digest_that_is_shown() -> None:
    files = [file_of("a.bin", b"hello"), file_of("b/ü.txt", b"")]
    assert manifest_digest(files) in SDK
    assert all(each.digest in SDK for each in files)


@pytest.mark.parametrize("name", cli.app.commands)
def test_a_command_is_documented_with_its_options(name: str) -> None:
    assert f"`modelyard {name}" in CLI
    row = next(line for line in CLI.splitlines() if line.startswith(f"| `modelyard {name}"))
    options = [each.opts[-1] for each in cli.app.commands[name].params if each.param_type_name == "option"]
    assert [option for option in options if option not in row and option != "--json"] == []


def test_every_hint_names_a_command_that_exists() -> None:
    for hint in _shell.HINTS.values():
        assert hint.partition("`modelyard ")[2].partition(" ")[0].strip("`") in cli.app.commands


def test_the_readme_counts_its_dependencies() -> None:
    assert "three dependencies\n(click, httpx2, rich)" in README
