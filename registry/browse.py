"""Looking: models, versions, pointers and history, in pages (pages.py).

What is looked at all the time has its statement made once: making one anew takes as long as what the database does with it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry import facts
from registry.access import Caller, Permission
from registry.database import ReadSession, WriteSession
from registry.domain import (
    File,
    MoveKind,
    Pointer,
    PointerKind,
    Stage,
    Variant,
    check_model_name,
    check_pointer_name,
    stage_of,
)
from registry.errors import (
    ModelNotFound,
    PointerNotFound,
    VersionDeleted,
    VersionNotFound,
)
from registry.keys import Key, belong, given
from registry.pages import Page, cut, read_cursor, read_time
from registry.tables import (
    ContentRow,
    FileRow,
    ModelRow,
    MoveRow,
    PointerRow,
    VersionRow,
)

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    description: str
    created_at: datetime
    latest: int | None
    pointers: Sequence[Pointer]
    frozen: str | None


@dataclass(frozen=True, slots=True)
class Version:
    model: str
    number: int
    digest: str
    format: str
    variants: Sequence[Variant]
    signature: dict[str, Any] | None
    example: str | None
    description: str
    metrics: dict[str, float]
    tags: dict[str, str]
    fact_revision: int
    files: Sequence[File]
    size: int
    stage: Stage
    aliases: Sequence[str]
    verified: bool
    damaged: bool
    created_at: datetime
    created_by: str
    deleted_at: datetime | None
    legal_hold: str | None


@dataclass(frozen=True, slots=True)
class Move:
    model: str
    pointer: str
    generation: int
    from_number: int | None
    to_number: int | None
    kind: MoveKind
    actor: str
    reason: str
    at: datetime
    digest: str
    previous_digest: str


def model(session: Session, caller: Caller, name: str) -> Model:
    """One model. Raises ModelNotFound."""
    return _models(session, [model_row(session, caller, name)])[0]


def models(
    session: Session, caller: Caller, *, search: str = "", limit: int, after: str | None = None
) -> Page[Model]:
    """Models that the caller may read, whose name contains `search`, by name."""
    query = sa.select(ModelRow).where(caller.sees_models()).order_by(ModelRow.name)
    if search:
        query = query.where(ModelRow.name.contains(search, autoescape=True))
    if after is not None:
        query = query.where(ModelRow.name > read_cursor(after, str))
    rows, following = cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: row.name)
    return Page(_models(session, rows), following)


def version(session: Session, caller: Caller, name: str, number: int) -> Version:
    """One version. Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    check_model_name(name)
    session.flush()  # statements of tables know nothing of what is pending
    key = {"workspace": caller.workspace_id, "model": name, "number": number}
    row: Any = session.execute(_VERSION, key).first()
    if row is None or row.deleted_at is not None or not caller.permits(Permission.READ, name):
        row = version_row(session, model_row(session, caller, name), number)  # says what is wrong
    return _versions(session, {row.model_id: name}, [row])[0]


def versions(
    session: Session,
    caller: Caller,
    name: str,
    *,
    deleted: bool = False,
    limit: int,
    after: str | None = None,
) -> Page[Version]:
    """Versions of a model, or those of them that were deleted, newest first. Raises ModelNotFound."""
    owner = model_row(session, caller, name)
    query = sa.select(VersionRow).where(VersionRow.model_id == owner.id).order_by(VersionRow.number.desc())
    query = query.where(VersionRow.deleted_at.is_not(None) if deleted else VersionRow.deleted_at.is_(None))
    if after is not None:
        query = query.where(VersionRow.number < read_cursor(after, int))
    rows, following = cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: row.number)
    return Page(_versions(session, {owner.id: name}, rows), following)


def pointer(
    session: Session, caller: Caller, name: str, pointer_name: str, *, at: datetime | None = None
) -> Pointer:
    """One pointer, as it is or as it was `at` that time. Raises ModelNotFound, InvalidName or PointerNotFound."""
    check_model_name(name)
    kind = check_pointer_name(pointer_name)
    if at is None:
        key = {"workspace": caller.workspace_id, "model": name, "pointer": pointer_name}
        row: Any = session.execute(_POINTER, key).first()
        if row is not None and caller.permits(Permission.READ, name):
            return pointer_of(name, row)
        model_row(session, caller, name)  # raises if it is the model that there is not
        raise PointerNotFound(name, pointer_name)
    moves = _moves_at(model_row(session, caller, name), at).where(MoveRow.pointer == pointer_name)
    if (move := session.scalar(moves)) is None:
        raise PointerNotFound(name, pointer_name)
    return Pointer(name, pointer_name, kind, move.to_number, move.generation, move.at, move.actor)


