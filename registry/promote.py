"""Promotion: moving a pointer (a stage or an alias) from one version to another, and back.

    promote to production | staging     the pointer moves; the version leaves the other stage if it held it;
                                        the version that production moved away from is archived
    promote to none | archived          the version leaves the stage that it holds, if any
    promote to an alias                 the alias moves, whatever the stages
    roll back                           the pointer returns to the version that it held before
    remove                              the alias holds nothing

Every move grows the pointer's generation by one and writes one row of history. A caller who names the generation that
it saw is refused if anybody was faster. All moves of one model queue at the model's row.

Policy (decide.py) is asked before anything moves. It may refuse, or make a request of a promotion that others approve.
"""

from datetime import datetime

import sqlalchemy as sa

from registry import audit, decide, events
from registry.access import Caller
from registry.browse import model_row, pointer_of, pointer_rows, version_row
from registry.database import WriteSession, utc_now
from registry.decide import Proposal
from registry.domain import (
    POINTER_STAGES,
    MoveKind,
    Promotion,
    canonical_json,
    check_pointer_name,
    sha256,
    stage_of,
)
from registry.errors import (
    GenerationConflict,
    NothingToRollBack,
    PointerNotFound,
    VersionDamaged,
    VersionUnverified,
)
from registry.policy_tables import RequestRow
from registry.tables import ContentRow, FileRow, MoveRow, PointerRow, VersionRow

NO_MOVE_BEFORE = "sha256:" + "0" * 64
"""The `previous_digest` of a pointer's first move."""

_CONTENTS_OF = (
    sa.select(ContentRow.__table__.c.damaged, ContentRow.__table__.c.verified_at)
    .join(FileRow.__table__, FileRow.__table__.c.content_id == ContentRow.__table__.c.id)
    .where(FileRow.__table__.c.model_id == sa.bindparam("model"))
    .where(FileRow.__table__.c.number == sa.bindparam("number"))
)
_ARCHIVE = (
    sa.update(VersionRow.__table__)
    .where(VersionRow.__table__.c.model_id == sa.bindparam("model"))
    .where(VersionRow.__table__.c.number == sa.bindparam("version"))
    .values(archived=True)
)
_NOW = sa.select(utc_now().label("now")).subquery()
_MOVES = MoveRow.__table__.c
_MOVE_AND_NOW = sa.select(_NOW.c.now, _MOVES.at, _MOVES.digest).outerjoin_from(
    _NOW,
    MoveRow.__table__,
    sa.and_(
        _MOVES.model_id == sa.bindparam("model"),
        _MOVES.pointer == sa.bindparam("pointer"),
        _MOVES.generation == sa.bindparam("generation"),
    ),
)
"""The time, and a move, if there is one."""


def promote(
    session: WriteSession,
    caller: Caller,
    model: str,
    number: int,
    to: str,
    *,
    expected_generation: int | None = None,
    reason: str = "",
    at: datetime | None = None,
    request: RequestRow | None = None,
) -> Promotion:
    """Give version `number` the stage or alias `to`: now, or when it is approved and not before `at`.

    `request` is the one that this carries out. Raises ModelNotFound, VersionNotFound, VersionDeleted, VersionUnverified,
    VersionDamaged, InvalidName, ModelFrozen, what policy raises (see decide.consult), or GenerationConflict when the pointer
    is not at `expected_generation` (0: it was never used).
    """
    moves = _Moves(session, caller, model, "version.promoted", reason, request)
    version = moves.version(number)
    proposal = decide.propose(version, moves.pointers, to, reason=reason, at=at, request=request)
    pointer = proposal.held
    _expect(proposal.pointer or "stage", pointer, expected_generation)
    if moves.is_there(version, to, pointer):
        if request is not None:  # somebody else has done it: it cannot be done for this request any more
            raise GenerationConflict(to, request.generation, proposal.generation, number)
        return moves.outcome(number, pointer)
    if (asked := moves.ask(proposal)) is not None:
        return moves.outcome(number, pointer, asked)
    if to in ("none", "archived"):
        return _leave_stage(moves, version, to, pointer)
    if to in POINTER_STAGES:
        for other in moves.stages_of(number):
            moves.move(other.name, other, None, "vacate")
    return _take(moves, version, to, pointer, "promote")


