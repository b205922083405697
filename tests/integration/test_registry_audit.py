"""The audit trail: what is recorded, how it is found again, and what the database refuses to do to it."""

import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import audit, fsck
from registry.app import create_app
from registry.audit import Entry
from registry.audit_export import Exporter, TrailDamaged, export_in_background, stored_checkpoints
from registry.audit_verify import BATCH, MOST, Problem, verify
from registry.checkpoints import Checkpoint, Found, Mark, Signer
from registry.database import Database
from registry.errors import InvalidCursor
from registry.settings import Settings
from registry.sweep import Rules, sweep
from registry.tables import AuditRow
from storage.disk import open_disk
from storage.layout import CHECKPOINTS, checkpoint_key
from storage.memory import MemoryStore
from tests.servers.app import BASE
from tests.servers.trail import (
    KEY,
    SECRET,
    Caller,
    disarmed,
    grow,
    head_of,
    overwrite,
    recomputed,
    redigested,
    rows_of,
)

SIGNER = Signer(KEY)
ZERO = "sha256:" + "0" * 64


def all_entries(database: Database, **asked: Any) -> list[Entry]:
    """Newest first."""
    with database.read() as session:
        return list(audit.entries(session, limit=1000, **asked).items)


def problems(
    session: audit.Session, store: MemoryStore | None = None, signer: Signer = SIGNER
) -> list[Problem]:
    return verify(session, stored_checkpoints(store) if store else (), [signer.public_key]).problems


# --- recording


def test_an_entry_says_who_did_what_and_when(database: Database) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    with database.write() as session:
        audit.record(session, Caller(), "pointer.moved", "models/fraud/pointers/production", {"to": 2})
    [entry] = all_entries(database)
    assert before < entry.at < datetime.now(UTC) + timedelta(minutes=1)
    assert entry == Entry(
        sequence=1,
        at=entry.at,
        workspace="default",
        actor="ada",
        token_id="t0123456789",
        action="pointer.moved",
        resource="models/fraud/pointers/production",
        outcome="done",
        data={"to": 2},
        request_id="0f" * 16,
        previous_digest=ZERO,
        digest=entry.digest,
    )


def test_what_was_refused_is_recorded_and_what_concerns_the_whole_instance(database: Database) -> None:
    with database.write() as session:
        audit.record(session, Caller(token_id=None), "access.denied", "models/fraud", outcome="denied")
        audit.record(session, Caller(), "workspace.created", "workspaces/risk", workspace="")
    created, denied = all_entries(database)
    assert (denied.outcome, denied.token_id, denied.data, denied.workspace) == ("denied", None, {}, "default")
    assert (created.workspace, created.previous_digest) == ("", denied.digest)


def test_a_transaction_that_fails_leaves_no_entry_and_no_gap(database: Database) -> None:
    def record_and_fail() -> None:
        with database.write() as session:
            audit.record(session, Caller(), "a", "b")
            raise ZeroDivisionError

    grow(database, 1)
    with pytest.raises(ZeroDivisionError):
        record_and_fail()
    grow(database, 1)
    assert [entry.sequence for entry in all_entries(database)] == [2, 1]
    with database.read() as session:
        assert problems(session) == []


DATA: dict[str, Any] = {
    "numbers": {"a": [0, -1, 1.0, 1e22, 1e-7, -0.0, 2**70, True, None]},
    "text": {"größe": "ü\x00\x1b[31m\u2028\U0001f600", "": '"\\/'},
    "keys of numbers": {1: "a", 10: "b", 2: "c"},
    "tuples": {"a": (1, (2,))},
    "deep": {"a": {"b": {"c": [[[{}]]]}}},
}


@pytest.mark.parametrize("what", DATA)
def test_data_comes_back_as_it_was_hashed(database: Database, what: str) -> None:
    with database.write() as session:
        audit.record(session, Caller(), "a", "b", DATA[what])
    with database.read() as session:
        assert problems(session) == []


def test_data_that_is_no_json_is_refused(database: Database) -> None:
    for data in ({"a": math.nan}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)), database.write() as session:
            audit.record(session, Caller(), "a", "b", data)
    assert all_entries(database) == []