def pointers(session: Session, caller: Caller, name: str) -> Sequence[Pointer]:
    """All pointers of a model, stages first. Raises ModelNotFound."""
    return model(session, caller, name).pointers


def history(
    session: Session,
    caller: Caller,
    name: str,
    *,
    pointer_name: str | None = None,
    at: datetime | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Move]:
    """Moves of one pointer or of all, newest first; or, of each, the one that counted `at` that time. Raises ModelNotFound."""
    owner = model_row(session, caller, name)
    newest_first = (MoveRow.at.desc(), MoveRow.pointer.desc(), MoveRow.generation.desc())
    query = sa.select(MoveRow).where(MoveRow.model_id == owner.id) if at is None else _moves_at(owner, at)
    query = query.order_by(*newest_first)
    if pointer_name is not None:
        query = query.where(MoveRow.pointer == pointer_name)
    if after is not None:
        moved_at, last_pointer, generation = read_cursor(after, str, str, int)
        seen = sa.tuple_(MoveRow.at, MoveRow.pointer, MoveRow.generation)
        query = query.where(
            seen < sa.tuple_(read_time(moved_at), last_pointer, generation, types=_MOVE_KEY_TYPES)
        )
    rows, following = cut(
        session.scalars(query.limit(limit + 1)).all(),
        limit,
        lambda row: (row.at.isoformat(timespec="microseconds"), row.pointer, row.generation),
    )
    return Page([_move_of(name, row) for row in rows], following)


def model_row(session: Session, caller: Caller, name: str, *, lock: bool = False) -> ModelRow:
    """A model of the caller's workspace: the only place that looks one up by name. Raises ModelNotFound.

    Whoever changes anything of a model locks it first: all changes of one model queue here.
    """
    check_model_name(name)
    key = {"workspace": caller.workspace_id, "model": name}
    row = session.scalar(_MODEL_LOCKED if lock else _MODEL, key)
    if row is None or not caller.permits(Permission.READ, name):
        raise ModelNotFound(name)
    return row


def version_row(session: Session, owner: ModelRow, number: int) -> VersionRow:
    """A version that was not deleted. Raises VersionNotFound or VersionDeleted."""
    row = session.scalar(_VERSION_ROW, {"model": owner.id, "number": number})
    if row is None:
        raise VersionNotFound(owner.name, number)
    if row.deleted_at is not None:
        raise VersionDeleted(owner.name, number)
    return row


def pointer_rows(session: Session, model_id: int) -> dict[str, PointerRow]:
    """All pointers of a model, by name."""
    return {row.name: row for row in session.scalars(_POINTERS_OF, {"model": model_id})}


def _moves_at(owner: ModelRow, at: datetime) -> sa.Select[MoveRow]:
    """Of each pointer the last move until then: it says what held it."""
    later = sa.orm.aliased(MoveRow)
    outdone = sa.exists().where(
        later.model_id == MoveRow.model_id,
        later.pointer == MoveRow.pointer,
        later.generation > MoveRow.generation,
        later.at <= at,
    )
    return sa.select(MoveRow).where(MoveRow.model_id == owner.id, MoveRow.at <= at, ~outdone)


def pointer_of(name: str, row: Any) -> Pointer:
    kind: PointerKind = "stage" if row.kind == "stage" else "alias"
    return Pointer(name, row.name, kind, row.number, row.generation, row.moved_at, row.moved_by)


def _models(session: Session, rows: Sequence[ModelRow]) -> list[Model]:
    ids = [row.id for row in rows]
    held: dict[int, list[PointerRow]] = defaultdict(list)
    stages_first = (PointerRow.kind.desc(), PointerRow.name)
    for row in session.scalars(
        sa.select(PointerRow).where(PointerRow.model_id.in_(ids)).order_by(*stages_first)
    ):
        held[row.model_id].append(row)
    newest = sa.select(VersionRow.model_id, sa.func.max(VersionRow.number)).group_by(VersionRow.model_id)
    latest = {row[0]: row[1] for row in session.execute(newest.where(VersionRow.model_id.in_(ids)))}
    return [
        Model(
            name=row.name,
            description=row.description,
            created_at=row.created_at,
            latest=latest.get(row.id),
            pointers=[pointer_of(row.name, pointer) for pointer in held[row.id]],
            frozen=row.frozen,
        )
        for row in rows
    ]


def versions_at(session: Session, keys: Sequence[Key]) -> list[Version]:
    """Versions, of any models, in this order; whoever asks has made sure that the caller may see them."""
    found = session.execute(_VERSIONS_AT, given(keys)) if keys else ()
    rows = {(row.model_id, row.number): row for row in found}
    return _versions(session, {row.model_id: row.name for row in rows.values()}, [rows[key] for key in keys])


