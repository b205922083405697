"""Policies: who sets them, which promotions they let through, what their checks find and keep; on both databases."""

from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry import identify
from registry.database import Database
from tests.integration.test_registry_access import People, _As
from tests.servers.app import assert_problem, promote, publish

SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "REMEMBERED_S", 0.0)


@pytest.fixture
def people(api: TestClient) -> People:
    return People(api)


def rule(api: Any, pattern: str, *edges: dict[str, Any], **more: Any) -> Any:
    """Set a policy."""
    return api.put(f"/api/v1/policies/{pattern}", json={"edges": list(edges), **more})


def edge(from_: str = "*", to: str = "*", *checks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"from": from_, "to": to, "checks": list(checks), **more}


def metric(expression: str) -> dict[str, Any]:
    return {"kind": "metric", "expression": expression}


def preview(api: Any, number: int, to: str = "production", model: str = "fraud") -> dict[str, Any]:
    """What a promotion would become; nothing may have changed by asking."""
    answer = api.get(f"/api/v1/models/{model}/promotions", params={"number": number, "to": to})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def outcomes(api: Any, number: int, to: str = "production") -> list[bool]:
    return [finding["passed"] for finding in preview(api, number, to)["findings"]]


def test_a_policy_is_set_read_revised_and_lifted(api: TestClient) -> None:
    set_ = rule(api, "fraud-*", edge("staging", "production", metric("auc > 0.9"), who=["role:owner"]))
    assert set_.status_code == 200, set_.text
    assert (set_.json()["revision"], set_.json()["set_by"]) == (1, "admin")
    assert api.get("/api/v1/policies/fraud-*").json() == set_.json()
    assert rule(api, "fraud-*", *set_.json()["edges"]).json()["revision"] == 1
    assert_problem(rule(api, "fraud-*", edge(), expected_revision=0), 409, "policy_changed")
    assert rule(api, "fraud-*", edge(), expected_revision=1).json()["revision"] == 2
    publish(api, "fraud-eu")
    publish(api, "other")
    assert [p["revision"] for p in api.get("/api/v1/models/fraud-eu/policies").json()["items"]] == [2]
    assert api.get("/api/v1/models/other/policies").json()["items"] == []
    assert_problem(api.delete("/api/v1/policies/fraud-*?expected_revision=1"), 409, "policy_changed")
    assert api.delete("/api/v1/policies/fraud-*").status_code == 204
    assert_problem(api.delete("/api/v1/policies/fraud-*"), 404, "policy_not_found")
    assert_problem(api.get("/api/v1/policies/fraud-*"), 404, "policy_not_found")
    assert api.get("/api/v1/policies").json() == {"items": []}
    assert rule(api, "fraud-*", edge()).json()["revision"] == 4


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (edge(from_="live"), "invalid_policy"),
        (edge(who=["kim"]), "invalid_policy"),
        (edge("*", "*", metric("auc >=")), "invalid_expression"),
        (edge("*", "*", {"kind": "horoscope"}), "invalid_request"),
        (edge("*", "*", {"kind": "example", "more": 1}), "invalid_request"),
        (edge(approvals=21), "invalid_request"),
        (edge(approvals=True), "invalid_request"),
        (edge(unknown=1), "invalid_request"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(api: TestClient, wanted: dict[str, Any], code: str) -> None:
    answer = rule(api, "fraud", wanted)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == code
    assert api.get("/api/v1/policies").json() == {"items": []}


def test_who_owns_all_models_of_a_pattern_sets_its_policy(api: TestClient, people: People) -> None:
    owner = _As(api, people.robot("owner", "owner", "fraud-*"))
    for pattern in ("fraud-*", "fraud-eu*", "fraud-eu"):
        assert rule(owner, pattern, edge()).status_code == 200
    for pattern in ("fraud*", "*", "f*-eu"):
        assert_problem(rule(owner, pattern, edge()), 404, "model_not_found")
    assert_problem(rule(_As(api, people.robot("p", "promoter")), "fraud-*", edge()), 403, "forbidden")
    assert rule(api, "secret", edge()).status_code == 200
    shown = [each["pattern"] for each in owner.get("/api/v1/policies").json()["items"]]
    assert shown == ["fraud-*", "fraud-eu", "fraud-eu*"]
    assert_problem(owner.get("/api/v1/policies/secret"), 404, "policy_not_found")
    limited = _As(api, people.headers("owner", role="owner", pattern="fraud-eu"))
    assert_problem(rule(limited, "fraud-eu*", edge()), 404, "model_not_found")
    people.call("POST", "/workspaces", json={"name": "other"})
    assert api.get("/w/other/api/v1/policies").json() == {"items": []}


def test_without_a_policy_everything_is_as_it_was_and_nothing_is_kept(api: TestClient) -> None:
    publish(api, "fraud")
    rule(api, "other", edge(approvals=1))
    assert preview(api, 1)["outcome"] == "moves"
    assert promote(api, "fraud", 1).json()["request"] is None
    assert api.get("/api/v1/models/fraud/decisions").json() == {"items": [], "next": None}


def test_only_moves_that_an_edge_names_are_made(api: TestClient) -> None:
    publish(api, "fraud")
    rule(api, "fraud", edge("none", "staging"), edge("staging", "production"), edge("production", "none"))
    assert_problem(promote(api, "fraud", 1), 409, "no_such_edge")
    assert preview(api, 1)["refused_by"] == "fraud"
    assert_problem(promote(api, "fraud", 1, "archived"), 409, "no_such_edge")
    assert promote(api, "fraud", 1, "staging").status_code == 200
    assert promote(api, "fraud", 1, "champion").status_code == 200  # no edge names it
    assert_problem(api.delete("/api/v1/models/fraud/pointers/staging"), 409, "no_such_edge")
    assert promote(api, "fraud", 1).status_code == 200
    assert promote(api, "fraud", 1).json()["moved"] is False
    assert api.delete("/api/v1/models/fraud/pointers/production").status_code == 200


def test_an_alias_is_governed_where_an_edge_names_it(api: TestClient, people: People) -> None:
    publish(api, "fraud")
    robot = _As(api, people.robot("robot", "promoter"))
    rule(api, "fraud", edge("production", "champ*", who=["principal:admin"]), edge("*", "production"))
    assert_problem(promote(robot, "fraud", 1, "champion"), 409, "no_such_edge")
    assert promote(robot, "fraud", 1, "canary").status_code == 200
    assert promote(robot, "fraud", 1).status_code == 200
    assert_problem(promote(robot, "fraud", 1, "champion"), 403, "not_by_policy")
    assert promote(api, "fraud", 1, "champion").status_code == 200
    assert_problem(robot.delete("/api/v1/models/fraud/pointers/champion"), 403, "not_by_policy")
    assert api.delete("/api/v1/models/fraud/pointers/champion").status_code == 200


@pytest.mark.parametrize("who", ["role:owner", "group:risk", "principal:kim"])
def test_edges_are_for_those_whom_they_name(api: TestClient, people: People, who: str) -> None:
    publish(api, "fraud")
    kim = _As(api, people.robot("kim", "owner" if who == "role:owner" else "promoter"))
    lee = _As(api, people.robot("lee", "promoter"))
    people.call("POST", "/groups", json={"name": "risk"})
    people.call("PUT", "/groups/risk/members/kim")
    rule(api, "*", edge(who=[who, "group:nobody"]), rollback_by=[who])
    assert_problem(promote(lee, "fraud", 1), 403, "not_by_policy")
    assert (preview(lee, 1)["outcome"], preview(lee, 1)["only_for"]) == ("refused", [who, "group:nobody"])
    assert preview(kim, 1)["outcome"] == "moves"
    assert promote(kim, "fraud", 1).status_code == 200
    assert_problem(lee.post("/api/v1/models/fraud/rollbacks", json={}), 403, "not_by_policy")
    assert_problem(kim.post("/api/v1/models/fraud/rollbacks", json={}), 409, "nothing_to_roll_back")
    limited = _As(api, people.headers("kim", role="promoter", pattern="*"))
    assert (preview(limited, 1, "staging")["outcome"] == "refused") is (who == "role:owner")


def test_policies_add_up(api: TestClient) -> None:
    """Whoever owns some models cannot let through what the policy of the workspace does not."""
    publish(api, "fraud", metrics={"auc": 0.95})
    rule(api, "*", edge("*", "production", metric("auc > 0.99")))
    rule(api, "fraud", edge("*", "production", metric("auc > 0.9"), approvals=0))
    assert outcomes(api, 1) == [False, True]
    assert_problem(promote(api, "fraud", 1), 409, "checks_failed")
    rule(api, "*", edge("*", "staging"))
    assert_problem(promote(api, "fraud", 1), 409, "no_such_edge")
    rule(api, "*", edge("*", "production", approvals=2))
    assert (preview(api, 1)["outcome"], preview(api, 1)["approvals"]) == ("asks", 2)


def test_metrics_are_compared_with_the_holder(api: TestClient) -> None:
    for auc in (0.972, 0.97, 0.969):
        publish(api, "fraud", {"m": repr(auc).encode()}, metrics={"auc": auc})
    publish(api, "fraud", {"m": b"none"})
    rule(api, "fraud", edge("*", "production", metric("auc >= production.auc - 0.002")))
    assert outcomes(api, 4) == [True]  # nothing holds production: nothing to compare with
    promote(api, "fraud", 1)
    assert [outcomes(api, number) for number in (2, 3, 4)] == [[True], [False], [False]]
    refused = assert_problem(promote(api, "fraud", 3), 409, "checks_failed")
    [finding] = refused["findings"]
    assert finding["inputs"] == {"production holds": 1, "auc": 0.969, "production.auc": 0.972}
    assert finding["said"] in refused["detail"]
    assert promote(api, "fraud", 2).status_code == 200


def test_each_kind_of_check(api: TestClient, database: Database) -> None:
    card = {"kind": "card", "section": "Intended use"}
    checks = [
        {"kind": "signature"},
        {"kind": "example"},
        {"kind": "format", "allowed": ["onnx"]},
        {"kind": "digests"},
        {"kind": "scan"},
        {"kind": "tag", "name": "team"},
        {"kind": "tag", "name": "team", "value": "risk"},
        card,
        metric("1 / auc > 0"),
    ]
    rule(api, "fraud", edge("*", "production", *checks), edge("*", "staging"))
    publish(api, "fraud", {"m": b"bad"}, tags={"team": "ads", "scan": "scan_error"}, metrics={"auc": 0})
    good: dict[str, Any] = {"format": "onnx", "signature": SIGNATURE, "example": "m", "metrics": {"auc": 1}}
    publish(api, "fraud", {"m": b"good"}, tags={"team": "risk", "scan": "clean"}, **good)
    with database.write() as session:
        text = "## Intended use\n\nCard payments."
        session.execute(
            sa.text("INSERT INTO cards (model_id, number, text) VALUES (1, 2, :text)").bindparams(text=text)
        )
    assert outcomes(api, 1) == [True, False, False, True, False, True, False, False, False]
    assert outcomes(api, 2) == [True] * 9
    promote(api, "fraud", 2)
    assert outcomes(api, 1)[0] is False
    inputs = preview(api, 1)["findings"][3]["inputs"]
    digest = api.get("/api/v1/models/fraud/versions/1").json()["digest"]
    assert inputs == {"manifest": digest, "files": 1, "unverified": []}
    with database.write() as session:
        session.execute(sa.text("UPDATE contents SET damaged = (1 = 1)"))
    assert outcomes(api, 1)[3] is False


def test_a_version_ripens_in_staging(api: TestClient, database: Database) -> None:
    publish(api, "fraud")
    rule(api, "fraud", edge("*", "production", {"kind": "age", "seconds": 3600}), edge("*", "staging"))
    assert outcomes(api, 1) == [False]
    promote(api, "fraud", 1, "staging")
    assert outcomes(api, 1) == [False]
    with database.write() as session:
        session.execute(
            sa.text(
                "UPDATE pointers SET generation = generation + 1, moved_at = '2026-01-01T00:00:00.000000Z'"
            )
        )
    assert outcomes(api, 1) == [True]
    assert preview(api, 1)["outcome"] == "moves"


def test_what_checks_found_is_kept_with_what_they_looked_at(api: TestClient) -> None:
    publish(api, "fraud", metrics={"auc": 0.971})
    rule(api, "fraud", edge("*", "*", metric("auc >= 0.9"), {"kind": "digests"}))
    promote(api, "fraud", 1)
    promote(api, "fraud", 1, "champion")
    page = api.get("/api/v1/models/fraud/decisions?pointer=production").json()
    [decision] = page["items"]
    assert (decision["outcome"], decision["generation"], decision["request"]) == ("done", 0, None)
    assert (decision["from"], decision["to"], decision["policies"]) == ("none", "production", [["fraud", 1]])
    assert decision["digest"] == api.get("/api/v1/models/fraud/versions/1").json()["digest"]
    assert decision["findings"][0] == {
        "check": metric("auc >= 0.9"),
        "passed": True,
        "said": "auc is 0.971.",
        "inputs": {"auc": 0.971},
    }
    first = api.get("/api/v1/models/fraud/decisions?limit=1").json()
    rest = api.get("/api/v1/models/fraud/decisions", params={"limit": 1, "after": first["next"]}).json()
    assert ([each["to"] for each in first["items"] + rest["items"]], rest["next"]) == (
        ["champion", "production"],
        None,
    )


@pytest.mark.parametrize(
    "table", ["policies", "decisions", "findings", "promotion_requests", "request_entries"]
)
def test_what_was_decided_cannot_be_changed(api: TestClient, database: Database, table: str) -> None:
    publish(api, "fraud")
    rule(api, "fraud", edge("*", "*", {"kind": "digests"}, approvals=1))
    promote(api, "fraud", 1)
    column = {"policies": "set_by", "findings": "said", "decisions": "actor"}.get(table, "requested_by")
    for statement in (f"UPDATE {table} SET {column} = 'nobody'", f"DELETE FROM {table}"):
        with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_looking_needs_no_right_to_promote_and_shows_nothing_foreign(api: TestClient, people: People) -> None:
    publish(api, "fraud")
    publish(api, "secret")
    rule(api, "*", edge("*", "*", approvals=1))
    promote(api, "secret", 1)
    reader = _As(api, people.robot("reader", "reader", "fraud"))
    assert preview(reader, 1)["outcome"] == "asks"
    for path in ("policies", "promotions?number=1&to=production", "decisions", "requests", "requests/1"):
        answer = reader.get(f"/api/v1/models/secret/{path}")
        assert_problem(answer, 404, "model_not_found")
    assert_problem(reader.get("/api/v1/models/fraud/promotions?number=9&to=x"), 404, "version_not_found")
    assert_problem(reader.get("/api/v1/models/fraud/promotions?number=1&to=v2"), 400, "invalid_name")
