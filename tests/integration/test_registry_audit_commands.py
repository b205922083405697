"""`modelyard-registry audit`, and docs/audit.md, whose commands and code run here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from registry import audit_verify
from registry.audit_export import Exporter
from registry.checkpoints import Signer
from registry.cli import main
from registry.cli_audit import audit
from registry.database import Database
from storage.disk import open_disk
from storage.layout import checkpoint_key
from tests.servers.trail import KEY, SECRET, disarmed, grow

Run = Callable[..., Result]

DOCS = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_REGISTRY_DATABASE_URL": database_url,
        "MODELYARD_REGISTRY_STORAGE_URL": (tmp_path / "blobs").as_uri(),
        "MODELYARD_REGISTRY_SECRET_KEY": SECRET,
    }


@pytest.fixture
def run(environment: dict[str, str], database: Database, tmp_path: Path) -> Run:
    """Runs a command on a trail of five entries, the first four of which are signed."""
    exporter = Exporter(database, open_disk(tmp_path / "blobs"), Signer(KEY))
    for count in (2, 2):
        grow(database, count)
        exporter.export()
    grow(database, 1, seed=3)

    def invoke(*argv: str, **more: str | None) -> Result:
        return CliRunner(env=environment | more).invoke(main, ["audit", *argv])

    return invoke


def tamper(database: Database, statement: str) -> None:
    with database.write() as session, disarmed(session):
        session.execute(sa.text(statement))


def test_verify_says_clean(run: Run) -> None:
    told = run("verify")
    assert (told.exit_code, told.output) == (
        0,
        "clean: 5 entries, each as it was written\nsigned through entry 4 (2 checkpoints)\n",
    )
    assert json.loads(run("verify", "--json").output) | {"last": None} == {
        "clean": True,
        "entries": 5,
        "last": None,
        "checkpoints": 2,
        "signed_through": 4,
        "problems": [],
    }


def test_verify_exits_with_1_and_says_what_is_wrong(run: Run, database: Database) -> None:
    tamper(database, "UPDATE audit SET actor = 'x' WHERE sequence = 3")
    told = run("verify")
    assert told.exit_code == 1
    assert "entry 3         changed    it is not what was written" in told.output
    assert "1 problems; the first is at entry 3" in told.output
    found = run("verify", "--json")
    assert found.exit_code == 1
    [problem] = json.loads(found.output)["problems"]
    assert (problem["kind"], problem["first"], problem["last"]) == ("changed", 3, 3)


def test_verify_needs_the_public_key_only(run: Run, tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text(run("public-key").output)
    told = run("verify", "--public-key", str(pem), MODELYARD_REGISTRY_SECRET_KEY=None)
    assert (told.exit_code, "signed through entry 4" in told.output) == (0, True)
    without = run("verify", MODELYARD_REGISTRY_SECRET_KEY=None)
    assert (without.exit_code, "none of those given" in without.output) == (1, True)
    pem.write_text("x")
    assert "error: expected an Ed25519 public key" in run("verify", "--public-key", str(pem)).output


def test_verify_says_when_nothing_vouches_for_the_trail(run: Run, tmp_path: Path) -> None:
    for number in (2, 4):
        open_disk(tmp_path / "blobs").delete(checkpoint_key(number))
    told = run("verify", MODELYARD_REGISTRY_SECRET_KEY=None)
    assert (told.exit_code, "no checkpoint vouches for any of it" in told.output) == (0, True)


def test_verify_takes_a_checkpoint_that_was_kept_elsewhere(
    run: Run, database: Database, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(run("checkpoint", "--json").output)
    open_disk(tmp_path / "blobs").delete(checkpoint_key(5))
    tamper(database, "DELETE FROM audit WHERE sequence = 5")
    digest = json.loads(run("list", "--json").output)["items"][0]["digest"]
    tamper(database, f"UPDATE audit_head SET sequence = 4, digest = '{digest}'")
    assert run("verify").exit_code == 0
    told = run("verify", "--checkpoint", str(kept))
    assert (told.exit_code, "entry 5 is missing" in told.output) == (1, True)


def test_checkpoint_signs_what_is_new_and_prints_it(run: Run, tmp_path: Path) -> None:
    printed = run("checkpoint", "--json").output
    assert json.loads(printed)["sequence"] == 5
    with open_disk(tmp_path / "blobs").open(checkpoint_key(5)) as stored:
        assert stored.read().decode() == printed
    assert run("checkpoint").output.startswith("entry 5  sha256:")
    assert "signed through entry 5 (3 checkpoints)" in run("verify").output


def test_checkpoint_signs_nothing_that_was_tampered_with(run: Run, database: Database) -> None:
    tamper(database, "UPDATE audit SET actor = 'x' WHERE sequence = 5")
    told = run("checkpoint")
    assert told.exit_code == 1
    assert "error: the audit trail is not as it was written: entry 5" in told.output


def test_an_empty_trail_is_clean_but_nothing_to_sign(environment: dict[str, str]) -> None:
    runner = CliRunner(env=environment)
    assert runner.invoke(main, ["audit", "verify"]).output == "clean: 0 entries, each as it was written\n"
    told = runner.invoke(main, ["audit", "checkpoint"])
    assert (told.exit_code, "nothing to sign" in told.output) == (1, True)


@pytest.mark.parametrize("command", ["checkpoint", "public-key"])
def test_without_a_secret_key_nothing_is_signed(run: Run, command: str) -> None:
    told = run(command, MODELYARD_REGISTRY_SECRET_KEY=None)
    assert (told.exit_code, "MODELYARD_REGISTRY_SECRET_KEY" in told.output) == (1, True)


def test_no_secret_is_printed(run: Run) -> None:
    for argv in (["verify"], ["verify", "--json"], ["public-key", "--json"], ["checkpoint"], ["list"]):
        assert SECRET not in run(*argv).output
    assert "short" not in run("public-key", MODELYARD_REGISTRY_SECRET_KEY="too-short").output


def test_list_shows_entries_newest_first_a_page_at_a_time(run: Run) -> None:
    lines = run("list", "--limit", "2").output.splitlines()
    assert [line.split()[0] for line in lines] == ["5", "4", "more:"]
    rest = run("list", "--after", lines[-1].split()[-1]).output.splitlines()
    assert [line.split()[0] for line in rest] == ["3", "2", "1"]
    page: dict[str, Any] = json.loads(run("list", "--limit", "1", "--json").output)
    assert (page["items"][0]["sequence"], isinstance(page["next"], str)) == (5, True)


def test_list_takes_filters(run: Run) -> None:
    everything = json.loads(run("list", "--json").output)["items"]
    one = everything[0]
    argv = [f"--{name}={one[name]}" for name in ("workspace", "actor", "action", "resource", "outcome")]
    found = run("list", "--json", *argv, "--since", "2020-01-01", "--until", "2100-01-01T00:00:00Z")
    assert json.loads(found.output)["items"] == [one]
    assert json.loads(run("list", "--json", "--until", "2020-01-01").output) == {"items": [], "next": None}
    assert run("list", "--after", "x").exit_code == 1


def test_list_does_not_let_an_entry_fool_the_terminal(run: Run, database: Database) -> None:
    tamper(
        database,
        "UPDATE audit SET actor = 'a' || chr(27) || '[2J' WHERE sequence = 5".replace(
            "chr", "char" if database.is_sqlite else "chr"
        ),
    )
    assert r"a\x1b[2J" in run("list").output
    assert "\x1b" not in run("list").output


# --- docs/audit.md


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.DOTALL))


def test_the_commands_and_the_code_of_the_documentation_run(
    run: Run, database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    here = os.environ | environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def ran(*argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(argv, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)

    shell = ran("sh", "-e", "-c", blocks("sh"))
    assert shell.returncode == 0, shell.stderr
    assert "clean: 5 entries" in shell.stdout
    clean = ran(sys.executable, "-c", blocks("python"))
    assert clean.returncode == 0, clean.stderr
    tamper(database, "UPDATE audit SET actor = 'x' WHERE sequence = 3")
    assert run("list", "--json").exit_code == 0
    (tmp_path / "entries.json").write_text(run("list", "--json").output)
    assert "AssertionError: 3" in ran(sys.executable, "-c", blocks("python")).stderr


def test_every_kind_of_problem_and_every_filter_is_documented() -> None:
    assert [kind for kind in get_args(audit_verify.Kind) if f"| `{kind}` |" not in DOCS] == []
    options = [each.opts[0] for each in audit.commands["list"].params]
    assert [option for option in options if f"`{option}`" not in DOCS] == []
