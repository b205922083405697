"""Facts about versions: tags, metrics, parameters, metadata and the model card, as they are now.

    kind        type                               beside its name
    tag         string
    parameter   string, number, boolean or time
    metadata    string, number, boolean or time
    metric      number                             dataset, slice ("": none)

Whoever may publish a model may change the facts of its versions (amend.py); `VersionRow.fact_revision` counts the changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from registry.database import ReadSession, WriteSession
from registry.domain import Metric
from registry.facts_tables import HEAD, CardRow, FactRow
from registry.keys import Key, belong, given
from registry.tables import VersionRow

Session = ReadSession | WriteSession
Kind = Literal["tag", "metadata", "parameter", "metric"]
Value = str | float | bool | datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FACTS = FactRow.__table__.c
_LABELS = (
    sa.select(_FACTS.model_id, _FACTS.number, _FACTS.kind, _FACTS.name, _FACTS.text, _FACTS.value)
    .join(*belong(FactRow))
    .where(_FACTS.kind.in_(["metric", "tag"]), _FACTS.dataset == "", _FACTS.slice == "")
    .order_by(_FACTS.name)
)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a version shows of its facts wherever it is listed: metrics without dataset and slice, and tags."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts of a version; `revision` counts their changes."""

    revision: int
    tags: dict[str, str]
    metadata: dict[str, Value]
    parameters: dict[str, Value]
    metrics: Sequence[Metric]


def facts_of(session: Session, version: VersionRow) -> Facts:
    return Facts(
        revision=version.fact_revision,
        tags=tags_of(session, version),
        metadata=metadata_of(session, version),
        parameters=parameters_of(session, version),
        metrics=all_metrics_of(session, version),
    )


def metrics_of(
    session: Session,
    version: VersionRow,
    dataset: str = "",
    slice: str = "",  # noqa: A002 - the word of the field
) -> dict[str, float]:
    """The metrics of a version on one slice of one dataset, by name."""
    rows = _rows(session, version, "metric", FactRow.dataset == dataset, FactRow.slice == slice)
    return {row.name: float(row.value or 0) for row in rows}


def all_metrics_of(session: Session, version: VersionRow) -> list[Metric]:
    """All metrics of a version, on whatever dataset and slice."""
    rows = _rows(session, version, "metric")
    return [Metric(row.name, float(row.value or 0), row.dataset, row.slice) for row in rows]


def tags_of(session: Session, version: VersionRow) -> dict[str, str]:
    return {row.name: row.text or "" for row in _rows(session, version, "tag")}


def metadata_of(session: Session, version: VersionRow) -> dict[str, Value]:
    return {row.name: value_of(row) for row in _rows(session, version, "metadata")}


def parameters_of(session: Session, version: VersionRow) -> dict[str, Value]:
    return {row.name: value_of(row) for row in _rows(session, version, "parameter")}


def card_of(session: Session, version: VersionRow) -> str:
    """The model card, in Markdown; "": it has none."""
    row = session.get(CardRow, (version.model_id, version.number))
    return row.text if row is not None else ""


def labels_of(session: Session, keys: Sequence[Key]) -> Mapping[Key, Labels]:
    """The labels of some versions: one query, however many they are."""
    found: dict[Key, Labels] = defaultdict(Labels)
    for model_id, number, kind, name, text, value in session.execute(_LABELS, given(keys)):
        if kind == "metric":
            found[model_id, number].metrics[name] = value
        else:
            found[model_id, number].tags[name] = text
    return found


def add(session: WriteSession, version: VersionRow, kind: Kind, values: Mapping[str, Value]) -> None:
    """Write facts that a version does not have yet."""
    _insert(session, [_row(version, kind, name, value) for name, value in values.items()])


def add_metrics(session: WriteSession, version: VersionRow, metrics: Iterable[Metric]) -> None:
    """Write metrics that a version does not have yet."""
    _insert(session, [_row(version, "metric", m.name, m.value, m.dataset, m.slice) for m in metrics])


def value_of(row: FactRow) -> Value:
    """What a fact says."""
    if row.type == "string":
        return row.text or ""
    number = float(row.value or 0)
    if row.type == "boolean":
        return bool(number)
    return time_of(number) if row.type == "time" else number


def time_of(seconds: float) -> datetime:
    """A point in time by the seconds since 1970, to the microsecond."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1_000_000))


def columns_of(value: Value) -> dict[str, Any]:
    """The columns that hold a value: type, text, head and value."""
    if isinstance(value, str):
        return {"type": "string", "text": value, "head": value[:HEAD], "value": None}
    if isinstance(value, bool):
        return {"type": "boolean", "text": None, "head": None, "value": float(value)}
    if isinstance(value, datetime):
        return {"type": "time", "text": None, "head": None, "value": (value - _EPOCH).total_seconds()}
    return {"type": "number", "text": None, "head": None, "value": float(value)}


def _row(
    version: VersionRow, kind: Kind, name: str, value: Value, dataset: str = "", slice_: str = ""
) -> dict[str, Any]:
    key = {"model_id": version.model_id, "number": version.number, "kind": kind, "name": name}
    return {**key, "dataset": dataset, "slice": slice_, **columns_of(value)}


def _insert(session: WriteSession, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(sa.insert(FactRow), rows)


def _rows(
    session: Session, version: VersionRow, kind: Kind, *conditions: sa.ColumnElement[bool]
) -> Sequence[FactRow]:
    of_kind = FactRow.model_id == version.model_id, FactRow.number == version.number, FactRow.kind == kind
    query = sa.select(FactRow).where(*of_kind, *conditions)
    return session.scalars(query.order_by(FactRow.name, FactRow.dataset, FactRow.slice)).all()