def test_whatever_somebody_tried_can_be_recorded(database: Database) -> None:
    """What is refused comes from anybody: it is spelled out where it could fool a reader, and cut where it is too long."""
    caller = Caller(name="n" * 300, token_id="t" * 33, request_id="r" * 65)
    with database.write() as session:
        audit.record(
            session, caller, "access.denied", "a\x00b\x1b[2J\n\ud800ü'" + "x" * 600, outcome="denied"
        )
    [entry] = all_entries(database)
    assert entry.resource.startswith(r"a\x00b\x1b[2J\n\ud800ü'x")
    cut = (entry.actor, entry.token_id, entry.request_id, entry.resource)
    assert [(len(text), text[-1]) for text in cut if text] == [(256, "…"), (32, "…"), (64, "…"), (512, "…")]
    with database.read() as session:
        assert problems(session) == []


def test_a_trail_without_a_head_takes_nothing(database: Database) -> None:
    with database.write() as session:
        with disarmed(session):
            session.execute(sa.text("DELETE FROM audit_head"))
        with pytest.raises(RuntimeError, match="audit verify"):
            audit.record(session, Caller(), "a", "b")


# --- finding


@pytest.fixture
def told(database: Database) -> Database:
    """Six entries, of which the first is an hour old."""
    with database.write() as session:
        for resource in (
            "models/fraud",
            "models/fraud/versions/1",
            "models/fraud2",
            "models/fraud-eu",
            "Models/fraud",
        ):
            audit.record(session, Caller(), "version.created", resource)
        eve = Caller(name="eve", workspace="risk")
        audit.record(session, eve, "access.denied", "models/fraud", outcome="denied")
        with disarmed(session):
            session.execute(
                sa.update(AuditRow).where(AuditRow.sequence == 1).values(at=datetime(2026, 1, 1, tzinfo=UTC))
            )
    return database


FILTERS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "nothing": ({}, [6, 5, 4, 3, 2, 1]),
    "workspace": ({"workspace": "risk"}, [6]),
    "the whole instance": ({"workspace": ""}, []),
    "actor": ({"actor": "ada"}, [5, 4, 3, 2, 1]),
    "action": ({"action": "access.denied"}, [6]),
    "outcome": ({"outcome": "done"}, [5, 4, 3, 2, 1]),
    "a resource and what is below it, but not its neighbours": ({"resource": "models/fraud"}, [6, 2, 1]),
    "a folder": ({"resource": "models/"}, [6, 4, 3, 2, 1]),
    "since": ({"since": datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)}, [6, 5, 4, 3, 2]),
    "since includes that moment": ({"since": datetime(2026, 1, 1, tzinfo=UTC)}, [6, 5, 4, 3, 2, 1]),
    "until excludes that moment": ({"until": datetime(2026, 1, 1, tzinfo=UTC)}, []),
    "until": ({"until": datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)}, [1]),
    "all at once": (
        {"actor": "eve", "resource": "models/fraud", "outcome": "denied", "workspace": "risk"},
        [6],
    ),
}


@pytest.mark.parametrize("what", FILTERS)
def test_entries_are_found_by(told: Database, what: str) -> None:
    asked, expected = FILTERS[what]
    assert [entry.sequence for entry in all_entries(told, **asked)] == expected


def test_pages_neither_repeat_nor_skip_while_entries_are_added(told: Database) -> None:
    seen: list[int] = []
    after = None
    while True:
        with told.read() as session:
            page = audit.entries(session, actor="ada", limit=2, after=after)
        seen += [entry.sequence for entry in page.items]
        grow(told, 1)
        if (after := page.next) is None:
            break
    assert seen == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("after", ["x", "WzFd!", "WyJhIl0=", "WzEsMl0="])
def test_a_cursor_that_is_none_is_refused(told: Database, after: str) -> None:
    with pytest.raises(InvalidCursor), told.read() as session:
        audit.entries(session, limit=1, after=after)


# --- what the database refuses

