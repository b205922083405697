"""Deployments: what serving adapters say that they run, and so who deploys a version now.

    adapter ── report: all that it runs ──▶ adapters, deployments      each report replaces the one before
                        nothing heard for SILENT_S                     not live any more
                        nothing heard for FORGOTTEN_S                  removed

A report is what an adapter says, not what the registry has decided: it is neither an event nor audited. What it says of
models that it may not read, or of versions that are not there, is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from registry import browse
from registry.access import Caller, Permission
from registry.database import Database, ReadSession, WriteSession, insert_or_ignore, utc_now
from registry.deployment_tables import AdapterRow, DeploymentRow
from registry.errors import TooManyAdapters
from registry.pages import Page, cut, read_cursor
from registry.tables import ModelRow, VersionRow

SILENT_S = 90.0
FORGOTTEN_S = 24 * 3600.0
MAX_ADAPTERS = 1000
"""How many adapters may report for one principal of a workspace."""
BATCH = 500


@dataclass(frozen=True, slots=True)
class Run:
    """What an adapter says of one model that it serves as `name`. No `number`: it has not come to serve any version."""

    name: str
    model: str
    number: int | None = None
    digest: str | None = None
    follows: str = ""
    since: datetime | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What one adapter runs of one model; `live`: it was heard of a moment ago."""

    adapter: str
    principal: str
    name: str
    model: str
    number: int | None
    follows: str
    since: datetime | None
    trouble: str
    reported_at: datetime
    live: bool


def report(session: WriteSession, caller: Caller, adapter: str, runs: Sequence[Run]) -> int:
    """Keep that this adapter of the caller's runs this, and nothing else. Returns how much of it was kept.

    Raises TooManyAdapters.
    """
    row = _adapter(session, caller, adapter)
    row.reported_at = session.scalars(sa.select(utc_now())).one()
    wanted = {each["name"]: each for each in _known(session, caller, runs)}
    kept = len(wanted)
    for present in session.scalars(sa.select(DeploymentRow).where(DeploymentRow.adapter_id == row.id)):
        if present.name not in wanted:
            session.delete(present)
        else:
            for column, value in wanted.pop(present.name).items():
                setattr(present, column, value)
    session.add_all(DeploymentRow(adapter_id=row.id, **each) for each in wanted.values())
    session.flush()
    return kept


def deployments(
    session: ReadSession,
    caller: Caller,
    model: str,
    *,
    number: int | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Deployment]:
    """Who runs a model, or one version of it. Raises ModelNotFound."""
    owner = browse.model_row(session, caller, model)
    live = AdapterRow.reported_at > _ago(session, SILENT_S)
    query = sa.select(DeploymentRow, AdapterRow, live).join(
        AdapterRow, AdapterRow.id == DeploymentRow.adapter_id
    )
    query = query.where(DeploymentRow.model_id == owner.id)
    if number is not None:
        query = query.where(DeploymentRow.number == number)
    if after is not None:
        key = sa.tuple_(DeploymentRow.adapter_id, DeploymentRow.name)
        query = query.where(key > sa.tuple_(*read_cursor(after, int, str)))
    query = query.order_by(DeploymentRow.adapter_id, DeploymentRow.name).limit(limit + 1)
    rows, following = cut(session.execute(query).all(), limit, lambda row: (row[0].adapter_id, row[0].name))
    return Page([_deployment(model, *row) for row in rows], following)


def forget_silent(database: Database) -> int:
    """Remove adapters that nobody has heard of for a day; returns how many."""
    gone = 0
    while True:
        with database.write() as session:
            silent = (
                sa.select(AdapterRow.id)
                .where(AdapterRow.reported_at < _ago(session, FORGOTTEN_S))
                .limit(BATCH)
            )
            ids = session.scalars(silent.with_for_update(skip_locked=True)).all()
            session.execute(sa.delete(AdapterRow).where(AdapterRow.id.in_(ids)))
        gone += len(ids)
        if len(ids) < BATCH:
            return gone


def _adapter(session: WriteSession, caller: Caller, name: str) -> AdapterRow:
    """The adapter's row, locked: two reports of one adapter come one after the other."""
    of_caller = {"workspace_id": caller.workspace_id, "principal": caller.name}
    query = sa.select(AdapterRow).filter_by(**of_caller, name=name).with_for_update()
    row = session.scalar(query)
    if row is not None:
        return row
    count = session.scalar(sa.select(sa.func.count()).select_from(AdapterRow).filter_by(**of_caller)) or 0
    if count >= MAX_ADAPTERS:
        raise TooManyAdapters(
            f"{MAX_ADAPTERS} adapters report as {caller.name!r} already, or did within a day."
        )
    now = session.scalars(sa.select(utc_now())).one()
    insert_or_ignore(session, AdapterRow, {**of_caller, "name": name, "reported_at": now})
    return session.scalars(query).one()


def _known(session: WriteSession, caller: Caller, runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """What of a report can be kept, as columns."""
    names = {run.model for run in runs if caller.permits(Permission.REPORT, run.model)}
    models = sa.select(ModelRow.name, ModelRow.id).where(
        ModelRow.workspace_id == caller.workspace_id, ModelRow.name.in_(names)
    )
    ids = {row[0]: row[1] for row in session.execute(models)}
    wanted = {(ids[run.model], run.number) for run in runs if run.model in ids and run.number is not None}
    keys = sa.tuple_(VersionRow.model_id, VersionRow.number)
    versions = sa.select(VersionRow.model_id, VersionRow.number, VersionRow.manifest_digest).where(
        keys.in_(wanted)
    )
    digests = {(row[0], row[1]): row[2] for row in session.execute(versions)}
    for run in runs:
        if run.model not in ids:
            continue
        # A number alone could be that of another registry, or of before a backup was restored.
        if run.number is not None and digests.get((ids[run.model], run.number)) != run.digest:
            continue
        yield {
            "name": run.name,
            "model_id": ids[run.model],
            "number": run.number,
            "follows": run.follows,
            "since": run.since,
            "trouble": run.trouble,
        }


def _ago(session: ReadSession | WriteSession, seconds: float) -> datetime:
    return session.scalars(sa.select(utc_now())).one() - timedelta(seconds=seconds)


def _deployment(model: str, row: DeploymentRow, adapter: AdapterRow, live: bool) -> Deployment:
    return Deployment(
        adapter=adapter.name,
        principal=adapter.principal,
        name=row.name,
        model=model,
        number=row.number,
        follows=row.follows,
        since=row.since,
        trouble=row.trouble,
        reported_at=adapter.reported_at,
        live=live,
    )
