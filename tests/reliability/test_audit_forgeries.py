"""Whoever owns the database changes the audit trail in 1,000 ways, and each time the verifier finds it, and where."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from registry import audit, events
from registry.audit_export import Exporter, stored_checkpoints
from registry.audit_verify import START, Report, Walk, verify
from registry.checkpoints import Found, Mark, Signer, read_all
from registry.database import Database
from registry.tables import ModelRow
from storage.memory import MemoryStore
from tests.servers.app import KINDS, NewDatabase
from tests.servers.trail import (
    KEY,
    Caller,
    Row,
    grow,
    head_of,
    overwrite,
    recomputed,
    redigested,
    rows_of,
    stored,
)

ATTACKS, ENTRIES, SIGNED, EVERY = 1000, 200, 180, 20
WRITERS, EACH = 50, 8
SIGNER = Signer(KEY)
Chance = random.Random


class Signed(NamedTuple):
    database: Database
    checkpoints: list[Found]


class Attack(NamedTuple):
    """What the trail became, and the entries among which the first wrong one has to be looked for."""

    rows: list[Row]
    head: Mark
    first: int
    last: int


def edited(row: Row, chance: Chance) -> Row:
    column = chance.choice(["at", *audit.SAID])
    value = row[column]
    if column == "at":
        value += timedelta(milliseconds=chance.choice([-1, 1, 86_400_000]))
    elif column == "data":
        value = {**value, chance.choice(["number", "reason", "new"]): chance.random()}
    elif column == "outcome":
        value = "done" if value == "denied" else "denied"
    elif column == "token_id" and value is not None and chance.random() < 0.5:
        value = None
    else:
        value = f"{value}x" if chance.random() < 0.5 else f"x{value}"
    return {**row, column: value}


def edit(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(len(rows))
    rows[at] = edited(rows[at], chance)
    return Attack(rows, head, at + 1, at + 1)


def change_a_digest(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at, column = chance.randrange(len(rows)), chance.choice(["digest", "previous_digest"])
    rows[at] = {**rows[at], column: f"sha256:{chance.getrandbits(256):064x}"}
    return Attack(rows, head, at + 1, at + 1)


def replace_with_its_digest(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(len(rows))
    rows[at] = redigested(edited(rows[at], chance), rows[at]["previous_digest"])
    return Attack(rows, head, at + 1, min(at + 2, len(rows)))


def delete(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(len(rows))
    del rows[at : at + chance.choice([1, 1, 2, 10, 100])]
    return Attack(rows, head, at + 1, at + 1)


def cut_the_tail(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(len(rows))
    return Attack(rows[:at], head, at + 1, at + 1)


def cut_the_tail_and_rewind(rows: list[Row], _head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(SIGNED)
    return Attack(*recomputed(rows[:at]), at + 1, at + 1)


def swap(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    one, other = sorted(chance.sample(range(len(rows)), 2))
    first, second = rows[one]["sequence"], rows[other]["sequence"]
    rows[one], rows[other] = {**rows[other], "sequence": first}, {**rows[one], "sequence": second}
    return Attack(rows, head, one + 1, one + 1)


def insert(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.randrange(len(rows))
    previous = rows[at]["previous_digest"]
    new = redigested(edited(rows[at], chance), previous)
    rows[at:] = [new, *({**row, "sequence": row["sequence"] + 1} for row in rows[at:])]
    head = chance.choice([head, Mark(head.sequence + 1, head.digest)])
    return Attack(rows, head, at + 1, at + 2)


def append_behind_the_head(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    new = redigested({**edited(rows[-1], chance), "sequence": len(rows) + 1}, rows[-1]["digest"])
    return Attack([*rows, new], head, len(rows) + 1, len(rows) + 1)


def move_the_head(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    at = chance.choice([-1, 1, -chance.randrange(2, len(rows)), chance.randrange(2, 10**6)])
    return Attack(
        rows, Mark(head.sequence + at, head.digest), min(head.sequence + at, head.sequence) + 1, ENTRIES + 1
    )


def change_the_head(rows: list[Row], head: Mark, chance: Chance) -> Attack:
    return Attack(rows, Mark(head.sequence, f"sha256:{chance.getrandbits(256):064x}"), ENTRIES, ENTRIES)


def forge(rows: list[Row], _head: Mark, chance: Chance) -> Attack:
    """Change something that was signed, and compute everything anew, as the registry would have."""
    at = chance.randrange(SIGNED)
    how = chance.choice(["edit", "delete", "insert", "swap", "begin anew"])
    if how == "edit":
        rows[at] = edited(rows[at], chance)
    elif how == "delete":
        del rows[at : at + chance.choice([1, 5, 50])]
    elif how == "insert":
        rows.insert(at, edited(rows[at], chance))
    elif how == "swap":
        at = min(at, SIGNED - 2)
        rows[at], rows[at + 1] = rows[at + 1], rows[at]
    else:
        at, rows = 0, [edited(row, chance) for row in rows]
    return Attack(*recomputed(rows), at + 1, at + 1)


HOW: list[Callable[[list[Row], Mark, Chance], Attack]] = [
    *(edit, change_a_digest, replace_with_its_digest, delete, cut_the_tail, cut_the_tail_and_rewind, swap),
    *(insert, append_behind_the_head, move_the_head, change_the_head, forge, forge, forge),
]


@pytest.fixture(scope="module", params=KINDS)
def signed(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Signed]:
    """A trail with a checkpoint every 20 entries but the last 20. Not to be changed, but in transactions that are undone."""
    database = Database(new_database(request.param, tmp_path_factory.mktemp("trail")))
    store = MemoryStore()
    exporter = Exporter(database, store, SIGNER)
    for seed in range(ENTRIES // EVERY):
        grow(database, EVERY, seed=seed)
        if seed < SIGNED // EVERY:
            exporter.export()
    yield Signed(database, list(stored_checkpoints(store)))
    database.close()


@pytest.mark.parametrize("signed", ["sqlite"], indirect=True)
def test_1000_of_1000_random_forgeries_are_found_where_they_are(signed: Signed) -> None:
    """In memory: it takes much longer to change the trail in a database than to look at it."""
    checkpoints, doubts = read_all(signed.checkpoints, [SIGNER.public_key])
    assert doubts == []
    with signed.database.write() as session:
        rows, head = rows_of(session), head_of(session)

    def look(attack: Attack) -> Report:
        walk = Walk(START, checkpoints, attack.head)
        for row in attack.rows:
            walk.take(stored(row, attack.head))
        return walk.end()

    require_found(range(ATTACKS), rows, head, look)


def test_so_they_are_in_a_database(signed: Signed) -> None:
    with signed.database.write() as session:
        rows, head = rows_of(session), head_of(session)

        def look(attack: Attack) -> Report:
            undo = session.begin_nested()
            overwrite(session, rows, attack.rows, attack.head)
            report = verify(session, signed.checkpoints, [SIGNER.public_key])
            undo.rollback()
            return report

        require_found(range(ATTACKS, ATTACKS + 100), rows, head, look)
        assert look(Attack(rows, head, 0, 0)).problems == []
        session.rollback()


def require_found(numbers: range, rows: list[Row], head: Mark, look: Callable[[Attack], Report]) -> None:
    """Each attack is noticed, and where: at the entry, or, if all was recomputed, after the last checkpoint that agrees."""
    unnoticed, misplaced = [], []
    for number in numbers:
        chance = random.Random(number)  # noqa: S311 - repeatable, not secret
        how = chance.choice(HOW)
        attack = how(list(rows), head, chance)
        report = look(attack)
        if not report.problems:
            unnoticed.append((number, how.__name__))
            continue
        found = report.problems[0]
        exact = attack.first <= found.first <= attack.last
        behind = report.signed_through < attack.first <= found.last
        if not (behind if found.kind == "rewritten" or how is forge else exact):
            misplaced.append((number, how.__name__, attack.first, found))
    assert unnoticed == []
    assert misplaced == []


def test_without_checkpoints_whoever_recomputes_everything_stays_unseen(
    signed: Signed,
) -> None:
    """Why there are checkpoints; and why what came after the newest one is as safe as the database, and no safer."""
    with signed.database.write() as session:
        rows = rows_of(session)
        forged, head = recomputed([*rows[:SIGNED], {**rows[SIGNED], "actor": "mallory"}, *rows[SIGNED + 1 :]])
        overwrite(session, rows, forged, head)
        assert verify(session, signed.checkpoints, [SIGNER.public_key]).problems == []
        session.rollback()


def test_50_writers_leave_an_unbroken_chain_and_no_verifier_ever_doubts_it(
    database_url: str,
) -> None:
    """Two registries write, verify and sign at once; all locks are taken in one order, so that nobody deadlocks."""
    registries = [Database(database_url), Database(database_url)]
    store = MemoryStore()
    with registries[0].write() as session:
        session.add_all([ModelRow(name="fraud"), ModelRow(name="churn")])
    finished = threading.Event()

    def write(number: int) -> None:
        for turn in range(EACH):
            with registries[number % 2].write() as session:
                name = ("fraud", "churn")[(number + turn) % 2]
                query = sa.select(ModelRow).where(ModelRow.name == name)
                if turn % 2:
                    query = query.with_for_update()
                model = session.scalars(query).one()
                model.description = f"{number}/{turn}"  # pending, as the row of an event is
                if turn % 2:
                    events.record(session, model, "model.changed", {})
                audit.record(
                    session,
                    Caller(name=f"writer {number}"),
                    "model.changed",
                    f"models/{name}",
                    {"turn": turn},
                )

    def look(registry: Database) -> int:
        exporter, looked = Exporter(registry, store, SIGNER), 0
        while not finished.is_set() or not looked:
            exporter.export()
            with registry.read() as session:
                report = verify(session, stored_checkpoints(store), [SIGNER.public_key])
            assert report.problems == []
            looked += 1
        return looked

    with ThreadPoolExecutor(WRITERS + 2) as pool:
        watching = [pool.submit(look, registry) for registry in registries]
        try:
            list(pool.map(write, range(WRITERS)))
        finally:
            finished.set()
        assert all(each.result() > 0 for each in watching)
    with registries[0].read() as session:
        report = verify(session, stored_checkpoints(store), [SIGNER.public_key])
        written = Counter(entry.actor for entry in audit.entries(session, limit=1000).items)
    assert (report.problems, report.entries) == ([], WRITERS * EACH)
    assert written == {f"writer {number}": EACH for number in range(WRITERS)}
    for registry in registries:
        registry.close()