def _versions(session: Session, names: Mapping[int, str], rows: Sequence[Any]) -> list[Version]:
    if not rows:
        return []
    keys = [(row.model_id, row.number) for row in rows]
    held, stored = _by_key(session, _HELD, keys), _by_key(session, _STORED, keys)
    said = facts.labels_of(session, keys)
    return [
        _version_of(names[key[0]], row, stored[key], held[key], said.get(key, facts.Labels()))
        for key, row in zip(keys, rows, strict=True)
    ]


def _by_key(
    session: Session, query: sa.Select[*tuple[Any, ...]], keys: Sequence[Key]
) -> Mapping[Key, list[Any]]:
    found: dict[Key, list[Any]] = defaultdict(list)
    for row in session.execute(query, given(keys)):
        found[row.model_id, row.number].append(row)
    return found


def _version_of(
    name: str, row: Any, stored: Sequence[Any], held: Sequence[Any], said: facts.Labels
) -> Version:
    files = [File(file.path, file.size, file.digest) for file in stored]
    return Version(
        model=name,
        number=row.number,
        digest=row.manifest_digest,
        format=row.format,
        variants=[Variant(**variant) for variant in row.variants],
        signature=row.signature,
        example=row.example,
        description=row.description,
        metrics=said.metrics,
        tags=said.tags,
        fact_revision=row.fact_revision,
        files=files,
        size=sum(file.size for file in files),
        stage=stage_of((pointer.name for pointer in held), archived=row.archived),
        aliases=[pointer.name for pointer in held if pointer.kind == "alias"],
        verified=all(file.verified_at is not None for file in stored),
        damaged=any(file.damaged for file in stored),
        created_at=row.created_at,
        created_by=row.created_by,
        deleted_at=row.deleted_at,
        legal_hold=row.legal_hold,
    )


def _move_of(name: str, row: MoveRow) -> Move:
    return Move(
        model=name,
        pointer=row.pointer,
        generation=row.generation,
        from_number=row.from_number,
        to_number=row.to_number,
        kind=row.kind,  # type: ignore[arg-type]  # a CHECK constraint holds it to the three kinds
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        digest=row.digest,
        previous_digest=row.previous_digest,
    )


_MODEL = sa.select(ModelRow).where(
    ModelRow.workspace_id == sa.bindparam("workspace"), ModelRow.name == sa.bindparam("model")
)
_MODEL_LOCKED = _MODEL.with_for_update()
_VERSION_ROW = sa.select(VersionRow).where(
    VersionRow.model_id == sa.bindparam("model"), VersionRow.number == sa.bindparam("number")
)
_POINTERS_OF = sa.select(PointerRow).where(PointerRow.model_id == sa.bindparam("model"))
# Of tables, not of classes: objects that the session keeps track of would take twice as long.
_MODELS, _VERSIONS, _POINTERS = ModelRow.__table__.c, VersionRow.__table__, PointerRow.__table__.c
_FILES, _CONTENTS = FileRow.__table__.c, ContentRow.__table__.c
_VERSION = (
    sa.select(_VERSIONS)
    .join(ModelRow.__table__, _MODELS.id == _VERSIONS.c.model_id)
    .where(_MODELS.workspace_id == sa.bindparam("workspace"), _MODELS.name == sa.bindparam("model"))
    .where(_VERSIONS.c.number == sa.bindparam("number"))
)
_POINTER = (
    sa.select(PointerRow.__table__)
    .join(ModelRow.__table__, _MODELS.id == _POINTERS.model_id)
    .where(_MODELS.workspace_id == sa.bindparam("workspace"), _MODELS.name == sa.bindparam("model"))
    .where(_POINTERS.name == sa.bindparam("pointer"))
)
_VERSIONS_AT = (
    sa.select(_VERSIONS, _MODELS.name)
    .join(ModelRow.__table__, _MODELS.id == _VERSIONS.c.model_id)
    .join(*belong(VersionRow))
)
_HELD: Any = (
    sa.select(_POINTERS.model_id, _POINTERS.number, _POINTERS.name, _POINTERS.kind)
    .join(*belong(PointerRow))
    .order_by(_POINTERS.name)
)
_STORED: Any = (
    sa.select(_FILES.model_id, _FILES.number, _FILES.path)
    .add_columns(_CONTENTS.size, _CONTENTS.digest, _CONTENTS.verified_at, _CONTENTS.damaged)
    .join(ContentRow.__table__, _CONTENTS.id == _FILES.content_id)
    .join(*belong(FileRow))
    .order_by(_FILES.path)
)
_MOVE_KEY_TYPES = (MoveRow.at.type, MoveRow.pointer.type, MoveRow.generation.type)
