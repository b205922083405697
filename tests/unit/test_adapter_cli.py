"""The command line: options and environment become Settings; mistakes are told before anything starts."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from modelyard import InvalidReference, Ref

from serving_adapter import app, cli, logs
from serving_adapter.errors import UnsafeDirectory
from serving_adapter.protocols import status
from serving_adapter.settings import Following, Settings


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """The settings with which the program would have run."""
    seen: list[Settings] = []

    monkeypatch.setattr(app, "run", seen.append)
    monkeypatch.setattr(logs, "configure", lambda **_: None)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    return seen


def invoke(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(cli.main, arguments, env=environment)


def test_with_nothing_said_it_follows_everything_on_loopback(given: list[Settings], tmp_path: Path) -> None:
    assert invoke().exit_code == 0
    assert given[0].models == ()
    assert (given[0].host, given[0].port, given[0].registry) == ("127.0.0.1", 8080, None)
    assert given[0].cache_dir == tmp_path / "serving"
    assert given[0].max_body_bytes == 64 * 2**20
    assert given[0].preferred_formats == ("onnx", "sklearn-skops")


def test_options_become_settings(given: list[Settings]) -> None:
    result = invoke(
        *(
            "--registry",
            "http://r",
            "--model",
            "fraud",
            "--model",
            "live=fraud@champion",
            "--model",
            "old=fraud/3",
        ),
        *("--prefer", "sklearn-skops", "--trust-type", "a.B", "--port", "9", "--threads", "3"),
        *("--load-timeout-s", "5", "--max-queue", "0", "--drain-s", "0"),
    )
    assert result.exit_code == 0, result.output
    assert given[0].models == (
        Following("fraud", Ref("fraud", pointer="production")),
        Following("live", Ref("fraud", pointer="champion")),
        Following("old", Ref("fraud", number=3)),
    )
    assert given[0].preferred_formats == ("sklearn-skops", "onnx")
    assert (given[0].registry, given[0].port, given[0].threads, given[0].max_queue) == ("http://r", 9, 3, 0)
    assert (given[0].trusted_types, given[0].load_timeout_s, given[0].drain_s) == (("a.B",), 5, 0)


def test_the_environment_says_the_same(given: list[Settings]) -> None:
    invoke(
        MODELYARD_URL="http://r", MODELYARD_SERVE_PORT="9", MODELYARD_SERVE_MODELS="fraud live=fraud@champion"
    )
    assert (given[0].registry, given[0].port) == ("http://r", 9)
    assert [following.name for following in given[0].models] == ["fraud", "live"]


def test_a_cache_directory_is_the_same_from_everywhere(given: list[Settings]) -> None:
    invoke("--cache-dir", "here")
    invoke(MODELYARD_HOME="home")
    assert [each.cache_dir for each in given] == [Path("here").absolute(), Path("home/serving").absolute()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "a/b/c"], "names no version"),
        (["--model", "=a"], "model's name"),
        (["--model", "a b=a"], "model's name"),
        (["--model", "fraud", "--model", "fraud@champion"], "NAME=REF"),
        (["--prefer", "pickle"], "'onnx'"),
        (["--port", "0"], "range"),
        (["--token", "secret"], "No such option"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    given: list[Settings], arguments: list[str], expected: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert not given


def test_what_prevents_the_start_is_one_line(given: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: Settings) -> None:
        raise UnsafeDirectory("the cache is a link")

    monkeypatch.setattr(app, "run", run)
    result = invoke()
    assert (result.exit_code, result.output) == (1, "Error: the cache is a link\n")
    assert not given


def test_a_name_must_be_a_models_name() -> None:
    with pytest.raises(InvalidReference):
        Following.parse("a@b=fraud@production=")


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("serving_adapter.x", logging.INFO, "", 0, message, args, None)


def test_a_text_line_is_one_line_whatever_the_message_holds() -> None:
    line = logs.TextLines().format(record("model %s", "a\nINFO forged \x1b[31m"))
    assert line.endswith(r"INFO model a\x0aINFO forged \x1b[31m")
    assert "\n" not in line


def test_a_json_line_is_json() -> None:
    line = logs.JsonLines().format(record("model %s", "a\n"))
    assert "\n" not in line
    assert (
        json.loads(line).items()
        >= {"level": "info", "logger": "serving_adapter.x", "message": "model a\n"}.items()
    )


def test_the_documentation_has_every_option_and_path() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    options = {option for parameter in cli.main.params for option in parameter.opts}
    assert {option for option in options if f"`{option}" not in documented} == {"--version"}
    assert not [path for path in status.PATHS if path not in documented]
