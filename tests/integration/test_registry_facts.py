"""Facts of versions: values of four types, changes and what they leave, cards, lineage, comparison."""

import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry import audit, card, facts
from registry.browse import model_row, version_row
from registry.database import Database
from tests.integration.test_registry_access import People, _As
from tests.integration.test_registry_schema import EVERYBODY
from tests.servers.app import assert_problem, publish

ONE = "/api/v1/models/fraud/versions/1"
FACTS, CARD, LINEAGE = f"{ONE}/facts", f"{ONE}/card", f"{ONE}/lineage"
JSON = {"Content-Type": "application/json"}
SHA = "sha256:" + "0" * 64


@pytest.fixture
def fraud(api: TestClient) -> TestClient:
    publish(api, "fraud", metrics={"auc": 0.9}, tags={"team": "risk"})
    return api


@pytest.fixture
def people(api: TestClient) -> People:
    return People(api)


def change(api: Any, **wanted: Any) -> dict[str, Any]:
    answer = api.patch(FACTS, json=wanted)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def news(api: Any, since: int) -> list[dict[str, Any]]:
    return list(api.get(f"/api/v1/events?since={since}").json()["events"])


def revision(api: Any) -> int:
    return int(api.get("/api/v1").json()["revision"])


def test_what_was_published_is_the_first_of_the_facts(fraud: TestClient, database: Database) -> None:
    assert fraud.get(FACTS).json() == {
        "revision": 0,
        "tags": {"team": "risk"},
        "metadata": {},
        "parameters": {},
        "metrics": [{"name": "auc", "dataset": "", "slice": "", "value": 0.9}],
    }
    with database.read() as session:
        row = version_row(session, model_row(session, EVERYBODY, "fraud"), 1)
        assert facts.metrics_of(session, row) == {"auc": 0.9}
        assert facts.metrics_of(session, row, "test") == {}
        assert facts.tags_of(session, row) == {"team": "risk"}
        assert facts.metadata_of(session, row) == facts.parameters_of(session, row) == {}
        assert facts.card_of(session, row) == ""


VALUES: dict[str, Any] = {
    "text": "ü\n" * 5000,
    "empty": "",
    "edge": "x" * 128,
    "number": -1.5,
    "integer": 7,
    "huge": 1.7976931348623157e308,
    "tiny": 5e-324,
    "yes": True,
    "no": False,
    "time": {"time": "2026-11-22T11:00:00.123456+01:00"},
    "long ago": {"time": "1000-01-01T00:00:00Z"},
}


def test_values_come_back_as_they_were(fraud: TestClient) -> None:
    """Whether they are said at once or later."""
    wanted = {
        **VALUES,
        "time": {"time": "2026-11-22T10:00:00.123456Z"},
        "long ago": {"time": "1000-01-01T00:00:00.000000Z"},
    }
    for kind in ("metadata", "parameters"):
        found = change(fraud, **{kind: VALUES})[kind]
        assert found == wanted
        assert {name: type(value) for name, value in found.items()} == {
            name: float if name == "integer" else type(value) for name, value in wanted.items()
        }
    assert fraud.get(FACTS).json()["revision"] == 2
    publish(fraud, "fraud", {"m": b"2"}, metadata=VALUES, parameters=VALUES)
    at_once = fraud.get("/api/v1/models/fraud/versions/2/facts").json()
    assert (at_once["revision"], at_once["metadata"], at_once["parameters"]) == (0, wanted, wanted)


def test_metrics_of_datasets_can_be_published_but_none_twice(fraud: TestClient) -> None:
    measured = [{"name": "auc", "value": 0.9, "dataset": "test", "slice": part} for part in ("", "new")]
    publish(fraud, "fraud", {"m": b"2"}, metrics={"auc": 0.8}, measured=measured)
    found = fraud.get("/api/v1/models/fraud/versions/2/facts").json()
    whole = {"name": "auc", "value": 0.8, "dataset": "", "slice": ""}
    assert (found["revision"], found["metrics"]) == (0, [whole, *measured])
    for twice in ([*measured, measured[0]], [whole]):
        with pytest.raises(AssertionError, match="invalid_facts"):
            publish(fraud, "fraud", {"m": b"3"}, metrics={"auc": 0.8}, measured=twice)
    assert fraud.get("/api/v1/models/fraud").json()["latest"] == 2


