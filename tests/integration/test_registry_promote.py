"""Promotion, rollback and history, on both databases."""

import hashlib
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.servers.app import assert_problem, promote, publish


@pytest.fixture
def three(api: TestClient) -> TestClient:
    """A model "fraud" with three versions, none in any stage."""
    for number in (1, 2, 3):
        publish(api, "fraud", {"model.bin": b"%d" % number})
    return api


def stages(api: TestClient, model: str = "fraud") -> dict[int, str]:
    return {v["number"]: v["stage"] for v in api.get(f"/api/v1/models/{model}/versions").json()["items"]}


def pointer(api: TestClient, name: str) -> dict[str, Any]:
    return dict(api.get(f"/api/v1/models/fraud/pointers/{name}").json())


def roll_back(api: TestClient, **body: Any) -> Any:
    return api.post("/api/v1/models/fraud/rollbacks", json=body)


def test_promotion_archives_the_version_it_displaces(three: TestClient) -> None:
    first = promote(three, "fraud", 1).json()
    assert (first["stage"], first["pointer"]["number"], first["pointer"]["generation"]) == (
        "production",
        1,
        1,
    )
    promote(three, "fraud", 2)
    assert stages(three) == {1: "archived", 2: "production", 3: "none"}


def test_a_version_is_in_one_stage_at_a_time(three: TestClient) -> None:
    promote(three, "fraud", 1, "staging")
    promote(three, "fraud", 1, "production")
    assert stages(three)[1] == "production"
    assert pointer(three, "staging")["number"] is None
    assert pointer(three, "staging")["generation"] == 2
    promote(three, "fraud", 1, "none")
    assert stages(three)[1] == "none"
    assert pointer(three, "production")["number"] is None


def test_aliases_leave_stages_alone_and_outlive_promotions(three: TestClient) -> None:
    promote(three, "fraud", 1)
    promote(three, "fraud", 1, "champion")
    promote(three, "fraud", 2)
    assert pointer(three, "champion")["number"] == 1
    assert three.get("/api/v1/models/fraud/versions/1").json()["aliases"] == ["champion"]
    assert stages(three)[1] == "archived"


def test_promoting_what_is_there_already_changes_nothing(three: TestClient) -> None:
    promote(three, "fraud", 1)
    again = promote(three, "fraud", 1).json()
    assert (again["moved"], again["revision"], again["pointer"]["generation"]) == (False, None, 1)
    assert len(three.get("/api/v1/models/fraud/history").json()["items"]) == 1


@pytest.mark.parametrize("to", ["production", "champion"])
def test_a_stale_generation_is_refused_and_told_who_was_faster(three: TestClient, to: str) -> None:
    promote(three, "fraud", 1, to, expected_generation=0)
    body = assert_problem(promote(three, "fraud", 2, to, expected_generation=0), 409, "generation_conflict")
    assert (body["generation"], body["number"]) == (1, 1)
    assert pointer(three, to)["number"] == 1
    assert promote(three, "fraud", 2, to, expected_generation=1).status_code == 200


def test_archiving_respects_the_generation_of_the_stage_it_empties(three: TestClient) -> None:
    promote(three, "fraud", 1)
    assert_problem(promote(three, "fraud", 1, "archived", expected_generation=7), 409, "generation_conflict")
    assert stages(three)[1] == "production"
    assert promote(three, "fraud", 1, "archived", expected_generation=1).json()["stage"] == "archived"


def test_rollback_returns_to_the_previous_version(three: TestClient) -> None:
    promote(three, "fraud", 1)
    promote(three, "fraud", 2)
    answer = roll_back(three, expected_generation=2, reason="2 is wrong").json()
    assert (answer["number"], answer["stage"], answer["pointer"]["generation"]) == (1, "production", 3)
    assert stages(three) == {1: "production", 2: "archived", 3: "none"}


def test_repeated_rollback_goes_further_back_and_never_returns_to_a_rolled_back_version(
    three: TestClient,
) -> None:
    for number in (1, 2, 3):
        promote(three, "fraud", number)
    assert roll_back(three).json()["number"] == 2
    assert roll_back(three).json()["number"] == 1
    assert_problem(roll_back(three), 409, "nothing_to_roll_back")
    assert pointer(three, "production")["number"] == 1
    promote(three, "fraud", 3)
    assert roll_back(three).json()["number"] == 1


def test_rollback_passes_over_deleted_versions_and_never_returns_to_the_holder(three: TestClient) -> None:
    for number in (1, 2, 3):
        promote(three, "fraud", number)
    assert three.delete("/api/v1/models/fraud/versions/2").status_code == 200
    assert roll_back(three).json()["number"] == 1
    assert_problem(roll_back(three), 409, "nothing_to_roll_back")
    promote(three, "fraud", 3)
    promote(three, "fraud", 1)
    assert three.delete("/api/v1/models/fraud/versions/3").status_code == 200
    assert_problem(roll_back(three), 409, "nothing_to_roll_back")
    assert not three.get("/api/v1/search", params={"q": "archived = true"}).json()["items"]


