"""Is the audit trail what was written? Reads all of it, in order and in bounded memory, and tells what is wrong.

    entries       each has the digest of what it says, and names the digest of the one before; numbered 1, 2, 3 …
    head          names the last entry
    checkpoints   each is signed, and names an entry that is there with the digest that was signed

    edited, swapped, moved            no longer has its digest                       changed
    replaced, digest and all          the next one does not follow it                unlinked
    removed, cut off at the end       numbers are missing, or the head knows more    missing
    inserted, forked                  a number is there twice, or beyond the head    inserted
    all recomputed, the head as well  a checkpoint disagrees                         rewritten, missing

Only the checkpoints stop somebody who owns the database and recomputes all digests: what came after the newest one, he can
rewrite unseen. Nothing here trusts the types of the columns: time and data are read as text.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry.audit import NOTHING_BEFORE, SAID, Session, content_digest, entry_digest
from registry.checkpoints import Checkpoint, Found, Mark, read_all
from registry.database import as_text
from registry.tables import AuditHeadRow, AuditRow

BATCH = 1000
MOST = 100
"""So many problems are told; who has more needs no complete list."""

Kind = Literal["changed", "unlinked", "missing", "inserted", "rewritten", "head", "checkpoint", "unreadable"]

START = Mark(0, NOTHING_BEFORE)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """No name twice: whoever reads the text might take another of the two values."""
    if len(names := dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return names


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the entries from `first` to `last`."""

    kind: Kind
    first: int
    last: int
    detail: str