APPEND = (
    "INTO audit (sequence, at, workspace, actor, action, resource, outcome, data, request_id, previous_digest, digest)"
    " SELECT {sequence}, at, workspace, actor, action, resource, {outcome}, data, request_id, {previous}, {digest}"
    " FROM audit WHERE sequence = 3"
)


def append(verb: str = "INSERT", **columns: str) -> str:
    """A statement that appends a proper entry, but for `columns`."""
    proper = {"sequence": "4", "outcome": "'done'", "previous": "digest", "digest": f"'{ZERO}'"}
    return f"{verb} {APPEND}".format(**proper | columns)


REFUSED = {
    "an entry that changes": "UPDATE audit SET actor = 'nobody' WHERE sequence = 2",
    "an entry that changes nothing": "UPDATE audit SET actor = actor",
    "an entry that vanishes": "DELETE FROM audit WHERE sequence = 3",
    "an entry that leaves a gap": append(sequence="5"),
    "an entry in front of the others": append(sequence="0"),
    "an entry with a number that is there": append(sequence="3"),
    "an entry that follows another than the last": append(previous="previous_digest"),
    "an entry with an outcome of its own": append(outcome="'maybe'"),
    "an entry with a digest that is none": append(digest="'sha256:00'"),
    "an entry with a digest in upper case": append(digest=f"'{ZERO.replace('00', 'AA')}'"),
    "a head that goes back": "UPDATE audit_head SET sequence = sequence - 1",
    "a head that stays, but says something else": f"UPDATE audit_head SET digest = '{ZERO}'",
    "a head that leaps": "UPDATE audit_head SET sequence = sequence + 2",
    "a head that vanishes": "DELETE FROM audit_head",
    "a second head": f"INSERT INTO audit_head (id, sequence, digest) VALUES (2, 0, '{ZERO}')",
}
REFUSED_BY_SQLITE = {
    "an entry that takes the place of another": append(
        "INSERT OR REPLACE", sequence="3", previous="previous_digest"
    ),
    "a head that takes the place of another": f"INSERT OR REPLACE INTO audit_head (id, sequence, digest) VALUES (1, 0, '{ZERO}')",
}
REFUSED_BY_POSTGRESQL = {
    "a trail that is emptied": "TRUNCATE audit",
    "a head that is emptied": "TRUNCATE audit_head",
}


def test_an_entry_without_fault_is_taken(database: Database) -> None:
    """Else the refusals below could be for another reason."""
    grow(database, 3)
    with database.engine.begin() as connection:
        connection.execute(sa.text(append()))
    with database.write() as session:
        assert head_of(session) == Mark(4, ZERO)


@pytest.mark.parametrize("what", [*REFUSED, *REFUSED_BY_SQLITE, *REFUSED_BY_POSTGRESQL])
def test_the_database_refuses(database: Database, what: str) -> None:
    own = REFUSED_BY_SQLITE if database.is_sqlite else REFUSED_BY_POSTGRESQL
    if what not in (every := REFUSED | own):
        return
    grow(database, 3)
    with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(sa.text(every[what]))
    with database.write() as session:
        assert (len(rows_of(session)), head_of(session).sequence) == (3, 3)


# --- what the verifier says


@pytest.fixture
def signed(database: Database) -> tuple[Database, MemoryStore]:
    """Twelve entries, with checkpoints of the 3rd, 6th and 9th."""
    store = MemoryStore()
    exporter = Exporter(database, store, SIGNER)
    for seed in range(4):
        grow(database, 3, seed=seed)
        if seed < 3:
            exporter.export()
    return database, store


def kinds(found: list[Problem]) -> list[tuple[str, int, int]]:
    return [(problem.kind, problem.first, problem.last) for problem in found]


