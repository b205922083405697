"""What is shipped: both wheels, built here, hold what they need and nothing impolite."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(project: Path, out: Path) -> set[str]:
    """Build a wheel without network or isolation; returns the names of its files."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        return set(content.namelist())


def test_the_servers_wheel_carries_its_migrations_inside_a_package(tmp_path: Path) -> None:
    files = build(ROOT, tmp_path)
    assert "registry/migrations/versions/0001_spine.py" in files
    assert "registry/migrations/env.py" in files
    top = {name.partition("/")[0] for name in files if ".dist-info" not in name}
    assert top == {"registry", "storage", "serving_adapter"}


@pytest.mark.parametrize("module", ["modelyard/__init__.py", "modelyard/cli.py", "modelyard/py.typed"])
def test_the_sdks_wheel_is_the_sdk_alone(tmp_path: Path, module: str) -> None:
    files = build(ROOT / "sdk", tmp_path)
    assert module in files
    assert {name.partition("/")[0] for name in files if ".dist-info" not in name} == {"modelyard"}


def test_a_registry_installed_from_its_wheel_migrates(tmp_path: Path) -> None:
    """The wheel's own copy of the migrations is used, not the checkout's."""
    build(ROOT, tmp_path)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    ran = subprocess.run(
        [sys.executable, "-m", "registry.cli", "migrate", "--json"],
        cwd=site,
        env={"MODELYARD_HOME": str(tmp_path / "home"), "PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    *_, newest = sorted(path.name[:4] for path in ROOT.glob("migrations/versions/0*.py"))
    assert (ran.returncode, ran.stdout.strip()) == (0, f'{{"revision": "{newest}"}}'), ran.stderr
