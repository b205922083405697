import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import modelyard
import pytest
from modelyard import Client, _default

SDK = Path(__file__).parents[2] / "sdk"
HEAVY = {"httpx2", "click", "rich", "numpy", "sklearn", "onnx", "onnxruntime", "skops", "pandas"}
FOREIGN = {
    "fastapi",
    "starlette",
    "sqlalchemy",
    "boto3",
    "botocore",
    "pydantic",
    "registry",
    "storage",
    "serving_adapter",
}


def test_the_public_list_is_sorted_complete_and_true() -> None:
    assert modelyard.__all__ == sorted(modelyard.__all__)
    assert all(hasattr(modelyard, name) for name in modelyard.__all__)
    visible = {name for name in vars(modelyard) if not name.startswith("_")} - {"cli"}
    assert visible == set(modelyard.__all__) - {"__version__"}


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert modelyard.__version__ == project["version"]


def _modules_after(code: str) -> set[str]:
    printed = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_the_package_imports_nothing_heavy_and_no_server() -> None:
    assert not _modules_after("import modelyard") & (HEAVY | FOREIGN)


def test_using_a_client_imports_no_server_and_no_machine_learning() -> None:
    assert not _modules_after("import modelyard; modelyard.Client()") & (
        HEAVY - {"httpx2", "click", "rich"} | FOREIGN
    )


def test_importing_the_package_is_quick() -> None:
    """150 ms of processor time; what other programs do meanwhile does not count."""
    best = min(_import_ms() for _ in range(5))
    assert best < 150


def _import_ms() -> float:
    code = "import time; start = time.process_time(); import modelyard; print((time.process_time() - start) * 1000)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize(
    "name", [n for n, f in vars(_default).items() if inspect.isfunction(f) and n[0] != "_"]
)
def test_a_function_of_the_module_has_the_signature_of_the_method(name: str) -> None:
    method = inspect.signature(getattr(Client, name))
    expected = method.replace(parameters=[each for each in method.parameters.values() if each.name != "self"])
    assert inspect.signature(getattr(modelyard, name)) == expected


def test_every_method_has_a_function_of_the_module() -> None:
    methods = {n for n, f in vars(Client).items() if inspect.isfunction(f) and not n.startswith("_")} - {
        "close"
    }
    assert methods == {
        n for n, f in vars(_default).items() if inspect.isfunction(f) and not n.startswith("_")
    }


def test_every_public_thing_is_documented() -> None:
    undocumented = [name for name in modelyard.__all__ if not inspect.getdoc(getattr(modelyard, name))]
    assert undocumented == []


def test_the_error_tree_that_is_drawn_is_the_tree_that_there_is() -> None:
    drawn = inspect.getdoc(inspect.getmodule(modelyard.ApiError)) or ""
    classes = [
        each for each in vars(modelyard).values() if inspect.isclass(each) and issubclass(each, Exception)
    ]
    for each in classes:
        assert each.__name__ in drawn
        assert issubclass(each, (modelyard.ModelyardError, modelyard.CaptureWarning))
