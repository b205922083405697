"""Searches over HTTP, by the SDK and by the command: pages while others publish, aliases, errors, and nothing foreign."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from modelyard import Client, InvalidRequest
from modelyard._shell import run
from modelyard.cli import app as commands
from starlette.testclient import TestClient

from registry import search_plan
from registry.access import Caller
from registry.database import Database
from registry.search import parse
from tests.integration.test_registry_access import People
from tests.servers.app import NewDatabase, assert_problem, promote, publish


def found(api: Any, q: str = "", **more: Any) -> list[str]:
    answer = api.get("/api/v1/search", params={"q": q, **more})
    assert answer.status_code == 200, answer.text
    return [f"{each['model']}/{each['number']}" for each in answer.json()["items"]]


def test_what_was_published_is_found_as_it_is_shown_elsewhere(api: TestClient) -> None:
    publish(api, "fraud", tags={"team": "risk"}, metrics={"auc": 0.9}, description="Cards, Europe")
    publish(api, "fraud", tags={"team": "risk"}, metrics={"auc": 0.97})
    publish(api, "churn", tags={"team": "crm"})
    for number, to in ((1, "production"), (2, "champion"), (2, "canary")):
        promote(api, "fraud", number, to)
    assert found(api) == ["churn/1", "fraud/2", "fraud/1"]
    assert found(api, order="created") == ["churn/1", "fraud/2", "fraud/1"]
    assert found(api, "tags.team = risk AND metrics.auc >= 0.95 OR model = churn") == ["churn/1", "fraud/2"]
    assert found(api, "stage = production") == found(api, "description contains 'Cards, '") == ["fraud/1"]
    [item] = api.get("/api/v1/search", params={"q": "alias ~ c* AND NOT tags.team = crm"}).json()["items"]
    assert item == api.get("/api/v1/models/fraud/versions/2").json()
    assert item["aliases"] == ["canary", "champion"]
    assert item["files"]


@pytest.mark.parametrize("order", ["model", "created"])
def test_no_page_repeats_or_skips_while_others_publish(api: TestClient, order: str) -> None:
    for model in ("a", "b", "a", "b", "a"):
        publish(api, model)
    before = found(api, order=order)
    seen: list[str] = []
    params: dict[str, Any] = {"order": order, "limit": 1}
    while True:
        page = api.get("/api/v1/search", params=params).json()
        seen += [f"{each['model']}/{each['number']}" for each in page["items"]]
        publish(api, "b" if len(seen) % 2 else f"new-{len(seen)}")
        if page["next"] is None:
            break
        assert page["next"] != params.get("after"), "no end"
        params["after"] = page["next"]
    assert [each for each in seen if each in before] == before
    assert len(set(seen)) == len(seen)


def test_what_cannot_be_read_says_where(api: TestClient) -> None:
    body = assert_problem(
        api.get("/api/v1/search", params={"q": "model = secret-name AN"}), 400, "invalid_query"
    )
    assert (body["position"], body["expected"]) == (21, "AND, OR or the end")
    assert "secret-name" not in str(body)
    assert_problem(api.get("/api/v1/search", params={"q": "a" * 5000}), 400, "invalid_query")
    assert_problem(api.get("/api/v1/search", params={"q": "model = \0"}), 400, "invalid_query")
    assert_problem(api.get("/api/v1/search", params={"order": "name"}), 422, "invalid_request")
    for cursor in ("x", "WyJub25lIiwgMV0=", "WzEsIDFd"):
        assert_problem(api.get("/api/v1/search", params={"after": cursor}), 400, "invalid_cursor")


def test_nothing_foreign_is_found_nor_told_by_a_cursor(api: TestClient) -> None:
    people = People(api)
    for model in ("open-1", "closed", "open-2"):
        publish(api, model)
        promote(api, model, 1, "champion")
    reader = people.robot("eve", "reader", "open-*")
    people.call("POST", "/workspaces", json={"name": "other"})
    elsewhere = People(api, "other").robot("mallory", "reader")
    for order in ("model", "created"):
        for q in ("", "alias = champion", "model ~ *", "NOT model = open-1", "format = files"):
            asked = {"params": {"q": q, "order": order}, "headers": reader}
            names = [each["model"] for each in api.get("/api/v1/search", **asked).json()["items"]]  # type: ignore[arg-type]
            assert names == [name for name in ("open-2", "open-1") if f"NOT model = {name}" != q]
        theirs = api.get("/w/other/api/v1/search", params={"order": order}, headers=elsewhere).json()
        assert theirs == {"items": [], "next": None}
        cursor = api.get(
            "/api/v1/search", params={"q": "model = closed OR model = open-1", "limit": 1}
        ).json()
        assert_problem(
            api.get("/api/v1/search", params={"after": cursor["next"]}, headers=reader), 400, "invalid_cursor"
        )


def test_deleted_versions_are_not_found(api: TestClient) -> None:
    publish(api, "fraud")
    publish(api, "fraud")
    assert api.delete("/api/v1/models/fraud/versions/2").status_code in (200, 204)
    assert found(api, "model = fraud") == found(api, "format = files", order="created") == ["fraud/1"]


def test_selective_searches_use_indexes_on_sqlite(new_database: NewDatabase, tmp_path: Path) -> None:
    """PostgreSQL decides by what is in the tables; benchmarks/registry.py measures it with many versions."""
    database = Database(new_database("sqlite", tmp_path))
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            plans.extend(
                row[-1]
                for row in connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )

    caller = Caller("ada", "default", 1, administrator=True)
    sa.event.listen(database.engine, "before_cursor_execute", explain)
    for q in (
        "tags.team = risk",
        "metrics.auc > 0.9",
        "alias = champion",
        "creator = ada",
        "created > 2026-01-01",
    ):
        plans.clear()
        with database.read() as session:
            search_plan.search(session, caller, parse(q), order="model", limit=10, after=None)
        assert not [
            plan for plan in plans if plan.startswith(("SCAN versions", "SCAN facts", "SCAN pointers"))
        ], plans
        assert any("ix_" in plan for plan in plans), plans
    database.close()


def test_the_sdk_and_the_command(registry_url: str, tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "m.bin").write_bytes(b"searched")
    monkeypatch.setenv("MODELYARD_URL", registry_url)
    with Client() as client:
        for _ in range(3):
            client.register("searched", tmp_path / "m.bin", tags={"why": "a search"})
        assert [v.number for v in client.search("tags.why = 'a search'", order="created")] == [3, 2, 1]
        with pytest.raises(InvalidRequest) as refused:
            list(client.search("tags.why"))
        assert refused.value.code == "invalid_query"
        assert refused.value.data["position"] == 9
    assert run(commands, ["search", "model = searched AND number", "<", "3", "--limit", "1", "--json"]) == 0
    assert [each["number"] for each in json.loads(capsys.readouterr().out)] == [2]
    assert run(commands, ["search", "model = searched"]) == 0
    assert "searched/3" in capsys.readouterr().out
    assert run(commands, ["search", "model"]) == 1
    assert "At character 6" in capsys.readouterr().err
