"""Facts, cards, lineage, comparison and deployments, through the SDK and the commands, against a real registry."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import modelyard
import numpy as np
import pytest
from modelyard import Client, Conflict, InvalidRequest, Metric, ModelyardError, Ref, Run, cli

SHA = "sha256:" + "0" * 64
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _home(registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELYARD_URL", registry_url)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as opened:
        yield opened


@pytest.fixture
def name(client: Client, tmp_path: Path) -> str:
    """A model with two versions, the second in production."""
    made = f"sdk-{uuid.uuid4().hex}"
    (tmp_path / "weights.bin").write_bytes(b"1")
    client.register(made, tmp_path / "weights.bin", metrics={"auc": 0.9}, tags={"team": "risk"})
    (tmp_path / "weights.bin").write_bytes(b"2")
    client.register(made, tmp_path / "weights.bin", metrics=[Metric("auc", 0.95)], metadata={"first": NOON})
    client.promote(made, 2)
    return made


Command = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    def run_command(*arguments: str, fails: int = 0) -> Any:
        assert cli.run(arguments) == fails
        told = capsys.readouterr()
        if fails:
            return told.err
        return json.loads(told.out) if "--json" in arguments else told.out

    return run_command


def test_facts_are_values_and_come_back(client: Client, name: str, tmp_path: Path) -> None:
    found = client.change_facts(
        name,
        tags={"team": "risk", "run": 7},  # type: ignore[dict-item]  # as `publish` takes them
        metadata={"owner": "kim", "n": np.int64(3), "ok": np.True_, "trained": NOON, "gone": None},
        parameters={"depth": 3},
        metrics=[Metric("auc", np.float32(0.5), "test", "DE"), Metric("auc", 0.96)],  # type: ignore[arg-type]
        expected_revision=0,
    )
    assert found.tags == {"team": "risk", "run": "7"}
    assert found.metadata == {"first": NOON, "owner": "kim", "n": 3.0, "ok": True, "trained": NOON}
    assert (found.parameters, found.revision) == ({"depth": 3.0}, 1)
    assert found.metrics == (Metric("auc", 0.96), Metric("auc", 0.5, "test", "DE"))
    assert client.facts(f"{name}/2") == found == modelyard.facts(f"{name}@production")
    assert client.change_facts(name, metrics={"auc": None}, tags={"run": None}).metrics == found.metrics[1:]
    with pytest.raises(Conflict) as refused:
        client.change_facts(name, tags={"a": "b"}, expected_revision=1)
    assert (refused.value.code, refused.value.data["revision"]) == ("facts_conflict", 2)
    (tmp_path / "new").write_bytes(b"3")
    measured = (Metric("auc", 0.9), Metric("auc", 0.8, "test"))
    modelyard.register(name, tmp_path / "new", metrics=measured)
    assert client.facts(f"{name}/3").metrics == measured
    for wrong in ({"a": float("nan")}, {"a": datetime(2026, 1, 1)}):  # noqa: DTZ001 - that is what is wrong
        with pytest.raises(ModelyardError):
            client.change_facts(name, metadata=wrong)  # type: ignore[arg-type]


def test_cards_lineage_and_comparison(client: Client, name: str) -> None:
    card = client.set_card(name, "# Purpose\n\nScores *payments*.")
    assert (card.sections, card.revision) == (("Purpose",), 1)
    assert client.card(name) == card
    found = client.set_lineage(name, run="42", datasets={"train": SHA}, parents=[f"{name}/1"])
    assert (found.parents, found.datasets) == ((Ref(name, 1),), {"train": SHA})
    assert client.lineage(f"{name}/1").children == (Ref(name, 2),)
    assert client.lineage(name) == found
    with pytest.raises(InvalidRequest, match="older"):
        client.set_lineage(f"{name}/1", parents=[name])
    client.change_facts(name, metadata={"at": NOON})
    compared = client.compare(f"{name}/1", name)
    assert (compared.left.number, compared.right.number, compared.same_content) == (1, 2, False)
    assert compared.metrics[0].difference == pytest.approx(0.05)
    assert [(f.kind, f.name, f.left, f.right) for f in compared.facts] == [
        ("tag", "team", "risk", None),
        ("metadata", "at", None, NOON),
        ("metadata", "first", None, NOON),
    ]
    assert [f.path for f in compared.files] == ["weights.bin"]


def test_who_runs_what(client: Client, name: str) -> None:
    version = client.resolve(name)
    runs = [Run(name, name, 2, version.digest, f"{name}@production", "2026-11-22T12:00:00Z")]
    assert client.report_deployments("host:8080", runs) == 1
    [found] = client.deployments(name)
    assert (found.adapter, found.number, found.live, found.since) == ("host:8080", 2, True, NOON)
    assert list(client.deployments(name, 1)) == []


def test_the_commands_say_and_change_facts(run: Command, name: str, client: Client) -> None:
    told = run(
        *(
            "facts",
            "set",
            f"{name}/1",
            "--metadata",
            "owner=kim",
            "--metadata",
            "n=3",
            "--metadata",
            'code="7"',
        ),
        *("--metadata", "at=2026-11-22T12:00:00Z", "--parameter", "deep=true", "--metric", "auc=0.5"),
        *("--dataset", "test", "--slice", "DE", "--remove", "tag:team", "--expect", "0", "--json"),
    )
    assert told["metadata"] == {"owner": "kim", "n": 3.0, "code": "7", "at": "2026-11-22T12:00:00Z"}
    assert (told["parameters"], told["tags"], told["revision"]) == ({"deep": True}, {}, 1)
    assert told["metrics"][1] == {"name": "auc", "value": 0.5, "dataset": "test", "slice": "DE"}
    shown = run("facts", "show", f"{name}/1")
    assert "test / DE" in shown
    assert "true" in shown
    assert "(revision 1)" in shown
    assert "NUMBER" in run("facts", "set", name, "--metric", "auc=high", fails=2).upper()
    assert "KIND:NAME" in run("facts", "set", name, "--remove", "x", fails=2)
    assert "facts_conflict" in run("facts", "set", f"{name}/1", "--tag", "a=b", "--expect", "0", fails=1)
    assert run("tag", f"{name}/1", "a=b", "c=d=e", "--json") == {"a": "b", "c": "d=e"}
    assert run("tag", f"{name}/1", "--remove", "a", "--json") == {"c": "d=e"}
    assert "d=e" in run("tag", f"{name}/1")
    assert client.facts(f"{name}/1").revision == 3


def test_the_commands_of_cards_lineage_comparison_and_deployments(
    run: Command, name: str, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "card.md").write_text("# Purpose\n\x1b[31mred", encoding="utf-8")
    assert run("facts", "card", name, "--file", str(tmp_path / "card.md"), "--json")["sections"] == [
        "Purpose"
    ]
    assert run("facts", "card", name) == "# Purpose\n\N{REPLACEMENT CHARACTER}[31mred\n"
    assert run("facts", "card", name, "--remove") == "It has no card.\n"
    run("facts", "lineage", name, "--run", "42", "--dataset", f"train={SHA}", "--parent", f"{name}/1")
    shown = run("facts", "lineage", name, "--commit", "abc1234")
    for part in ("42", SHA, f"{name}/1", "abc1234"):
        assert part in shown
    assert "0.05" in run("compare", f"{name}/1", name)
    assert run("compare", f"{name}/1", name, "--json")["same_content"] is False
    assert run("where", name) == "No adapter has reported that it runs this.\n"
    version = client.resolve(name)
    client.report_deployments(
        "host:8080", [Run(name, name, 2, version.digest, trouble="version 3, load: bad")]
    )
    shown = run("where", name)
    for part in ("host:8080", f"{name}/2", "version 3, load: bad"):
        assert part in shown
    assert [each["number"] for each in run("where", f"{name}/2", "--json")] == [2]
    assert run("where", f"{name}/1", "--json") == []
    assert "where fraud/3" in run("where", f"{name}@production", fails=2)
