"""The README tells the truth: its example runs, its commands exist, its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import modelyard

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_leaves_a_version_in_production(registry_url: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = [line for line in example.splitlines() if line and not line.startswith("#")]
    assert len(code) <= 12
    environment = {**os.environ, "MODELYARD_URL": registry_url, "MODELYARD_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    with modelyard.Client(registry_url) as client:
        assert client.resolve("cancer@production").format == "sklearn-skops"


def test_its_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) - {"and"} <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "sdk" / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_settings_reference_lists_every_setting() -> None:
    from registry.settings import Settings

    reference = (ROOT / "docs" / "registry.md").read_text()
    documented = set(re.findall(r"`MODELYARD_REGISTRY_(\w+)`", reference))
    assert documented == {name.upper() for name in Settings.model_fields} - {"HOME"}


def test_the_error_reference_lists_every_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "registry").rglob("*.py"))
    reference = (ROOT / "docs" / "registry.md").read_text()
    ours = set(re.findall(r'code = "(\w+)"', source)) - {"registry_error", "conflict", "unavailable"}
    assert {code for code in ours if f"`{code}`" not in reference} == set()