def roll_back(
    session: WriteSession,
    caller: Caller,
    model: str,
    pointer_name: str,
    *,
    expected_generation: int | None = None,
    reason: str = "",
) -> Promotion:
    """Return a pointer to the version that it held before the last promotion.

    Repeated, it goes further back; it never returns to a version that was rolled back from.
    Raises ModelNotFound, PointerNotFound, GenerationConflict or NothingToRollBack.
    """
    moves = _Moves(session, caller, model, "pointer.rolled_back", reason)
    check_pointer_name(pointer_name)
    pointer = moves.pointers.get(pointer_name)
    if pointer is None:
        raise PointerNotFound(model, pointer_name)
    _expect(pointer_name, pointer, expected_generation)
    moves.ask_to_roll_back(pointer)
    target = moves.holder_before(pointer)
    if target is None:
        raise NothingToRollBack(f"{pointer_name!r} of {model!r} has held no other version before.")
    if pointer.kind == "stage":
        for other in moves.stages_of(target):
            moves.move(other.name, other, None, "vacate")
    return _take(moves, moves.version(target), pointer_name, pointer, "rollback")


def remove(
    session: WriteSession,
    caller: Caller,
    model: str,
    pointer_name: str,
    *,
    expected_generation: int | None = None,
    reason: str = "",
) -> Promotion:
    """Let a pointer hold nothing. It keeps its generation and history. Raises as `roll_back` does."""
    moves = _Moves(session, caller, model, "pointer.removed", reason)
    check_pointer_name(pointer_name)
    pointer = moves.pointers.get(pointer_name)
    if pointer is None:
        raise PointerNotFound(model, pointer_name)
    _expect(pointer_name, pointer, expected_generation)
    if pointer.number is None:
        return moves.outcome(None, pointer)
    moves.ask_to_remove(pointer)
    return moves.outcome(pointer.number, moves.move(pointer_name, pointer, None, "vacate"))


def _take(
    moves: "_Moves", version: VersionRow, name: str, pointer: PointerRow | None, kind: MoveKind
) -> Promotion:
    moves.require_sound(version.number)
    displaced = pointer.number if pointer is not None else None
    moved = moves.move(name, pointer, version.number, kind)
    if name in POINTER_STAGES:
        version.archived = False
    if name == "production" and displaced is not None:
        moves.archive(displaced)
    return moves.outcome(version.number, moved)


def _leave_stage(moves: "_Moves", version: VersionRow, to: str, pointer: PointerRow | None) -> Promotion:
    version.archived = to == "archived"
    if pointer is not None:
        return moves.outcome(version.number, moves.move(pointer.name, pointer, None, "vacate"))
    moves.announce("version.staged", {"number": version.number, "stage": to})
    return moves.outcome(version.number, None)


def _expect(name: str, pointer: PointerRow | None, expected: int | None) -> None:
    generation = pointer.generation if pointer is not None else 0
    if expected is not None and expected != generation:
        raise GenerationConflict(name, expected, generation, pointer.number if pointer is not None else None)