TAMPERED: dict[str, tuple[str, list[tuple[str, int, int]]]] = {
    "another actor": ("UPDATE audit SET actor = 'x' WHERE sequence = 5", [("changed", 5, 5)]),
    "no token": ("UPDATE audit SET token_id = 'x' WHERE sequence = 5", [("changed", 5, 5)]),
    "a time that is none": ("UPDATE audit SET at = {never} WHERE sequence = 5", [("changed", 5, 5)]),
    "data that a reader could take for other data": (
        """UPDATE audit SET data = ('{{"number"\\: 0,' || substr(CAST(data AS text), 2)){json} WHERE sequence = 5""",
        [("changed", 5, 5)],
    ),
    "an entry that says it was another": (
        "UPDATE audit SET sequence = 50 WHERE sequence = 12",
        [("missing", 12, 49), ("changed", 50, 50), ("inserted", 13, 50)],
    ),
    "an entry removed": ("DELETE FROM audit WHERE sequence = 5", [("missing", 5, 5)]),
    "a signed entry removed": ("DELETE FROM audit WHERE sequence = 6", [("missing", 6, 6)]),
    "entries removed": ("DELETE FROM audit WHERE sequence IN (1, 2, 5)", [("missing", 1, 2), ("missing", 5, 5)]),
    "the end cut off": ("DELETE FROM audit WHERE sequence > 10", [("missing", 11, 12)]),
    "everything removed": ("DELETE FROM audit", [("missing", 1, 12)]),
    "no head": ("DELETE FROM audit_head", [("head", 12, 12)]),
    "another head": (f"UPDATE audit_head SET digest = '{ZERO}'", [("head", 12, 12)]),
    "a head before the end": ("UPDATE audit_head SET sequence = 10", [("inserted", 11, 12)]),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_told_as_what_it_is(signed: tuple[Database, MemoryStore], what: str) -> None:
    database, store = signed
    statement, expected = TAMPERED[what]
    never, json = ("'never'", "") if database.is_sqlite else ("'infinity'", "::json".replace(":", "\\:"))
    with database.write() as session:
        assert problems(session, store) == []
        with disarmed(session):
            session.execute(sa.text(statement.format(never=never, json=json)))
        assert sorted(kinds(problems(session, store))) == sorted(expected)
        session.rollback()


def test_an_entry_replaced_with_its_digest_is_told_by_the_next(signed: tuple[Database, MemoryStore]) -> None:
    database, store = signed
    with database.write() as session:
        rows, head = rows_of(session), head_of(session)
        forged = [*rows[:3], redigested({**rows[3], "actor": "x"}, rows[2]["digest"]), *rows[4:]]
        overwrite(session, rows, forged, head)
        [problem] = problems(session, store)
        assert kinds([problem]) == [("unlinked", 5, 5)]
        assert "not written after entry 4" in problem.detail
        session.rollback()


def test_a_trail_that_was_computed_anew_is_told_by_a_checkpoint(signed: tuple[Database, MemoryStore]) -> None:
    database, store = signed
    with database.write() as session:
        rows = rows_of(session)
        overwrite(session, rows, *recomputed([*rows[:4], {**rows[4], "actor": "x"}, *rows[5:]]))
        assert problems(session) == []
        report = verify(session, stored_checkpoints(store), [SIGNER.public_key])
        assert kinds(report.problems) == [("rewritten", 4, 6)]
        assert report.signed_through == 3
        session.rollback()


def test_a_tail_that_was_cut_and_the_head_rewound_is_told_by_a_checkpoint(
    signed: tuple[Database, MemoryStore],
) -> None:
    database, store = signed
    with database.write() as session:
        rows = rows_of(session)
        overwrite(session, rows, *recomputed(rows[:7]))
        [problem] = problems(session, store)
        assert kinds([problem]) == [("missing", 8, 9)]
        assert "entry 9 was signed on" in problem.detail
        assert "no checkpoint vouches for the entries after 6" in problem.detail
        overwrite(session, rows[:7], *recomputed([]))
        assert kinds(problems(session, store)) == [("missing", 1, 9)]
        session.rollback()


def test_a_number_that_is_there_twice_is_told(signed: tuple[Database, MemoryStore]) -> None:
    database, store = signed
    if database.is_sqlite:
        return  # the number is what identifies a row there
    with database.write() as session:
        with disarmed(session):
            session.execute(sa.text("ALTER TABLE audit DROP CONSTRAINT pk_audit"))
            session.execute(sa.text("INSERT INTO audit SELECT * FROM audit WHERE sequence = 5"))
        assert kinds(problems(session, store)) == [("inserted", 5, 5)]
        session.rollback()


def test_what_the_database_cannot_even_read_is_told(signed: tuple[Database, MemoryStore]) -> None:
    database, store = signed
    if not database.is_sqlite:
        return  # PostgreSQL takes no such text
    for wrong, kind in (("CAST(x'ff' AS TEXT)", "unreadable"), ("x'ff'", "changed")):
        with database.write() as session:
            with disarmed(session):
                session.execute(sa.text(f"UPDATE audit SET actor = {wrong} WHERE sequence = 5"))
            assert problems(session, store)[0].kind == kind
            session.rollback()


def test_a_long_trail_is_read_in_batches_and_a_long_list_of_problems_ends(database: Database) -> None:
    grow(database, BATCH + 5)
    with database.write() as session:
        assert (problems(session), verify(session).entries) == ([], BATCH + 5)
        with disarmed(session):
            session.execute(sa.text("UPDATE audit SET actor = 'x'"))
        report = verify(session)
        assert (len(report.problems), report.entries, report.problems[0].first) == (MOST, BATCH + 5, 1)
        session.rollback()


# --- checkpoints in the store


def checkpoints_in(store: MemoryStore) -> list[Checkpoint]:
    found = sorted(stored_checkpoints(store))
    return [Checkpoint.model_validate_json(each.content) for each in found]


def test_checkpoints_name_where_the_trail_was_and_the_one_before(
    signed: tuple[Database, MemoryStore],
) -> None:
    database, store = signed
    digests = {entry.sequence: entry.digest for entry in all_entries(database)}
    first, second, third = checkpoints_in(store)
    assert [c.mark for c in (first, second, third)] == [Mark(n, digests[n]) for n in (3, 6, 9)]
    assert first.previous is None
    assert [c.previous.sequence for c in (second, third) if c.previous] == [3, 6]
    assert {stat.key for stat in store.iterate()} == {checkpoint_key(n) for n in (3, 6, 9)}


def test_nothing_new_needs_no_checkpoint_and_an_empty_trail_none_at_all(database: Database) -> None:
    store = MemoryStore()
    exporter = Exporter(database, store, SIGNER)
    assert exporter.export() is None
    grow(database, 1)
    assert exporter.export() == exporter.export() == Exporter(database, store, SIGNER).export()
    assert len(checkpoints_in(store)) == 1


def test_two_registries_that_sign_at_once_do_no_harm(database: Database) -> None:
    """Each has seen another newest checkpoint; what one of them signed is not written over by the other."""
    store = MemoryStore()
    one, other = Exporter(database, store, SIGNER), Exporter(database, store, SIGNER)
    for turn in range(3):
        grow(database, 2, seed=turn)
        assert one.export() is not None
        before = checkpoints_in(store)
        if turn != 1:
            other.export()
        assert checkpoints_in(store) == before
        grow(database, 1)
        other.export()
    assert [c.sequence for c in checkpoints_in(store)] == [2, 3, 5, 6, 8, 9]
    with database.read() as session:
        assert problems(session, store) == []


def test_a_checkpoint_that_was_removed_from_the_middle_is_missed(
    signed: tuple[Database, MemoryStore],
) -> None:
    database, store = signed
    store.delete(checkpoint_key(6))
    with database.read() as session:
        assert kinds(problems(session, store)) == [("checkpoint", 6, 6)]


def test_an_auditors_own_copy_tells_what_was_removed_from_the_store(
    signed: tuple[Database, MemoryStore],
) -> None:
    """The newest checkpoints can be removed unseen, and then the entries: unless somebody else has kept one."""
    database, store = signed
    kept = [each for each in stored_checkpoints(store) if each.name == checkpoint_key(9)]
    store.delete(checkpoint_key(9))
    with database.write() as session:
        rows = rows_of(session)
        overwrite(session, rows, *recomputed(rows[:7]))
        assert problems(session, store) == []
        copies = [*stored_checkpoints(store), Found("kept.json", kept[0].content)]
        assert kinds(verify(session, copies, [SIGNER.public_key]).problems) == [("missing", 8, 9)]
        session.rollback()


def test_no_checkpoint_is_made_of_a_trail_that_was_tampered_with(
    signed: tuple[Database, MemoryStore],
) -> None:
    """Neither by the registry that made the last one, nor by another."""
    database, store = signed
    for statement in (
        "UPDATE audit SET actor = 'x' WHERE sequence = 11",
        "UPDATE audit SET actor = 'x' WHERE sequence = 9",
        "DELETE FROM audit WHERE sequence > 8",
    ):
        with database.write() as session:
            rows, head = rows_of(session), head_of(session)
            with disarmed(session):
                session.execute(sa.text(statement))
            session.commit()
        with pytest.raises(TrailDamaged, match=r"entry (9|11): "):
            Exporter(database, store, SIGNER).export()
        with database.write() as session:
            overwrite(session, rows_of(session), rows, head)
    assert len(checkpoints_in(store)) == 3
    assert Exporter(database, store, SIGNER).export() is not None


def test_a_new_secret_key_begins_a_new_chain_and_the_old_one_stays_verifiable(
    signed: tuple[Database, MemoryStore],
) -> None:
    database, store = signed
    other = Signer(b"another secret key of 32 characters")
    exported = Exporter(database, store, other).export()
    assert exported is not None
    assert (exported.sequence, exported.previous) == (12, None)
    with database.read() as session:
        keys = [SIGNER.public_key, other.public_key]
        report = verify(session, stored_checkpoints(store), keys)
        assert (report.problems, report.signed_through) == ([], 12)
        assert kinds(problems(session, store, other)) == [("checkpoint", n, n) for n in (3, 6, 9)]


def test_neither_fsck_nor_the_sweep_takes_checkpoints_for_bytes_that_nobody_needs(
    database_url: str, tmp_path: Path
) -> None:
    database, store = Database(database_url), open_disk(tmp_path / "blobs")
    grow(database, 1)
    Exporter(database, store, SIGNER).export()
    [stat] = store.iterate(CHECKPOINTS)
    path = store.local_path(stat.key)
    assert path is not None
    os.utime(path, (0, 0))
    done = sweep(database, store, Rules(0, 0, 1, orphans=True))
    assert (done.orphans, done.deleted) == (0, 0)
    assert fsck.fsck(database_url, store, deep=True) == []
    assert store.stat(stat.key) is not None
    database.close()


# --- beside a working registry


@pytest.fixture
def signing(settings: Settings) -> Iterator[FastAPI]:
    given = settings.model_dump() | {"secret_key": SECRET, "audit_checkpoint_s": 0.02}
    app = create_app(Settings(**given))
    with TestClient(app, base_url=BASE):
        yield app


def test_a_registry_with_a_secret_key_signs_by_itself(signing: FastAPI) -> None:
    grow(signing.state.database, 2)
    deadline = time.monotonic() + 60
    while not (found := checkpoints_in(signing.state.store)) or found[-1].sequence < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with signing.state.database.read() as session:
        assert problems(session, signing.state.store) == []


def test_the_log_says_that_the_trail_was_tampered_with(
    signed: tuple[Database, MemoryStore], caplog: pytest.LogCaptureFixture
) -> None:
    database, store = signed
    with database.write() as session, disarmed(session):
        session.execute(sa.text("DELETE FROM audit WHERE sequence = 11"))
    with caplog.at_level(logging.ERROR):
        export_in_background(Exporter(database, store, SIGNER), stopping=threading.Event())
    assert "audit trail is not as it was written: entry 11" in caplog.text


def test_an_export_that_is_told_to_stop_signs_as_far_as_it_got(database: Database) -> None:
    grow(database, 3)
    stopping = threading.Event()
    stopping.set()
    exporter = Exporter(database, MemoryStore(), SIGNER)
    assert [getattr(exporter.export(stopping), "sequence", None) for _ in range(3)] == [1, 1, 1]
    assert getattr(exporter.export(), "sequence", None) == 3
