"""Deleting a version, bringing it back, and forbidding it; the database refuses the same by itself."""

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry.database import Database, utc_now
from registry.sweep import Rules, sweep
from registry.tables import VersionRow
from tests.servers.app import assert_problem, promote, publish

ONE = "/api/v1/models/fraud/versions/1"


def events(api: TestClient) -> list[tuple[str, dict[str, object]]]:
    feed = api.get("/api/v1/events?since=0&wait=0").json()["events"]
    return [(event["kind"], event["data"]) for event in feed]


def test_a_deleted_version_is_gone_for_everybody(api: TestClient) -> None:
    publish(api, "fraud")
    answer = api.delete(ONE)
    assert answer.status_code == 200
    said = answer.json()
    assert (said["model"], said["number"], said["deleted_by"], said["purged_at"]) == (
        "fraud",
        1,
        "admin",
        None,
    )
    assert said["deleted_at"] < said["restorable_until"]
    for path in ("", "/downloads", "/files/model.bin"):
        assert_problem(api.get(f"{ONE}{path}"), 410, "version_deleted")
    assert_problem(promote(api, "fraud", 1), 410, "version_deleted")
    assert api.get("/api/v1/models/fraud/versions").json()["items"] == []
    assert [v["number"] for v in api.get("/api/v1/models/fraud/versions?deleted=true").json()["items"]] == [1]
    assert events(api)[-1] == ("version.deleted", {"number": 1, "actor": "admin"})


def test_deleting_and_restoring_twice_changes_nothing_the_second_time(api: TestClient) -> None:
    before = publish(api, "fraud")
    assert api.delete(ONE).json() == api.delete(ONE).json()
    assert api.post(f"{ONE}/restore").json() == before
    assert api.post(f"{ONE}/restore").json() == before == api.get(ONE).json()
    assert [kind for kind, _ in events(api)] == ["version.created", "version.deleted", "version.restored"]
    assert api.get(f"{ONE}/files/model.bin").content == b"fraud"


@pytest.mark.parametrize("pointer", ["production", "staging", "champion"])
def test_a_version_that_a_pointer_holds_cannot_be_deleted(api: TestClient, pointer: str) -> None:
    publish(api, "fraud")
    promote(api, "fraud", 1, pointer)
    assert assert_problem(api.delete(ONE), 409, "version_in_use")["pointers"] == [pointer]
    api.delete(f"/api/v1/models/fraud/pointers/{pointer}")
    assert api.delete(ONE).status_code == 200


def test_a_legal_hold_forbids_deletion_until_it_is_released(api: TestClient) -> None:
    publish(api, "fraud")
    for _ in range(2):
        assert api.put(f"{ONE}/hold", json={"reason": "case 7"}).json()["legal_hold"] == "case 7"
    assert_problem(api.delete(ONE), 409, "version_in_use")
    for _ in range(2):
        assert api.request("DELETE", f"{ONE}/hold").json()["legal_hold"] is None
    assert api.delete(ONE).status_code == 200
    assert_problem(api.put(f"{ONE}/hold", json={"reason": "too late"}), 410, "version_deleted")
    held = ("version.held", {"number": 1, "reason": "case 7", "actor": "admin"})
    assert events(api)[1:3] == [held, ("version.released", {"number": 1, "actor": "admin"})]


def test_a_hold_needs_a_reason(api: TestClient) -> None:
    publish(api, "fraud")
    assert api.put(f"{ONE}/hold", json={"reason": ""}).status_code == 422
    assert api.put(f"{ONE}/hold", json={}).status_code == 422


def test_what_does_not_exist_cannot_be_deleted(api: TestClient) -> None:
    assert_problem(api.delete(ONE), 404, "model_not_found")
    publish(api, "fraud")
    for method, path in [("DELETE", ""), ("POST", "/restore"), ("DELETE", "/hold")]:
        assert_problem(
            api.request(method, f"/api/v1/models/fraud/versions/2{path}"), 404, "version_not_found"
        )


def test_a_version_cannot_be_restored_once_its_window_is_over(api: TestClient, database: Database) -> None:
    publish(api, "fraud")
    api.delete(ONE)
    with database.write() as session:
        long_ago = sa.update(VersionRow).values(deleted_at=sa.func.coalesce(VersionRow.created_at, utc_now()))
        session.execute(long_ago)
    app_settings = api.app.state.settings  # type: ignore[attr-defined]
    app_settings.restore_window_s = 0
    assert_problem(api.post(f"{ONE}/restore"), 409, "version_purged")


def test_a_purged_version_cannot_be_restored_even_in_a_longer_window(
    api: TestClient, database: Database
) -> None:
    publish(api, "fraud")
    api.delete(ONE)
    store = api.app.state.store  # type: ignore[attr-defined]
    assert sweep(database, store, Rules(0, 3600, 1)).purged == 1
    assert_problem(api.post(f"{ONE}/restore"), 409, "version_purged")
    assert api.delete(ONE).json()["purged_at"] is not None
    assert_problem(api.get(ONE), 410, "version_deleted")
    assert publish(api, "fraud")["number"] == 2


REFUSED = {
    "a tombstone on a version in production": "UPDATE versions SET deleted_at = created_at WHERE number = 1",
    "a tombstone on a version under legal hold": "UPDATE versions SET deleted_at = created_at WHERE number = 2",
    "a legal hold on a deleted version": "UPDATE versions SET legal_hold = 'x' WHERE number = 3",
    "a pointer to a deleted version": "UPDATE pointers SET number = 3, generation = generation + 1",
    "a purge before deletion": "UPDATE versions SET purged_at = created_at WHERE number = 2",
    "a purged version that comes back": "UPDATE versions SET deleted_at = NULL WHERE number = 4",
    "a purge that is taken back": "UPDATE versions SET purged_at = NULL WHERE number = 4",
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_itself_refuses(api: TestClient, database: Database, what: str) -> None:
    for content in (b"1", b"2", b"3", b"4"):
        publish(api, "fraud", {"m": content})
    promote(api, "fraud", 1)
    api.put("/api/v1/models/fraud/versions/2/hold", json={"reason": "x"})
    api.delete("/api/v1/models/fraud/versions/4")
    sweep(database, api.app.state.store, Rules(0, 3600, 1))  # type: ignore[attr-defined]
    api.delete("/api/v1/models/fraud/versions/3")
    with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(sa.text(REFUSED[what]))
