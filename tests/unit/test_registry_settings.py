"""Where the registry's settings come from."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from registry.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MODELYARD_HOME", raising=False)


def test_everything_lives_in_one_directory_of_the_user(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.home == tmp_path / ".modelyard"
    assert settings.database_url == f"sqlite:///{tmp_path}/.modelyard/registry.db"
    assert settings.storage_url == f"file://{tmp_path}/.modelyard/blobs"


def test_the_directory_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", "/srv/modelyard")
    assert Settings().database_url == "sqlite:////srv/modelyard/registry.db"
    assert Settings(home=Path("/elsewhere")).home == Path("/elsewhere")


def test_variables_are_prefixed_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_REGISTRY_PORT", "7171")
    monkeypatch.setenv("PORT", "1")
    assert Settings().port == 7171
    monkeypatch.setenv("MODELYARD_REGISTRY_PORT", "x")
    with pytest.raises(ValidationError):
        Settings()
