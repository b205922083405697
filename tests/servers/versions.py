"""Versions that are written into a database as they are, without uploads and bytes: for tests that need many."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from registry.access import Caller
from registry.database import Database
from registry.facts import columns_of
from registry.facts_tables import FactRow
from registry.tables import ModelRow, PointerRow, UploadRow, VersionRow, WorkspaceRow

EARLY = datetime(2026, 1, 1, tzinfo=UTC)
FactKey = tuple[str, str, str, str]
"""Kind, name, dataset, slice."""

_serial = itertools.count()


@dataclass(frozen=True)
class Written:
    """A version as a plain value."""

    model: str
    number: int
    format: str = "onnx"
    creator: str = "ada"
    created: datetime = EARLY
    archived: bool = False
    deleted: bool = False
    description: str = ""
    stage: str | None = None
    aliases: Sequence[str] = ()
    facts: Mapping[FactKey, str | float | bool | datetime] = field(default_factory=dict)


def new_workspace(database: Database) -> Caller:
    """A workspace that nobody else uses, and its administrator."""
    name = f"w{next(_serial)}"
    with database.write() as session:
        session.add(row := WorkspaceRow(name=name, created_by="test"))
        session.flush()
        return Caller("ada", name, row.id, administrator=True)


def write(database: Database, workspace_id: int, versions: Sequence[Written]) -> None:
    """Models are made in the order in which they are first named."""
    with database.write() as session:
        known: dict[str, int] = {}
        for each in versions:
            if each.model not in known:
                session.add(row := ModelRow(workspace_id=workspace_id, name=each.model))
                session.flush()
                known[each.model] = row.id
            model_id = known[each.model]
            session.add(upload := _upload(each))
            session.flush()
            session.add(_version(each, model_id, upload.id))
            session.flush()
            session.add_all(_pointers(each, model_id))
            session.add_all(
                FactRow(
                    model_id=model_id,
                    number=each.number,
                    kind=kind,
                    name=name,
                    dataset=dataset,
                    slice=slice_,
                    **columns_of(value),
                )
                for (kind, name, dataset, slice_), value in each.facts.items()
            )


def _upload(each: Written) -> UploadRow:
    return UploadRow(
        id=f"upload-{next(_serial)}", model=each.model, created_by=each.creator, expires_at=EARLY
    )


def _version(each: Written, model_id: int, upload_id: str) -> VersionRow:
    return VersionRow(
        model_id=model_id,
        number=each.number,
        manifest_digest="sha256:" + "0" * 64,
        format=each.format,
        variants=[],
        signature=None,
        example=None,
        description=each.description,
        upload_id=upload_id,
        created_at=each.created,
        created_by=each.creator,
        archived=each.archived,
        deleted_at=EARLY if each.deleted else None,
    )


def _pointers(each: Written, model_id: int) -> list[PointerRow]:
    held = [(each.stage, "stage")] if each.stage else []
    return [
        PointerRow(
            model_id=model_id,
            name=name,
            kind=kind,
            number=each.number,
            generation=1,
            moved_at=EARLY,
            moved_by="ada",
        )
        for name, kind in [*held, *((alias, "alias") for alias in each.aliases)]
    ]