def test_rollback_takes_a_version_back_out_of_staging(three: TestClient) -> None:
    promote(three, "fraud", 1)
    promote(three, "fraud", 2)
    promote(three, "fraud", 1, "staging")
    assert roll_back(three).json()["number"] == 1
    assert pointer(three, "staging")["number"] is None


def test_rollback_restores_what_archiving_took_away(three: TestClient) -> None:
    promote(three, "fraud", 1)
    promote(three, "fraud", 1, "archived")
    assert roll_back(three).json()["number"] == 1
    assert stages(three)[1] == "production"


def test_rollback_of_what_never_moved_says_so(three: TestClient) -> None:
    assert_problem(roll_back(three), 404, "pointer_not_found")
    promote(three, "fraud", 1)
    assert_problem(roll_back(three), 409, "nothing_to_roll_back")
    assert_problem(roll_back(three, expected_generation=9), 409, "generation_conflict")


def test_a_removed_alias_keeps_generation_and_history(three: TestClient) -> None:
    promote(three, "fraud", 1, "champion")
    removed = three.delete("/api/v1/models/fraud/pointers/champion?expected_generation=1").json()
    assert (removed["pointer"]["number"], removed["pointer"]["generation"]) == (None, 2)
    assert promote(three, "fraud", 2, "champion").json()["pointer"]["generation"] == 3
    assert three.delete("/api/v1/models/fraud/pointers/champion").json()["moved"] is True
    assert three.delete("/api/v1/models/fraud/pointers/champion").json()["moved"] is False
    assert_problem(three.delete("/api/v1/models/fraud/pointers/canary"), 404, "pointer_not_found")


def test_what_does_not_exist_cannot_be_promoted(three: TestClient) -> None:
    assert_problem(promote(three, "fraud", 4), 404, "version_not_found")
    assert_problem(promote(three, "nobody", 1), 404, "model_not_found")
    assert_problem(promote(three, "fraud", 1, "v2"), 400, "invalid_name")
    assert_problem(three.get("/api/v1/models/fraud/pointers/production"), 404, "pointer_not_found")
    assert three.get("/api/v1/models/fraud/history").json() == {"items": [], "next": None}


def test_history_tells_who_moved_what_when_and_why_newest_first(three: TestClient) -> None:
    promote(three, "fraud", 1, reason="first")
    promote(three, "fraud", 2, reason="better")
    roll_back(three, reason="worse")
    promote(three, "fraud", 3, "champion")
    moves = three.get("/api/v1/models/fraud/history?pointer=production").json()["items"]
    assert [(m["generation"], m["from"], m["to"], m["kind"], m["reason"], m["actor"]) for m in moves] == [
        (3, 2, 1, "rollback", "worse", "admin"),
        (2, 1, 2, "promote", "better", "admin"),
        (1, None, 1, "promote", "first", "admin"),
    ]
    assert len(three.get("/api/v1/models/fraud/history").json()["items"]) == 4


def test_each_move_is_hashed_with_the_one_before(three: TestClient) -> None:
    """The digest is recomputed here from what the API shows, sharing no code with the server."""
    promote(three, "fraud", 1, reason="é ✓")
    promote(three, "fraud", 2)
    roll_back(three)
    previous = "sha256:" + "0" * 64
    for move in reversed(three.get("/api/v1/models/fraud/history").json()["items"]):
        assert move["previous_digest"] == previous
        said = {
            key: move[key]
            for key in ("model", "pointer", "generation", "from", "to", "kind", "actor", "reason")
        }
        said |= {"previous": previous, "at": move["at"].replace("Z", "+00:00")}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert move["digest"] == previous


def test_pages_of_history_neither_repeat_nor_skip(three: TestClient) -> None:
    for number in (1, 2, 3, 1, 2, 3, 1):
        promote(three, "fraud", number)
    seen, after = [], ""
    while after is not None:
        page = three.get(f"/api/v1/models/fraud/history?limit=2{'&after=' + after if after else ''}").json()
        seen += [move["generation"] for move in page["items"]]
        after = page["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_every_move_is_an_event(three: TestClient) -> None:
    since = three.get("/api/v1").json()["revision"]
    promote(three, "fraud", 1, "staging")
    revision = promote(three, "fraud", 1).json()["revision"]
    promote(three, "fraud", 2, "archived")
    feed = three.get(f"/api/v1/events?since={since}").json()
    told = [(e["kind"], e["data"].get("pointer"), e["data"].get("to")) for e in feed["events"]]
    assert told == [
        ("pointer.moved", "staging", 1),
        ("pointer.moved", "staging", None),
        ("pointer.moved", "production", 1),
        ("version.staged", None, None),
    ]
    assert feed["events"][2]["revision"] == revision
