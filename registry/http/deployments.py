"""Deployments: serving adapters report what they run; who may read a model sees who runs it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints

from registry import deployments
from registry.domain import MAX_NUMBER
from registry.http import schemas
from registry.http.deps import Db, Reader, Reporter
from registry.http.fact_values import Moment
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1", tags=["deployments"], route_class=StrictRoute)

Served = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
AdapterName = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:\[\]-]*$")]


class Run(schemas.Request):
    """A model that the adapter serves as `name`. Without a `number` it has not come to serve any version."""

    name: Served
    model: schemas.Name
    number: schemas.Number | None = None
    digest: Annotated[str | None, Field(max_length=71)] = None
    follows: Annotated[schemas.Label | None, Field(max_length=256)] = None
    since: Moment | None = None
    trouble: Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\x00]*$")] = ""


class Report(schemas.Request):
    """All that an adapter runs."""

    runs: Annotated[list[Run], Field(max_length=1000)]


class Reported(schemas.Answer):
    """`kept`: of how many models; the others are not there, or not for this caller."""

    kept: int


class Deployment(schemas.Answer):
    """What an adapter runs of a model. `live`: it has reported within the last 90 seconds."""

    adapter: str
    principal: str
    name: str
    model: str
    number: int | None
    follows: str
    since: schemas.Time | None
    trouble: str
    reported_at: schemas.Time
    live: bool


class DeploymentPage(schemas.Answer):
    items: list[Deployment]
    next: str | None


@router.put("/adapters/{adapter}/deployments")
def report_deployments(adapter: AdapterName, body: Report, database: Db, caller: Reporter) -> Reported:
    """Report what an adapter runs, instead of what it reported before. To be repeated every 30 seconds."""
    runs = {run.name: _run(run) for run in body.runs}
    with database.write() as session:
        return Reported(kept=deployments.report(session, caller, adapter, list(runs.values())))


@router.get("/models/{model}/deployments", response_model=DeploymentPage)
def list_deployments(
    model: str,
    database: Db,
    caller: Reader,
    number: Annotated[int | None, Query(ge=1, le=MAX_NUMBER, description="of this version only")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[deployments.Deployment]:
    """Who runs the model now."""
    with database.read() as session:
        return deployments.deployments(session, caller, model, number=number, limit=limit, after=after)


def _run(run: Run) -> deployments.Run:
    since = None if run.since is None else datetime.fromisoformat(run.since)
    return deployments.Run(
        name=run.name,
        model=run.model,
        number=run.number,
        digest=run.digest,
        follows=run.follows or "",
        since=since,
        trouble=run.trouble,
    )