def test_a_change_names_what_changes_and_leaves_the_rest(fraud: TestClient) -> None:
    change(fraud, metadata={"owner": "kim", "stage": 1}, tags={"scan": "clean"})
    found = change(fraud, metadata={"owner": None, "stage": "one"}, parameters={"depth": 3})
    assert (found["revision"], found["metadata"], found["parameters"]) == (2, {"stage": "one"}, {"depth": 3})
    assert found["tags"] == {"team": "risk", "scan": "clean"}
    shown = fraud.get(ONE).json()
    assert (shown["tags"], shown["metrics"], shown["fact_revision"]) == (found["tags"], {"auc": 0.9}, 2)


def test_metrics_are_of_a_slice_of_a_dataset(fraud: TestClient, database: Database) -> None:
    measured = [
        {"name": "auc", "value": 0.8, "dataset": "test"},
        {"name": "auc", "value": 0.7, "dataset": "test", "slice": "country=DE"},
        {"name": "auc", "value": 0.95},
    ]
    found = change(fraud, metrics=measured)["metrics"]
    assert [(m["dataset"], m["slice"], m["value"]) for m in found] == [
        ("", "", 0.95),
        ("test", "", 0.8),
        ("test", "country=DE", 0.7),
    ]
    assert fraud.get(ONE).json()["metrics"] == {"auc": 0.95}
    with database.read() as session:
        row = version_row(session, model_row(session, EVERYBODY, "fraud"), 1)
        assert facts.metrics_of(session, row, "test") == {"auc": 0.8}
        assert facts.metrics_of(session, row, "test", "country=DE") == {"auc": 0.7}
    gone = [{"name": "auc", "value": None, "dataset": "test"}, {"name": "none", "value": None}]
    assert len(change(fraud, metrics=gone)["metrics"]) == 2


def test_a_change_leaves_one_event_and_one_entry_with_what_was_before(
    fraud: TestClient, database: Database
) -> None:
    since, long = revision(fraud), "x" * 1000
    change(fraud, tags={"team": None, "note": long}, metrics=[{"name": "auc", "value": 0.99}])
    [event] = news(fraud, since)
    assert (event["kind"], event["model"]) == ("version.changed", "fraud")
    said = {"number": 1, "fact_revision": 1, "changed": ["metric", "tag"], "actor": "admin"}
    assert event["data"] == said
    with database.read() as session:
        entry = audit.entries(session, limit=1).items[0]
    assert (entry.action, entry.resource) == ("version.changed", "models/fraud/versions/1")
    changes = {each["name"]: (each["from"], each["to"]) for each in entry.data["changes"]}
    assert (changes["team"], changes["auc"]) == (("risk", None), (0.9, 0.99))
    assert changes["note"][1].startswith("x" * 128 + "… sha256:")
    assert len(changes["note"][1]) < 300


def test_what_changes_nothing_leaves_nothing(fraud: TestClient) -> None:
    change(fraud, metadata={"on": True, "n": 1})
    since = revision(fraud)
    for same in ({}, {"tags": {"team": "risk", "x": None}}, {"metadata": {"on": True, "n": 1.0}}):
        assert change(fraud, **same)["revision"] == 1
    for path, body in ((CARD, {"text": ""}), (LINEAGE, {})):
        assert fraud.put(path, json=body).json()["revision"] == 1
    assert news(fraud, since) == []
    assert change(fraud, metadata={"on": 1})["revision"] == 2, "a number is not a boolean"


def test_whoever_was_slower_is_refused_and_changes_nothing(fraud: TestClient) -> None:
    change(fraud, tags={"a": "1"}, expected_revision=0)
    stale: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", FACTS, {"tags": {"a": "2"}}),
        ("PUT", CARD, {"text": "# Other"}),
        ("PUT", LINEAGE, {"run": "2"}),
    ]
    for method, path, body in stale:
        answer = fraud.request(method, path, json={**body, "expected_revision": 0})
        assert assert_problem(answer, 409, "facts_conflict")["revision"] == 1
    found = fraud.get(FACTS).json()
    assert (found["revision"], found["tags"]["a"]) == (1, "1")


