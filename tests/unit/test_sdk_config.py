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


def write_local(home: Path, url: str = "http://127.0.0.1:7070") -> None:
    """What a registry on this machine writes for its user."""
    home.mkdir(exist_ok=True)
    (home / "local.json").write_text(json.dumps({"url": url, "token": "local"}))


@pytest.mark.parametrize(
    "url", [None, "http://127.0.0.1:7070", "http://localhost:7070/", "http://127.0.0.1:7070/w/acme"]
)
def test_the_registry_of_this_machine_lets_its_user_in(home: Path, url: str | None) -> None:
    write_local(home)
    assert _config.load(url).token == "local"
    write_local(home, "http://localhost:7070")
    assert _config.load(url).token == "local"


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:7071", "https://127.0.0.1:7070", "http://127.0.0.1", "http://127.0.0.1:7070/x"),
        *("http://localhost.example:7070", "http://example:7070", "http://[::1]:7070"),
        *("http://127.0.0.1:7070/w/acme/x", "http://example:7070/w/127.0.0.1:7070", "http://127.0.0.2:7070"),
    ],
)
def test_no_other_address_gets_the_token_of_this_machine(home: Path, url: str) -> None:
    write_local(home)
    assert _config.load(url).token is None
    assert _config.stored_token(url) is None


def test_whoever_chose_a_token_does_not_get_that_of_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_local(home)
    _config.save("http://127.0.0.1:7070", "from-file")
    assert _config.load().token == "from-file"
    assert _config.local_token("http://127.0.0.1:7070") == "local"
    monkeypatch.setenv("MODELYARD_TOKEN", "from-environment")
    assert _config.load().token == "from-environment"
    assert _config.load(token="given").token == "given"
    assert _config.load(token="").token is None
    monkeypatch.setenv("MODELYARD_TOKEN", "")
    assert _config.load().token is None


def test_a_login_elsewhere_or_without_a_token_leaves_the_way_in_here(home: Path) -> None:
    write_local(home)
    _config.save("http://elsewhere:1", "from-file")
    assert (_config.load().token, _config.load("http://127.0.0.1:7070").token) == ("from-file", "local")
    _config.save("http://127.0.0.1:7070/w/acme", None)
    assert (_config.load().url, _config.load().token) == ("http://127.0.0.1:7070/w/acme", "local")


def test_a_stored_token_is_for_every_workspace_of_its_registry(home: Path) -> None:
    _config.save("https://host/models/w/acme", "secret")
    assert home.exists()
    for url in ("https://host/models", "https://host/models/w/other", "https://host/models/w/acme"):
        assert _config.load(url).token == "secret"
    for url in ("https://host", "https://host/w/acme", "https://host/other/w/acme", "https://host/models/w"):
        assert _config.load(url).token is None


def test_a_damaged_local_file_is_named_with_its_own_way_out(home: Path) -> None:
    home.mkdir()
    (home / "local.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"local\.json.*start the registry"):
        _config.load()
    assert _config.load(token="given").token == "given"


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
