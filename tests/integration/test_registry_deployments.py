"""Deployments: what adapters report, who sees it, and how long."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry import deployments
from registry.audit import entries
from registry.database import Database
from registry.deployment_tables import AdapterRow
from tests.integration.test_registry_access import People, _As
from tests.servers.app import assert_problem, publish

ADAPTERS = "/api/v1/adapters"


@pytest.fixture
def people(api: TestClient) -> People:
    return People(api)


def report(api: Any, adapter: str, *runs: dict[str, Any], kept: int | None = None) -> None:
    answer = api.put(f"{ADAPTERS}/{adapter}/deployments", json={"runs": list(runs)})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"kept": len(runs) if kept is None else kept}


def run(version: dict[str, Any], **more: Any) -> dict[str, Any]:
    said = {key: version[key] for key in ("model", "number", "digest")}
    return {"name": version["model"], **said, "follows": f"{version['model']}@production", **more}


def where(api: Any, model: str, query: str = "") -> list[dict[str, Any]]:
    return list(api.get(f"/api/v1/models/{model}/deployments{query}").json()["items"])


def age(database: Database, adapter: str, seconds: float) -> None:
    with database.write() as session:
        row = session.scalars(sa.select(AdapterRow).where(AdapterRow.name == adapter)).one()
        row.reported_at -= timedelta(seconds=seconds)


def test_the_newest_report_is_who_deploys_what(api: TestClient, database: Database) -> None:
    one, two = publish(api, "fraud"), publish(api, "fraud", {"m": b"2"})
    other = publish(api, "other")
    revision = api.get("/api/v1").json()["revision"]
    since = "2026-11-22T10:00:00.000000Z"
    report(api, "a:8080", run(one, since=since), run(other))
    report(api, "b", run(two, name="canary", follows="fraud@canary", trouble="version 3 was rejected"))
    report(api, "c", {"name": "fraud", "model": "fraud", "follows": "fraud@production"})
    first, second, third = where(api, "fraud")
    moment = first.pop("reported_at")
    assert first == {
        "adapter": "a:8080", "principal": "admin", "name": "fraud", "model": "fraud", "number": 1,
        "follows": "fraud@production", "since": since, "trouble": "", "live": True,
    }  # fmt: skip
    assert moment > "2026"
    assert (second["name"], second["number"], second["trouble"]) == ("canary", 2, "version 3 was rejected")
    assert (third["number"], third["since"]) == (None, None)
    assert [each["adapter"] for each in where(api, "fraud", "?number=2")] == ["b"]
    report(api, "a:8080", run(two))
    report(api, "c")
    assert [(each["adapter"], each["number"]) for each in where(api, "fraud")] == [("a:8080", 2), ("b", 2)]
    assert where(api, "other") == []
    assert api.get("/api/v1").json()["revision"] == revision, "a report is no event"
    with database.read() as session:
        assert [e.action for e in entries(session, limit=1).items] == ["version.created"]


def test_pages_of_deployments_neither_repeat_nor_skip(api: TestClient) -> None:
    version = publish(api, "fraud")
    for adapter in ("a", "b"):
        report(api, adapter, run(version, name="z"))  # the order of rows is not that of names
        report(api, adapter, *(run(version, name=name) for name in ("y", "x", "z")))
    seen: list[tuple[str, str]] = []
    after = ""
    while after is not None:
        page = api.get(
            "/api/v1/models/fraud/deployments", params={"limit": 2} | ({"after": after} if after else {})
        )
        seen += [(each["adapter"], each["name"]) for each in page.json()["items"]]
        after = page.json()["next"]
    assert seen == [(adapter, name) for adapter in "ab" for name in "xyz"]


def test_who_is_silent_is_not_live_and_forgotten_in_the_end(api: TestClient, database: Database) -> None:
    version = publish(api, "fraud")
    report(api, "a", run(version))
    report(api, "b", run(version))
    age(database, "a", deployments.SILENT_S + 1)
    assert [each["live"] for each in where(api, "fraud")] == [False, True]
    assert deployments.forget_silent(database) == 0
    age(database, "a", deployments.FORGOTTEN_S)
    assert deployments.forget_silent(database) == 1
    assert [each["adapter"] for each in where(api, "fraud")] == ["b"]
    report(api, "a", run(version))
    assert len(where(api, "fraud")) == 2


def test_a_reader_reports_for_itself_and_of_what_it_may_read(api: TestClient, people: People) -> None:
    fraud, secret = publish(api, "fraud"), publish(api, "secret")
    mine = _As(api, people.robot("serve", "reader", "fraud"))
    theirs = _As(api, people.robot("other", "reader", "fraud"))
    absent = {**run(fraud), "name": "x", "model": "absent"}
    report(mine, "a", run(fraud), run(secret), absent, kept=1)
    report(theirs, "a", kept=0)
    assert [(each["principal"], each["adapter"]) for each in where(mine, "fraud")] == [("serve", "a")]
    assert where(api, "secret") == []
    assert_problem(mine.get("/api/v1/models/secret/deployments"), 404, "model_not_found")
    nobody = _As(api, people.robot("nobody"))
    refused = nobody.put(f"{ADAPTERS}/a/deployments", json={"runs": []})
    assert_problem(refused, 404, "workspace_not_found")


def test_a_version_of_another_registry_is_not_kept(api: TestClient) -> None:
    version = publish(api, "fraud")
    report(api, "a", {**run(version), "digest": "sha256:" + "0" * 64}, kept=0)
    report(api, "a", {**run(version), "digest": None}, kept=0)
    report(api, "a", {**run(version), "number": 7}, kept=0)


def test_a_report_that_cannot_be_is_refused(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(api, "fraud")
    bad: list[dict[str, Any]] = [
        {"name": "a/b"},
        {"since": "now"},
        {"number": 0},
        {"trouble": "x" * 513},
        {"url": "x"},
    ]
    for change in bad:
        body = {"runs": [{**run(version), **change}]}
        assert_problem(api.put(f"{ADAPTERS}/a/deployments", json=body), 422, "invalid_request")
    assert_problem(api.put(f"{ADAPTERS}/a b/deployments", json={"runs": []}), 422, "invalid_request")
    monkeypatch.setattr(deployments, "MAX_ADAPTERS", 1)
    report(api, "a", run(version))
    assert_problem(api.put(f"{ADAPTERS}/b/deployments", json={"runs": []}), 409, "too_many_adapters")
    report(api, "a")