NO_FACTS: list[dict[str, Any]] = [
    {"tags": {"a": 1}},
    {"tags": {"": "a"}},
    {"tags": {"a\nb": "a"}},
    {"tags": {"a": "x" * 10_001}},
    {"tags": {"a": "\x00"}},
    {"metadata": {"a": [1]}},
    {"metadata": {"a": {"time": "yesterday"}}},
    {"metadata": {"a": {"time": "2026-11-22T10:00:00"}}},
    {"metadata": {"a": {"time": "9999-12-31T23:59:59-23:00"}}},
    {"metadata": {"a": {"time": 7}}},
    {"metadata": {"a": {"time": "0999-12-31T00:00:00Z"}}},
    {"metadata": {"a": 10**400}},
    {"metadata": {"x" * 129: 1}},
    {"metrics": [{"name": "auc", "value": "high"}]},
    {"metrics": [{"name": "auc", "value": True}]},
    {"metrics": [{"name": "auc", "value": 1, "source": "x"}]},
    {"metrics": [{"name": "auc"}]},
    {"description": "other"},
    {"tags": {str(n): "x" for n in range(101)}},
]


def test_what_cannot_be_a_fact_is_refused(fraud: TestClient) -> None:
    for wanted in NO_FACTS:
        assert_problem(fraud.patch(FACTS, json={"parameters": {"kept": 1}, **wanted}), 422, "invalid_request")
    assert_problem(fraud.patch(FACTS, content='{"metadata": {"a": NaN}}', headers=JSON), 400, "invalid_json")
    assert fraud.get(FACTS).json()["revision"] == 0


def test_a_metric_given_twice_or_too_many_facts_lose_nothing(fraud: TestClient) -> None:
    twice = [{"name": "auc", "value": value} for value in (1, 2)]
    assert_problem(fraud.patch(FACTS, json={"metrics": twice}), 400, "invalid_facts")
    change(fraud, tags={str(n): "x" for n in range(99)})
    found = assert_problem(
        fraud.patch(FACTS, json={"tags": {"one more": "x", "0": "y"}}), 409, "too_many_facts"
    )
    assert found["limit"] == 100
    assert fraud.get(FACTS).json()["tags"]["0"] == "x"
    change(fraud, tags={"one more": "x", "0": None})


def test_facts_are_for_publishers_and_of_versions_that_are_there(fraud: TestClient, people: People) -> None:
    reading = _As(fraud, people.robot("reader", "reader"))
    assert reading.get(FACTS).status_code == 200
    for method, path, body in (("PATCH", FACTS, {}), ("PUT", CARD, {"text": ""}), ("PUT", LINEAGE, {})):
        assert_problem(reading.request(method, path, json=body), 403, "forbidden")
    stranger = _As(fraud, people.robot("stranger", "owner", "other-*"))
    for path in (FACTS, CARD, LINEAGE, "/api/v1/compare?left=fraud/1&right=fraud/1"):
        assert_problem(stranger.get(path), 404, "model_not_found")
        assert_problem(fraud.get(path.replace("/1", "/9")), 404, "version_not_found")
    fraud.delete(ONE)
    assert_problem(fraud.patch(FACTS, json={}), 410, "version_deleted")


def test_changes_at_the_same_time_come_one_after_the_other(fraud: TestClient) -> None:
    """Of those who expect the same revision one wins; the others are refused, and lose nothing of its."""
    since = revision(fraud)

    def contend(number: int) -> int:
        wanted = {"tags": {f"t{number}": "x"}, "expected_revision": 0}
        return int(fraud.patch(FACTS, json=wanted).status_code)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(contend, range(8))) == [200, *[409] * 7]
        added = pool.map(lambda n: change(fraud, metadata={f"m{n}": n})["revision"], range(8))
        assert sorted(added) == list(range(2, 10))
    found = fraud.get(FACTS).json()
    assert (found["revision"], len(found["tags"]), len(found["metadata"])) == (9, 2, 8)
    assert [event["data"]["fact_revision"] for event in news(fraud, since)] == list(range(1, 10))


def test_the_revision_only_grows(fraud: TestClient, database: Database) -> None:
    change(fraud, tags={"a": "1"})
    statement = sa.text("UPDATE versions SET fact_revision = 0")
    with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(statement)


# --- cards

CARD_TEXT = """# Intended use

Scores *payments*.

## Limits & `known` gaps

| slice | auc |
|---|---|
| DE | 0.7 |

Setext
======
"""


def test_a_card_has_sections_and_is_rendered(fraud: TestClient) -> None:
    found = fraud.put(CARD, json={"text": CARD_TEXT}).json()
    assert (found["revision"], found["text"]) == (1, CARD_TEXT)
    assert found["sections"] == ["Intended use", "Limits & known gaps", "Setext"]
    for part in ("<h1>Intended use</h1>", "<em>payments</em>", "<td>0.7</td>", "Limits &amp; "):
        assert part in found["html"]
    assert fraud.get(CARD).json() == found
    assert fraud.put(CARD, json={"text": ""}).json() == {
        "revision": 2,
        "text": "",
        "sections": [],
        "html": "",
    }