class _Moves:
    """The pointers of one model, locked for the rest of the transaction, and the writing of their history."""

    def __init__(
        self,
        session: WriteSession,
        caller: Caller,
        model: str,
        action: str,
        reason: str,
        request: RequestRow | None = None,
    ) -> None:
        self._session = session
        self._caller = caller
        self._action = action
        self._reason = reason
        self._request = request
        self._revision: int | None = None
        self._versions: dict[int, VersionRow] = {}
        self._model = model_row(session, caller, model, lock=True)
        decide.require_thawed(self._model)
        self.pointers = pointer_rows(session, self._model.id)

    def ask(self, proposal: Proposal) -> int | None:
        """None, or the number of the request that policy makes of it."""
        return decide.consult(self._session, self._caller, self._model, proposal)

    def ask_to_roll_back(self, pointer: PointerRow) -> None:
        decide.allow_rollback(self._session, self._caller, self._model, pointer.name)

    def ask_to_remove(self, pointer: PointerRow) -> None:
        held = self.version(pointer.number) if pointer.number is not None else None
        source = decide.propose(held, self.pointers, pointer.name).source if held is not None else "none"
        decide.allow_removal(self._session, self._caller, self._model, pointer.name, source)

    def is_there(self, version: VersionRow, to: str, pointer: PointerRow | None) -> bool:
        """Whether everything is as it shall be."""
        if to in ("none", "archived"):
            return pointer is None and version.archived == (to == "archived")
        return pointer is not None and pointer.number == version.number

    def version(self, number: int) -> VersionRow:
        if number not in self._versions:
            self._versions[number] = version_row(self._session, self._model, number)
        return self._versions[number]

    def archive(self, number: int) -> None:
        self._session.execute(_ARCHIVE, {"model": self._model.id, "version": number})

    def require_sound(self, number: int) -> None:
        """Nothing is promoted whose bytes are not known to be right."""
        found = self._session.execute(_CONTENTS_OF, {"model": self._model.id, "number": number}).all()
        if any(content.damaged for content in found):
            raise VersionDamaged(self._model.name, number)
        if any(content.verified_at is None for content in found):
            raise VersionUnverified(self._model.name, number)

    def is_deleted(self, number: int) -> bool:
        row = self._session.get(VersionRow, (self._model.id, number))
        return row is None or row.deleted_at is not None

    def stages_of(self, number: int) -> list[PointerRow]:
        return [each for each in self.pointers.values() if each.kind == "stage" and each.number == number]

    def holder_before(self, pointer: PointerRow) -> int | None:
        """Who held `pointer` before the last move that no rollback has undone; versions that were deleted are passed over.

        A rollback undoes every move since the version that it returns to was left.
        """
        query = (
            sa.select(MoveRow.kind, MoveRow.from_number, MoveRow.to_number)
            .where(MoveRow.model_id == self._model.id, MoveRow.pointer == pointer.name)
            .order_by(MoveRow.generation.desc())
        )
        returned_to: list[int | None] = []
        with self._session.execute(query.execution_options(yield_per=100)) as moves:
            for kind, left, taken in moves:
                if kind == "rollback":
                    returned_to.append(taken)
                elif returned_to:
                    if left == returned_to[-1]:
                        returned_to.pop()
                elif left is None or (left != pointer.number and not self.is_deleted(left)):
                    return left
        return None

    def move(self, name: str, pointer: PointerRow | None, to: int | None, kind: MoveKind) -> PointerRow:
        generation = pointer.generation if pointer is not None else 0
        previous = {"model": self._model.id, "pointer": name, "generation": generation}
        before = self._session.execute(_MOVE_AND_NOW, previous).one()
        move = MoveRow(
            model_id=self._model.id,
            pointer=name,
            generation=generation + 1,
            from_number=pointer.number if pointer is not None else None,
            to_number=to,
            kind=kind,
            actor=self._caller.name,
            reason=self._reason,
            # Clocks may go back, history does not: who held a pointer at some time has one answer.
            at=max(before.now, before.at or before.now),
            previous_digest=before.digest or NO_MOVE_BEFORE,
        )
        move.digest = move_digest(self._model.name, move)
        if pointer is None:
            pointer = PointerRow(model_id=self._model.id, name=name, kind=check_pointer_name(name))
            self.pointers[name] = pointer
        pointer.number, pointer.generation = to, move.generation
        pointer.moved_at, pointer.moved_by = move.at, move.actor
        self._session.add_all([pointer, move])
        self._session.flush()  # vacated stages must be free before the next move takes one
        self.announce("pointer.moved", _moved(move))
        return pointer

    def announce(self, kind: str, data: dict[str, object]) -> None:
        self._revision = events.record(self._session, self._model, kind, data)

    def outcome(self, number: int | None, pointer: PointerRow | None, asked: int | None = None) -> Promotion:
        """What to tell the caller, and, if anything was moved, the audit trail: one entry, however many pointers moved."""
        if self._revision is not None:
            said = {
                "number": number,
                "pointer": pointer.name if pointer is not None else None,
                "generation": pointer.generation if pointer is not None else None,
                "reason": self._reason,
            }
            if self._request is not None:
                said["request"] = self._request.id
            audit.record(self._session, self._caller, self._action, f"models/{self._model.name}", said)
        stage = None
        if number is not None:
            held = [pointer.name for pointer in self.stages_of(number)]
            stage = stage_of(held, archived=self.version(number).archived)
        return Promotion(
            model=self._model.name,
            number=number,
            stage=stage,
            pointer=pointer_of(self._model.name, pointer) if pointer is not None else None,
            moved=self._revision is not None,
            revision=self._revision,
            request=asked,
        )


def _moved(move: MoveRow) -> dict[str, object]:
    return {
        "pointer": move.pointer,
        "from": move.from_number,
        "to": move.to_number,
        "generation": move.generation,
        "kind": move.kind,
    }


def move_digest(model: str, move: MoveRow) -> str:
    """The hash that binds a move to the one before it: SHA-256 over the canonical JSON of all that it says."""
    said = {
        "model": model,
        "actor": move.actor,
        "reason": move.reason,
        "previous": move.previous_digest,
        **_moved(move),
    }
    return sha256(canonical_json({**said, "at": move.at.isoformat(timespec="microseconds")}))
