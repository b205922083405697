import json
import stat
from pathlib import Path

import pytest
from modelyard import Client, ConfigurationError, _config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MODELYARD_URL", raising=False)
    monkeypatch.delenv("MODELYARD_TOKEN", raising=False)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_anything_the_registry_is_on_this_machine(home: Path) -> None:
    assert _config.load() == _config.Config("http://127.0.0.1:7070", None, home)


def test_without_modelyard_home_it_is_in_the_users_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELYARD_HOME")
    assert _config.home_directory() == Path.home() / ".modelyard"


def test_argument_goes_before_environment_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    _config.save("http://file:1", "from-file")
    assert (_config.load().url, _config.load().token) == ("http://file:1", "from-file")
    monkeypatch.setenv("MODELYARD_URL", "http://environment:2")
    monkeypatch.setenv("MODELYARD_TOKEN", "from-environment")
    assert (_config.load().url, _config.load().token) == ("http://environment:2", "from-environment")
    given = _config.load("http://argument:3", "from-argument")
    assert (given.url, given.token) == ("http://argument:3", "from-argument")


def test_a_stored_token_goes_to_the_registry_that_it_was_stored_for_and_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _config.save("http://mine:1", "secret")
    assert _config.load("http://mine:1/").token == "secret"
    assert _config.load("http://other:1").token is None
    monkeypatch.setenv("MODELYARD_URL", "http://other:1")
    assert _config.load().token is None


def test_an_empty_token_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _config.save("http://mine:1", "secret")
    assert _config.load("http://mine:1", "").token is None
    monkeypatch.setenv("MODELYARD_TOKEN", "")
    assert _config.load("http://mine:1").token is None


def test_the_file_is_readable_by_its_owner_only_even_if_it_was_not_before(home: Path) -> None:
    home.mkdir()
    (home / "config.json").write_text("{}")
    (home / "config.json").chmod(0o644)
    path = _config.save("http://mine:1", "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"url": "http://mine:1", "token": "secret"}
    assert [each.name for each in home.iterdir()] == ["config.json"]


def test_the_home_directory_is_made_private(home: Path) -> None:
    _config.save("http://mine:1", None)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 7}', '{"token": null}', "\udcff"])
def test_a_damaged_file_is_named_with_the_way_out(home: Path, content: str) -> None:
    home.mkdir()
    (home / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=r"config\.json.*modelyard login"):
        _config.load()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "127.0.0.1:7070",
        "ftp://host",
        "http://",
        "http://host?x=1",
        "http://host#x",
        "http://h:port",
        "//h",
    ],
)
def test_what_is_not_an_http_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        _config.check_url(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="MODELYARD_TOKEN") as caught:
        _config.check_url("https://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "tab\t", "ünicode", "nul\0"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _config.load(token=token)
    assert token not in str(caught.value)


def test_no_representation_shows_the_token() -> None:
    assert "secret" not in repr(_config.load(token="secret"))
    with Client(token="secret") as client:
        assert "secret" not in repr(client)


def test_a_url_keeps_its_path_and_loses_its_last_slash() -> None:
    assert _config.load("https://host/modelyard/").url == "https://host/modelyard"
