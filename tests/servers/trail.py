"""An audit trail to tamper with, and whoever owns the database: no trigger or constraint stops him."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from registry import audit
from registry.audit import NOTHING_BEFORE
from registry.audit_verify import Stored
from registry.checkpoints import Mark
from registry.database import Database, WriteSession
from registry.tables import AuditHeadRow, AuditRow

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
SECRET = "a secret key of 32 characters, or more"
KEY = hashlib.sha256(SECRET.encode()).digest()
"""What the registry makes of it, see bootstrap.py."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """As registry.access has it."""

    name: str = "ada"
    workspace: str = "default"
    token_id: str | None = "t0123456789"
    request_id: str = "0f" * 16


def grow(database: Database, count: int, *, seed: int = 1) -> None:
    """Append entries that differ in every column."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with database.write() as session:
        for _ in range(count):
            number = chance.randrange(10**6)
            caller = Caller(
                name=chance.choice(["ada", "grace", "jürgen"]),
                workspace=chance.choice(["default", "risk", ""]),
                token_id=chance.choice([None, f"t{number}"]),
                request_id=f"{chance.getrandbits(128):032x}",
            )
            action, model = (
                chance.choice(["pointer.moved", "version.created"]),
                chance.choice(["fraud", "churn"]),
            )
            data = {
                "number": number,
                "weights": [0.1, 1e22, -0.0],
                "reason": "größer",
                "nested": {"b": None, "a": True},
            }
            outcome: audit.Outcome = chance.choice(["done", "denied"])
            audit.record(session, caller, action, f"models/{model}/versions/{number}", data, outcome=outcome)


def rows_of(session: WriteSession) -> list[Row]:
    found = session.execute(sa.select(AuditRow.__table__).order_by(AuditRow.sequence))
    return [dict(row._mapping) for row in found]


def head_of(session: WriteSession) -> Mark:
    return Mark(*session.execute(sa.select(AuditHeadRow.sequence, AuditHeadRow.digest)).one())


@contextmanager
def disarmed(session: WriteSession) -> Iterator[None]:
    """Without any trigger."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        yield
        session.execute(sa.text("SET LOCAL session_replication_role = origin"))
        return
    triggers = session.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for trigger in triggers:
        session.execute(sa.text(f"DROP TRIGGER {trigger.name}"))
    yield
    for trigger in triggers:
        session.connection().exec_driver_sql(trigger.sql)


def overwrite(session: WriteSession, before: Sequence[Row], rows: Sequence[Row], head: Mark) -> None:
    """Make the database hold these rows and this head instead of the rows of before."""
    known = {row["sequence"]: row for row in before}
    changed = [row for row in rows if known.get(row["sequence"]) != row]
    gone = (known.keys() - {row["sequence"] for row in rows}) | {row["sequence"] for row in changed}
    with disarmed(session):
        session.execute(sa.delete(AuditRow).where(AuditRow.sequence.in_(gone)))
        if changed:
            session.execute(sa.insert(AuditRow.__table__), changed)  # type: ignore[arg-type]  # it is a Table
        session.execute(sa.update(AuditHeadRow).values(sequence=head.sequence, digest=head.digest))


def stored(row: Row, head: Mark) -> Stored:
    """The row, as the verifier reads it."""
    return Stored(
        sequence=row["sequence"],
        at=f"{row['at']:{TIME}}",
        said={name: row[name] for name in audit.SAID if name != "data"},
        data=json.dumps(row["data"]),
        previous_digest=row["previous_digest"],
        digest=row["digest"],
        head=head,
    )


def redigested(row: Row, previous: str) -> Row:
    """The row, following another one, with the digest that it should have."""
    digest = audit.entry_digest(row["sequence"], f"{row['at']:{TIME}}", audit.content_digest(row), previous)
    return {**row, "previous_digest": previous, "digest": digest}


def recomputed(rows: Sequence[Row]) -> tuple[list[Row], Mark]:
    """The rows, numbered and hashed as if they had been written so, and their head."""
    previous, done = NOTHING_BEFORE, []
    for sequence, row in enumerate(rows, start=1):
        done.append(redigested({**row, "sequence": sequence}, previous))
        previous = done[-1]["digest"]
    return done, Mark(len(done), previous)
