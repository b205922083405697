"""docs/facts.md tells the truth: its code and commands run in order; a real adapter reports what it runs, and serves anyway."""

import shlex
from collections.abc import Callable
from pathlib import Path

import modelyard
import pytest
from modelyard import Client, Deployment, cli

from tests.guides import blocks, page
from tests.servers.adapter import adapters, register_onnx
from tests.servers.ports import wait_until
from tests.servers.registry import Registry

GUIDE = page("facts.md")


@pytest.fixture
def registry(
    start_registry: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Registry:
    """An empty registry, which the SDK and the commands find."""
    started = start_registry()
    monkeypatch.setenv("MODELYARD_URL", started.url)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return started


def test_its_code_and_commands_do_what_it_says(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.md").write_text("# Intended use\n", encoding="utf-8")
    with Client(registry.url) as client:
        monkeypatch.setattr("modelyard._default._made", [client])
        for model in ("base", "fraud", "fraud", "fraud"):
            version = client.register(model, tmp_path / "card.md")
        client.promote("fraud", 2)
        names = {"version": version}
        ran = 0
        for block in blocks(GUIDE):
            if block.language == "python":
                exec(compile(block.text, "docs/facts.md", "exec"), names)  # noqa: S102 - that is what it is for
                continue
            for line in block.text.splitlines():
                assert cli.run(shlex.split(line)[1:]) == 0, line
                ran += 1
        assert ran == 8
        found = client.facts("fraud/3")
        assert found.tags == {"scan": "clean"}
        assert found.metadata == {"owner": "kim", "reviewed": True}
        assert found.metrics == (modelyard.Metric("auc", 0.93, "2026-q3", "country=DE"),)
        assert client.card("fraud/3").sections == ("Intended use",)
        assert [str(each) for each in client.lineage("fraud/3").parents] == ["base/1"]
        assert [each.number for each in client.deployments("fraud")] == [3]
    assert "No adapter has reported" in capsys.readouterr().out


def test_an_adapter_reports_what_it_runs_and_serves_without_anybody_to_tell(
    registry: Registry, tmp_path: Path
) -> None:
    with Client(registry.url) as client, adapters(tmp_path) as start:
        for number in (1, 2):
            register_onnx(client, "fraud", tmp_path / f"v{number}", number)
        client.promote("fraud", 1)
        adapter = start(registry.url, "fraud", name="here")
        adapter.wait_ready()

        def reported() -> Deployment | None:
            return next(iter(client.deployments("fraud")), None)

        def runs(number: int) -> Callable[[], bool]:
            return lambda: (found := reported()) is not None and found.number == number and found.live

        wait_until(runs(1), timeout_s=60, what="the first report")
        found = reported()
        assert found is not None
        assert (found.adapter, found.name, found.follows) == ("here", "fraud", "fraud@production")
        client.promote("fraud", 2)
        wait_until(runs(2), timeout_s=60, what="the swap to be reported")
        registry.stop()
        assert adapter.infer("fraud").status == 200
