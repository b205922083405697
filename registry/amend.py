"""Changing what is said of a version: tags, metadata, parameters and metrics.

    locked (model's row) ── expected revision? ── what differs ──▶ written, one event, one audit entry, fact_revision + 1
                                                     └─ nothing ──▶ nothing

The bytes of a version never change; what is known about it does. Whoever has approved of it has approved of the facts at
one revision, so that every change, even one that is taken back, makes that approval void. The audit trail keeps what each
fact was before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry import audit, browse, events, facts
from registry.access import Caller
from registry.database import WriteSession
from registry.domain import sha256
from registry.errors import FactsConflict, InvalidFacts, TooManyFacts
from registry.facts import Kind, Value, columns_of, value_of
from registry.facts_tables import HEAD, FactRow
from registry.tables import ModelRow, VersionRow

MOST: Mapping[Kind, int] = {"tag": 100, "metadata": 200, "parameter": 1000, "metric": 5000}
"""How many facts of a kind a version has at most."""

Key = tuple[Kind, str, str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a metric is to be; None: it is to be removed."""

    name: str
    value: float | None
    dataset: str = ""
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What facts are to be, by name; None: it is to be removed. What is not named stays."""

    tags: Mapping[str, str | None] = field(default_factory=dict)
    metadata: Mapping[str, Value | None] = field(default_factory=dict)
    parameters: Mapping[str, Value | None] = field(default_factory=dict)
    metrics: Sequence[Measured] = ()


def change(
    session: WriteSession,
    caller: Caller,
    model: str,
    number: int,
    wanted: Change,
    *,
    expected_revision: int | None = None,
) -> facts.Facts:
    """Raises ModelNotFound, VersionNotFound, VersionDeleted, InvalidFacts, TooManyFacts, or FactsConflict."""
    owner, version = locked(session, caller, model, number, expected_revision)
    by_key = _by_key(wanted)
    present = _present(session, version, {key[0] for key in by_key})
    told = [
        {**_named(key), "from": _told(_value(present.get(key))), "to": _told(value)}
        for key, value in by_key.items()
        if not _is(present.get(key), value)
    ]
    for key, value in by_key.items():
        _write(session, version, key, present, value)
    for kind in {key[0] for key in by_key}:
        if sum(key[0] == kind for key in present) > MOST[kind]:
            raise TooManyFacts(kind, MOST[kind])
    if told:
        kinds = sorted({entry["kind"] for entry in told})
        amended(session, caller, owner, version, kinds, {"changes": told})
    return facts.facts_of(session, version)


def locked(
    session: WriteSession, caller: Caller, model: str, number: int, expected_revision: int | None
) -> tuple[ModelRow, VersionRow]:
    """The model's row, locked, and the version, whose facts are at the revision that the caller expects."""
    owner = browse.model_row(session, caller, model, lock=True)
    version = browse.version_row(session, owner, number)
    if expected_revision not in (None, version.fact_revision):
        raise FactsConflict(model, number, expected_revision, version.fact_revision)
    return owner, version


def amended(
    session: WriteSession,
    caller: Caller,
    owner: ModelRow,
    version: VersionRow,
    what: Sequence[str],
    told: Mapping[str, Any],
) -> None:
    """Count and tell a change, as the last thing that its transaction does. `what`: which kinds of facts it changed."""
    version.fact_revision += 1
    session.flush()
    revision = {"fact_revision": version.fact_revision}
    said = {"number": version.number, **revision, "changed": list(what), "actor": caller.name}
    events.record(session, owner, "version.changed", said)
    resource = f"models/{owner.name}/versions/{version.number}"
    audit.record(session, caller, "version.changed", resource, {**revision, **told})


def _by_key(wanted: Change) -> dict[Key, Value | None]:
    named: Sequence[tuple[Kind, Mapping[str, Any]]] = [
        ("tag", wanted.tags),
        ("metadata", wanted.metadata),
        ("parameter", wanted.parameters),
    ]
    found: dict[Key, Value | None] = {
        (kind, name, "", ""): value for kind, values in named for name, value in values.items()
    }
    for metric in wanted.metrics:
        key: Key = ("metric", metric.name, metric.dataset, metric.slice)
        if key in found:
            raise InvalidFacts("One metric is given twice for the same dataset and slice.")
        found[key] = metric.value
    return found


def _present(session: WriteSession, version: VersionRow, kinds: set[Kind]) -> dict[Key, FactRow]:
    query = sa.select(FactRow).where(FactRow.model_id == version.model_id, FactRow.number == version.number)
    rows = session.scalars(query.where(FactRow.kind.in_(kinds)))
    return {(row.kind, row.name, row.dataset, row.slice): row for row in rows}  # type: ignore[misc]  # CHECKed


def _write(
    session: WriteSession, version: VersionRow, key: Key, present: dict[Key, FactRow], value: Value | None
) -> None:
    row = present.get(key)
    if value is None:
        if row is not None:
            session.delete(present.pop(key))
    elif row is None:
        kind, name, dataset, slice_ = key
        of_version = {"model_id": version.model_id, "number": version.number}
        columns = {**of_version, "kind": kind, "name": name, "dataset": dataset, "slice": slice_}
        present[key] = FactRow(**columns, **columns_of(value))
        session.add(present[key])
    else:
        for column, content in columns_of(value).items():
            setattr(row, column, content)


def _is(row: FactRow | None, value: Value | None) -> bool:
    if row is None or value is None:
        return row is None and value is None
    return {column: getattr(row, column) for column in ("type", "text", "head", "value")} == columns_of(value)


def _value(row: FactRow | None) -> Value | None:
    return None if row is None else value_of(row)


def _named(key: Key) -> dict[str, str]:
    kind, name, dataset, slice_ = key
    where = {"dataset": dataset, "slice": slice_} if kind == "metric" else {}
    return {"kind": kind, "name": name, **where}


def _told(value: Value | None) -> Any:
    """A value as the trail keeps it: of a long text the beginning, and the digest of the whole."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and len(value) > HEAD:
        return f"{value[:HEAD]}… {sha256(value.encode())}"
    return value