@dataclass(slots=True)
class Report:
    """What was read, up to where checkpoints vouch for all of it, and what is wrong, the earliest entry first."""

    entries: int = 0
    last: Mark = START
    checkpoints: int = 0
    signed_through: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems

    def tell(self, kind: Kind, first: int, last: int, detail: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(Problem(kind, first, last, detail))


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it lies there: what it says, its time and data as text."""

    sequence: int
    at: str
    said: Mapping[str, Any]
    data: str
    previous_digest: str
    digest: str
    head: Mark | None

    def has_its_digest(self) -> bool:
        try:
            said = {**self.said, "data": _DECODER.decode(self.data)}
            expected = entry_digest(self.sequence, self.at, content_digest(said), self.previous_digest)
        except (ValueError, TypeError, RecursionError):
            return False
        return expected == self.digest


def verify(
    session: Session, found: Iterable[Found] = (), public_keys: Iterable[Ed25519PublicKey] = ()
) -> Report:
    """All that is wrong with the trail, or with the documents that claim to be its checkpoints, signed with one of the keys.

    The checkpoints are read before the trail, so that one that is written meanwhile knows nothing that is not there yet.
    """
    checkpoints, doubts = read_all(found, public_keys)
    report = verify_from(session, START, checkpoints)
    for doubt in doubts:
        report.tell("checkpoint", doubt.sequence, doubt.sequence, doubt.detail)
    report.problems.sort(key=lambda problem: (problem.first, problem.last))
    return report


def verify_since(
    session: Session, checkpoint: Checkpoint, *, stopping: threading.Event | None = None
) -> Report:
    """What is wrong with the entry of a checkpoint that can be trusted, and with those after it."""
    before = Mark(checkpoint.sequence - 1, "")
    return verify_from(session, before, [checkpoint], stopping=stopping)


def verify_from(
    session: Session,
    start: Mark,
    checkpoints: Sequence[Checkpoint],
    *,
    stopping: threading.Event | None = None,
) -> Report:
    """What is wrong with the entries after `start` (a digest of "": nobody knows it). Stops half-way when told to."""
    walk = Walk(start, checkpoints, _head(session))
    try:
        for entry in _entries(session, start.sequence):
            walk.take(entry)
            if stopping is not None and stopping.is_set():
                return walk.report
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        after = walk.report.last.sequence
        detail = f"the database cannot read what comes after entry {after}"
        walk.report.tell("unreadable", after + 1, after + 1, detail)
        return walk.report
    return walk.end()


class Walk:
    """Takes the entries after `start`, in order; `head` is where the trail ends if there are none."""

    def __init__(self, start: Mark, checkpoints: Sequence[Checkpoint], head: Mark | None) -> None:
        self.report = Report(last=start, checkpoints=len(checkpoints))
        self._head = head
        self._signed: dict[int, list[Checkpoint]] = defaultdict(list)
        for checkpoint in checkpoints:
            self._signed[checkpoint.sequence].append(checkpoint)
        self._agreed = 0

    def take(self, entry: Stored) -> None:
        number, last, tell = entry.sequence, self.report.last, self.report.tell
        if number > last.sequence + 1:
            missing = _several(last.sequence + 1, number - 1)
            tell("missing", last.sequence + 1, number - 1, f"{missing} missing: removed")
        elif number <= last.sequence:
            tell("inserted", number, number, "there is another entry with this number, or one that is none")
        elif entry.previous_digest != last.digest and last.digest:
            detail = (
                f"it was not written after entry {last.sequence}: one of the two, or both, replaced another"
            )
            tell("unlinked", number, number, detail)
        if not entry.has_its_digest():
            tell(
                "changed", number, number, "it is not what was written: what it says does not have its digest"
            )
        self.report.entries += 1
        self.report.last = Mark(number, entry.digest)
        self._head = entry.head
        for checkpoint in self._signed.get(number, ()):
            self._compare(checkpoint)

    def end(self) -> Report:
        """There are no more."""
        last, head, tell = self.report.last, self._head, self.report.tell
        if head is None:
            tell("head", last.sequence, last.sequence, "the trail has lost its head")
            head = last
        known = max([head.sequence, *self._signed])
        if known > last.sequence:
            self._tell_the_rest_is_missing(known)
        elif head.sequence < last.sequence:
            tell(
                "inserted",
                head.sequence + 1,
                last.sequence,
                f"the trail ends at entry {head.sequence}: added by hand",
            )
        elif head.digest != last.digest and last.digest:
            tell(
                "head",
                last.sequence,
                last.sequence,
                "the head of the trail names another entry with this number",
            )
        return self.report

    def _compare(self, checkpoint: Checkpoint) -> None:
        first, last = self._agreed + 1, checkpoint.sequence
        if checkpoint.digest == self.report.last.digest:
            self._agreed = last
            self.report.signed_through = self.report.signed_through if self.report.problems else last
        elif not any(first <= problem.first <= last for problem in self.report.problems):
            detail = f"the trail was rewritten and its digests computed anew: on {checkpoint.at} another entry {last} was signed"
            self.report.tell("rewritten", first, last, detail)

    def _tell_the_rest_is_missing(self, known: int) -> None:
        first = self.report.last.sequence + 1
        detail = f"{_several(first, known)} missing: removed from the end, but "
        if known not in self._signed:
            detail += f"the head of the trail knows of entry {known}"
        else:
            detail += f"entry {known} was signed on {self._signed[known][0].at}"
            detail += f"; no checkpoint vouches for the entries after {self._agreed}"
        self.report.tell("missing", first, known, detail)


def _several(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _head(session: Session) -> Mark | None:
    head = session.execute(sa.select(AuditHeadRow.sequence, AuditHeadRow.digest)).first()
    return None if head is None else Mark(head.sequence, head.digest)


def _entries(session: Session, after: int) -> Iterator[Stored]:
    """Entries, each with the head as it was at that moment: on PostgreSQL, a statement is what sees one moment."""
    head = [sa.select(column).scalar_subquery() for column in (AuditHeadRow.sequence, AuditHeadRow.digest)]
    said = [column for column in AuditRow.__table__.columns if column.name in SAID and column.name != "data"]
    data = sa.cast(AuditRow.data, sa.Text)
    digests = AuditRow.previous_digest, AuditRow.digest
    query = sa.select(AuditRow.sequence, as_text(AuditRow.at), data, *digests, *head, *said)
    query = query.where(AuditRow.sequence > after) if after else query
    names = [column.name for column in said]
    options = {"yield_per": BATCH}
    with session.execute(query.order_by(AuditRow.sequence), execution_options=options) as rows:
        for sequence, at, text, previous, digest, head_sequence, head_digest, *values in rows:
            yield Stored(
                sequence=sequence if isinstance(sequence, int) else 0,
                at=at,
                said=dict(zip(names, values, strict=True)),
                data=text,
                previous_digest=previous,
                digest=digest,
                head=None if head_sequence is None else Mark(head_sequence, head_digest),
            )
