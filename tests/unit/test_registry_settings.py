"""Where the registry's settings come from."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from registry.cli import main
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


ISSUER = {"name": "acme", "issuer": "https://login.acme.example", "client_id": "modelyard"}
PUBLIC = {"host": "192.0.2.1", "secret_key": "k" * 32}


def with_issuers(*issuers: dict[str, Any], **others: Any) -> Settings:
    return Settings(oidc=issuers, **others)  # type: ignore[arg-type]  # as from the environment


def test_identity_providers_are_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_REGISTRY_OIDC", json.dumps([ISSUER | {"client_secret": "s3cret-value"}]))
    settings = Settings()
    [issuer] = settings.oidc
    assert (issuer.name, issuer.audience, issuer.create_people) == ("acme", None, False)
    assert issuer.client_secret is not None
    assert "s3cret-value" not in repr(settings) + str(issuer)


def test_json_that_is_none_is_told_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_REGISTRY_OIDC", '[{"client_secret": "s3cret-value"')
    done = CliRunner().invoke(main, ["migrate"])
    assert done.exit_code == 1
    assert 'error parsing value for field "oidc"' in done.output
    assert "s3cret-value" not in done.output


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://login.acme.example"},
        {"issuer": "https://user:password@login.acme.example"},
        {"issuer": "https://login.acme.example?x=1"},
        {"issuer": "https://login.acme.example#x"},
        {"issuer": "https://login.acme.example:port"},
        {"issuer": "https://"},
        {"issuer": "login.acme.example"},
        {"issuer": "file:///etc"},
        {"issuer": "https://lögin.example"},
        {"issuer": "https://login.acme.example/\n"},
        {"name": "Acme"},
        {"name": ""},
        {"name": "../x"},
        {"client_id": None},
        {"client_id": "two words"},
        {"audience": "modelyard"},
        {"scopes": ["profile"]},
        {"groups": {"a": 1}},
        {"clientsecret": "s3cret-value"},
    ],
    ids=str,
)
def test_identity_providers_that_cannot_be(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_REGISTRY_OIDC", json.dumps([ISSUER | changes]))
    done = CliRunner().invoke(main, ["migrate"])
    assert done.exit_code == 1
    assert done.output.startswith("error: oidc.0")
    assert "s3cret-value" not in done.output


@pytest.mark.parametrize("changes", [{"name": "other"}, {"issuer": "https://other.example"}])
def test_two_identity_providers_are_told_apart(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="of its own"):
        with_issuers(ISSUER, ISSUER | changes)
    assert len(with_issuers(ISSUER, ISSUER | {"name": "o", "issuer": "https://o.example"}).oidc) == 2


def test_people_can_be_sent_back_only_to_an_address_that_is_known() -> None:
    with pytest.raises(ValidationError, match="MODELYARD_REGISTRY_PUBLIC_URL"):
        with_issuers(ISSUER, **PUBLIC)
    programs = {"name": "ci", "issuer": "https://ci.example", "audience": "x"}
    assert with_issuers(programs, **PUBLIC).public_url == ""
    assert with_issuers(ISSUER, **PUBLIC, public_url="https://m.example/").public_url == "https://m.example"
    assert with_issuers(ISSUER).public_url == "http://127.0.0.1:7070"
    assert with_issuers(ISSUER, host="::1").public_url == "http://[::1]:7070"
    with pytest.raises(ValidationError, match="expected https"):
        with_issuers(ISSUER, public_url="http://m.example")