HOSTILE = [
    "<script>alert(1)</script>",
    "a <img src=x onerror=alert(1)> b",
    "<svg/onload=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](<java\nscript:alert(1)>)",
    "[a](\x01javascript:alert(1))",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](vbscript:x)",
    "[a](ms-settings:x)",
    "[a](data:image/png;base64,AAAA)",
    "<intent+x:alert>",
    "[a](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "![a](http://tracker.example/x.png)",
    "![a][b]\n\n[b]: http://tracker.example/x.png",
    '[a](http://x "\\" onmouseover=alert(1) x=\\"")',
    "[a]: javascript:alert(1)\n\n[a]",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "<style>@import 'http://x'</style>",
    "<!-- --><b>x</b><![CDATA[x]]>",
    "| <b>x</b> |\n|---|\n| [a](javascript:alert(1)) |",
]
TAGS = {"h1", "h2", "p", "em", "strong", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"}


class _Shown(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", {data: None}))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_card_is_text(text: str) -> None:
    html = card.html_of(f"# Safe\n\n{text}\n")
    for tag, attributes in _Shown(html).tags:
        assert tag in TAGS, html
        assert attributes.keys() <= {"href", "rel", "title", "class"}, html
        assert not re.match(
            r"\s*(?!https?:|mailto:)[a-z][a-z0-9+.-]*:", attributes.get("href") or "", re.IGNORECASE
        ), html


def test_a_large_hostile_card_is_rendered_in_time() -> None:
    """Nesting is bounded; none of these takes much longer than as much plain text."""
    for piece in ("[", "*a_", "> ", "`", "![", "<", "&", "| a ", "\n- ", "[a](", "__"):
        text = piece * (card.MAX_CARD_BYTES // len(piece) // 4)
        assert card.sections_of(text) == []


def test_a_card_of_too_many_bytes_is_refused(fraud: TestClient) -> None:
    assert fraud.put(CARD, json={"text": "ü" * (128 * 1024)}).status_code == 200
    assert_problem(fraud.put(CARD, json={"text": "ü" * (128 * 1024) + "x"}), 400, "invalid_facts")
    assert_problem(fraud.put(CARD, json={"text": "x" * (256 * 1024 + 1)}), 422, "invalid_request")


# --- lineage

ORIGIN: dict[str, Any] = {
    "run": "runs/42",
    "repository": "git@git.example:risk/fraud.git",
    "commit": "0123abc",
    "image": "images.example/train@" + SHA,
    "datasets": {"train": SHA, "test": "md5:0123456789abcdef"},
}


def test_lineage_leads_to_parents_and_children(fraud: TestClient) -> None:
    publish(fraud, "base")
    publish(fraud, "fraud", {"m": b"2"})
    assert_problem(
        fraud.put(LINEAGE, json={"parents": [{"model": "base", "number": 1}]}), 400, "invalid_facts"
    )
    parents = [{"model": "base", "number": 1}, {"model": "fraud", "number": 1}]
    two = "/api/v1/models/fraud/versions/2"
    found = fraud.put(f"{two}/lineage", json={**ORIGIN, "parents": parents[::-1]}).json()
    assert found == {**ORIGIN, "parents": parents, "children": [], "revision": 1}
    assert fraud.get(f"{two}/lineage").json() == found
    assert fraud.get(LINEAGE).json()["children"] == [{"model": "fraud", "number": 2}]
    assert fraud.get(ONE).json()["fact_revision"] == 0, "a child changes nothing of its parent"
    shorter = fraud.put(f"{two}/lineage", json={"run": "43", "parents": parents[:1]}).json()
    assert (shorter["parents"], shorter["datasets"], shorter["commit"]) == (parents[:1], {}, "")
    assert fraud.put(f"{two}/lineage", json={"run": "43", "parents": parents[:1]}).json()["revision"] == 2


def test_what_one_may_not_read_is_not_in_the_lineage_and_stays_there(
    fraud: TestClient, people: People
) -> None:
    publish(fraud, "secret")
    publish(fraud, "fraud", {"m": b"2"})
    two = "/api/v1/models/fraud/versions/2/lineage"
    hidden = {"model": "secret", "number": 1}
    fraud.put(two, json={"parents": [hidden]})
    mine = _As(fraud, people.robot("robot", "publisher", "fraud"))
    assert mine.get(two).json()["parents"] == []
    assert_problem(mine.put(two, json={"parents": [hidden]}), 404, "model_not_found")
    assert mine.put(two, json={"parents": [{"model": "fraud", "number": 1}]}).status_code == 200
    assert fraud.get(two).json()["parents"] == [{"model": "fraud", "number": 1}, hidden]
    theirs = _As(fraud, people.robot("other", "reader", "secret"))
    assert theirs.get("/api/v1/models/secret/versions/1/lineage").json()["children"] == []


def test_a_lineage_that_cannot_be_is_refused(fraud: TestClient) -> None:
    publish(fraud, "fraud", {"m": b"2"})
    publish(fraud, "fraud", {"m": b"3"})
    one, two = {"model": "fraud", "number": 1}, {"model": "fraud", "number": 2}
    refused: list[tuple[dict[str, Any], int, str]] = [
        ({"parents": [two]}, 400, "invalid_facts"),
        ({"parents": [{"model": "fraud", "number": 3}]}, 400, "invalid_facts"),
        ({"parents": [one, one]}, 400, "invalid_facts"),
        ({"parents": [{"model": "fraud", "number": 9}]}, 404, "version_not_found"),
        ({"datasets": {"train": "0" * 64}}, 400, "invalid_facts"),
        ({"repository": "https://kim:secret@git.example/x"}, 400, "invalid_facts"),
        ({"run": "a\nb"}, 422, "invalid_request"),
        ({"source": "s3://x"}, 422, "invalid_request"),
    ]
    path = "/api/v1/models/fraud/versions/2/lineage"
    for body, status, code in refused:
        found = assert_problem(fraud.put(path, json=body), status, code)
        assert "secret" not in str(found)
    fraud.put("/api/v1/models/fraud/versions/3/lineage", json={"parents": [one]})
    fraud.delete(ONE)
    assert_problem(fraud.put(path, json={"parents": [one]}), 410, "version_deleted")
    kept = {"run": "7", "parents": [one]}
    assert fraud.put("/api/v1/models/fraud/versions/3/lineage", json=kept).json()["parents"] == [one]


# --- comparison


def test_two_versions_side_by_side(fraud: TestClient) -> None:
    files = {"a": b"1", "b": b"2"}
    publish(fraud, "fraud", files, metrics={"auc": 0.95, "f1": 0.5}, tags={"team": "risk"})
    fraud.patch(FACTS, json={"metadata": {"on": True, "same": 1}, "parameters": {"depth": 3}})
    two = {"metadata": {"on": 1, "same": 1}, "metrics": [{"name": "auc", "value": 0.5, "dataset": "test"}]}
    fraud.patch("/api/v1/models/fraud/versions/2/facts", json=two)
    found = fraud.get("/api/v1/compare?left=fraud/1&right=fraud/2").json()
    assert [(m["name"], m["dataset"], m["left"], m["right"]) for m in found["metrics"]] == [
        ("auc", "", 0.9, 0.95),
        ("auc", "test", None, 0.5),
        ("f1", "", None, 0.5),
    ]
    assert found["metrics"][0]["difference"] == pytest.approx(0.05)
    assert found["facts"] == [
        {"kind": "metadata", "name": "on", "left": True, "right": 1.0},
        {"kind": "parameter", "name": "depth", "left": 3.0, "right": None},
    ]
    assert [(f["path"], bool(f["left"]), bool(f["right"])) for f in found["files"]] == [
        ("a", False, True),
        ("b", False, True),
        ("model.bin", True, False),
    ]
    assert (found["left"]["number"], found["same_content"], found["same_signature"]) == (1, False, True)
    same = fraud.get("/api/v1/compare?left=fraud/2&right=fraud/2").json()
    assert (same["same_content"], same["facts"], same["files"]) == (True, [], [])


def test_only_versions_can_be_compared(fraud: TestClient, people: People) -> None:
    for side in (
        "fraud",
        "fraud/",
        "fraud/x",
        "fraud/0",
        "fraud/1/2",
        "fraud/²",
        "../1",
        "fraud/99999999999",
    ):
        answer = fraud.get("/api/v1/compare", params={"left": "fraud/1", "right": side})
        assert_problem(answer, 400, "invalid_name")
    publish(fraud, "secret")
    mine = _As(fraud, people.robot("robot", "reader", "fraud"))
    answer = mine.get("/api/v1/compare", params={"left": "fraud/1", "right": "secret/1"})
    assert_problem(answer, 404, "model_not_found")
