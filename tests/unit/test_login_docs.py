"""docs/login.md and docs/publish-from-ci.md say what the code does."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from registry import attempts, browser_login, exchange, login, oidc, oidc_jwks, oidc_keys, passwords
from registry.settings import Issuer, Settings
from registry.trusted import check_claims

DOCS = Path(__file__).parents[2] / "docs"
LOGIN = (DOCS / "login.md").read_text(encoding="utf-8")
CI = (DOCS / "publish-from-ci.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [LOGIN, CI])
def test_the_settings_that_are_shown_are_settings(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = re.findall(
        r"^export (MODELYARD_REGISTRY_\w+)='?(.*?)'?$(?=\n```|\nexport)", page, re.DOTALL | re.MULTILINE
    )
    assert any(name == "MODELYARD_REGISTRY_OIDC" for name, _ in shown)
    for name, value in shown:
        monkeypatch.setenv(name, value)
    settings = Settings(home=tmp_path)
    assert len(settings.oidc) == 1


def test_every_member_of_a_provider_is_explained() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", LOGIN, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(Issuer.model_fields) <= explained


def test_claims_that_are_shown_are_enough() -> None:
    given = re.findall(r'--claim "?([^"\s]+)"?', CI)
    assert len(given) == 2
    check_claims(dict(each.split("=", 1) for each in given))


def test_errors_that_are_explained_exist() -> None:
    source = "".join(path.read_text() for path in (DOCS.parent / "registry").rglob("*.py"))
    told = set(re.findall(r"^\| (?:\d+ )?`(\w+)` \|", LOGIN + CI, re.MULTILINE)) & set(
        re.findall(r"`(\w+_\w+)`", LOGIN + CI)
    )
    known = set(re.findall(r'code = "(\w+)"', source)) | set(Issuer.model_fields)
    assert told - known == set()


def test_numbers_are_those_of_the_code() -> None:
    assert (login.SESSION_S, exchange.LIFETIME_S) == (12 * 3600, 15 * 60)
    assert (
        attempts.Limit(10, timedelta(minutes=1)),
        attempts.Limit(50, timedelta(seconds=10)),
    ) == (attempts.PER_NAME, attempts.PER_ADDRESS)
    assert timedelta(days=30) == attempts.REMEMBERED
    assert (passwords.SHORTEST, passwords.LONGEST) == (12, 1024)
    assert (browser_login.LOGIN_S, browser_login.CODE_S) == (600, 60)
    assert (oidc.LEEWAY_S, oidc_keys.FRESH_S, oidc_keys.USABLE_S, oidc_keys.REFETCH_S) == (
        30,
        3600,
        24 * 3600,
        60,
    )
    assert {"RS256", "PS256", "ES256", "EdDSA"} == oidc_jwks.ALGORITHMS


def test_example_of_a_provider_is_json() -> None:
    for page in (LOGIN, CI):
        [shown] = re.findall(r"OIDC='(\[.*?\])'", page, re.DOTALL)
        assert json.loads(shown)
