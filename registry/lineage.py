"""Lineage: the run, code, image, datasets and parent versions that a version was made from, and what was made from it.

A parent is older than its child, so that there is no circle. Whoever may not read a parent does not see it, and keeps it
when they set the rest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from registry import amend, browse
from registry.access import Caller
from registry.database import ReadSession, WriteSession
from registry.errors import InvalidFacts, VersionDeleted, VersionNotFound
from registry.facts_tables import DatasetRow, LineageRow, ParentRow
from registry.tables import ModelRow, VersionRow

MAX_PARENTS = 100
MAX_DATASETS = 100
SHOWN_CHILDREN = 100

Session = ReadSession | WriteSession

_DATASET_DIGEST = re.compile(r"[a-z0-9-]{1,31}:[0-9a-f]{8,128}", re.ASCII)
_PASSWORD = re.compile(r"://[^/?#]*:[^/?#]*@")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A version on the other side."""

    model: str
    number: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version was made from, as it is told; "": not said. `datasets`: digests by the name of their part."""

    run: str = ""
    repository: str = ""
    commit: str = ""
    image: str = ""
    datasets: Mapping[str, str] = field(default_factory=dict)
    parents: Sequence[Link] = ()


@dataclass(frozen=True, slots=True)
class Lineage(Origin):
    """The same, as the caller may see it, and the newest `children`. `revision` is that of the version's facts."""

    children: Sequence[Link] = ()
    revision: int = 0


def lineage(session: Session, caller: Caller, model: str, number: int) -> Lineage:
    """Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    owner = browse.model_row(session, caller, model)
    return _lineage(session, caller, browse.version_row(session, owner, number))


def put(
    session: WriteSession,
    caller: Caller,
    model: str,
    number: int,
    origin: Origin,
    *,
    expected_revision: int | None = None,
) -> Lineage:
    """Say where a version comes from, instead of what was said before. Raises as `amend.change` does."""
    _check(origin)
    owner, version = amend.locked(session, caller, model, number, expected_revision)
    before = _lineage(session, caller, version)
    wanted = _parents(session, caller, version, origin.parents, set(before.parents))
    said = _said(origin)
    if said != _said(before):
        _replace(session, version, origin)
        _relink(session, caller, version, wanted)
        amend.amended(session, caller, owner, version, ["lineage"], {"lineage": said})
    return _lineage(session, caller, version)


def _check(origin: Origin) -> None:
    if any(_PASSWORD.search(text) for text in (origin.run, origin.repository, origin.image)):
        raise InvalidFacts(
            "An address in a lineage must not hold a password: everybody who may read can read it."
        )
    if not all(_DATASET_DIGEST.fullmatch(digest) for digest in origin.datasets.values()):
        raise InvalidFacts(
            'The digest of a dataset is its algorithm, a colon and lower-case hexadecimal digits: "sha256:…".'
        )
    if len(set(origin.parents)) < len(origin.parents):
        raise InvalidFacts("One parent is named twice.")


def _parents(
    session: WriteSession, caller: Caller, child: VersionRow, named: Sequence[Link], known: set[Link]
) -> list[VersionRow]:
    found = []
    for link in named:
        owner = browse.model_row(session, caller, link.model)
        row = session.get(VersionRow, (owner.id, link.number))
        if row is None:
            raise VersionNotFound(link.model, link.number)
        if row.deleted_at is not None and link not in known:
            raise VersionDeleted(link.model, link.number)
        if not _age(row) < _age(child):
            raise InvalidFacts(f"{link.model}/{link.number} is not older than what is to be made from it.")
        found.append(row)
    return found


def _age(version: VersionRow) -> tuple[Any, ...]:
    return version.created_at, version.model_id, version.number


def _replace(session: WriteSession, version: VersionRow, origin: Origin) -> None:
    key = {"model_id": version.model_id, "number": version.number}
    texts = {
        "run": origin.run,
        "repository": origin.repository,
        "code_commit": origin.commit,
        "image": origin.image,
    }
    for table in (LineageRow, DatasetRow):
        session.execute(sa.delete(table).filter_by(**key))
    if any(texts.values()):
        session.execute(sa.insert(LineageRow), [{**key, **texts}])
    if origin.datasets:
        rows = [{**key, "name": name, "digest": digest} for name, digest in origin.datasets.items()]
        session.execute(sa.insert(DatasetRow), rows)


def _relink(
    session: WriteSession, caller: Caller, version: VersionRow, parents: Sequence[VersionRow]
) -> None:
    of_child = ParentRow.model_id == version.model_id, ParentRow.number == version.number
    readable = sa.select(ModelRow.id).where(caller.sees_models())
    session.execute(sa.delete(ParentRow).where(*of_child, ParentRow.parent_model_id.in_(readable)))
    key = {"model_id": version.model_id, "number": version.number}
    if parents:
        rows = [{**key, "parent_model_id": row.model_id, "parent_number": row.number} for row in parents]
        session.execute(sa.insert(ParentRow), rows)


def _lineage(session: Session, caller: Caller, version: VersionRow) -> Lineage:
    key = {"model_id": version.model_id, "number": version.number}
    row = session.scalar(sa.select(LineageRow).filter_by(**key).execution_options(populate_existing=True))
    datasets = sa.select(DatasetRow.name, DatasetRow.digest).filter_by(**key).order_by(DatasetRow.name)
    parents = _links(caller, ParentRow.parent_model_id, ParentRow.parent_number)
    children = _links(caller, ParentRow.model_id, ParentRow.number)
    of_child = ParentRow.model_id == version.model_id, ParentRow.number == version.number
    of_parent = ParentRow.parent_model_id == version.model_id, ParentRow.parent_number == version.number
    newest = VersionRow.created_at.desc(), VersionRow.model_id, VersionRow.number
    return Lineage(
        run=row.run if row is not None else "",
        repository=row.repository if row is not None else "",
        commit=row.code_commit if row is not None else "",
        image=row.image if row is not None else "",
        datasets={row[0]: row[1] for row in session.execute(datasets)},
        parents=sorted(Link(*each) for each in session.execute(parents.where(*of_child))),
        children=[
            Link(*each)
            for each in session.execute(children.where(*of_parent).order_by(*newest).limit(SHOWN_CHILDREN))
        ],
        revision=version.fact_revision,
    )


def _links(
    caller: Caller, model_id: InstrumentedAttribute[int], number: InstrumentedAttribute[int]
) -> sa.Select[str, int]:
    """The versions on one side of the table of parents that the caller may read."""
    return (
        sa.select(ModelRow.name, number)
        .select_from(ParentRow)
        .join(ModelRow, ModelRow.id == model_id)
        .join(VersionRow, sa.and_(VersionRow.model_id == model_id, VersionRow.number == number))
        .where(caller.sees_models())
    )


def _said(origin: Origin) -> dict[str, Any]:
    """What was told, in one order: to compare it, and for the audit trail."""
    parents = [f"{link.model}/{link.number}" for link in sorted(origin.parents)]
    texts = {name: getattr(origin, name) for name in ("run", "repository", "commit", "image")}
    return {**texts, "datasets": dict(sorted(origin.datasets.items())), "parents": parents}
