"""Policies: set, look, lift; and what they would say about a promotion, before anybody asks for it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from registry import decide, decisions, policy
from registry.domain import MAX_NUMBER
from registry.http import schemas
from registry.http.deps import Db, Owner, Reader
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page
from registry.rules import EXPIRES_S, Edge, Rules

router = APIRouter(prefix="/api/v1", tags=["governance"], route_class=StrictRoute)

Who = Annotated[
    Sequence[Annotated[str, StringConstraints(min_length=1, max_length=140)]],
    Field(max_length=100, examples=[["group:risk", "role:owner", "principal:kim"]]),
]
Short = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]


class MetricCheck(schemas.Request):
    """A comparison of metrics: `auc >= production.auc - 0.002`."""

    kind: Literal["metric"]
    expression: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class PlainCheck(schemas.Request):
    """signature: who calls the holder can call it. example: one is recorded. digests: all bytes were read and are right."""

    kind: Literal["signature", "example", "digests"]


class FormatCheck(schemas.Request):
    """It can be loaded in these formats only."""

    kind: Literal["format"]
    allowed: Annotated[list[schemas.Label], Field(min_length=1, max_length=50)]


class ScanCheck(schemas.Request):
    """Metadata (or a tag) of that name is "clean"."""

    kind: Literal["scan"]
    name: Short = "scan"


class AgeCheck(schemas.Request):
    """It has been in staging for so many seconds."""

    kind: Literal["age"]
    seconds: Annotated[int, Field(ge=1, le=366 * 24 * 3600, strict=True)]


class TagCheck(schemas.Request):
    """It has a tag; with `value`: this one."""

    kind: Literal["tag"]
    name: Short
    value: schemas.Text | None = None


class CardCheck(schemas.Request):
    """Its model card says something under this heading."""

    kind: Literal["card"]
    section: Short


Check = Annotated[
    MetricCheck | PlainCheck | FormatCheck | ScanCheck | AgeCheck | TagCheck | CardCheck,
    Field(discriminator="kind"),
]


class PolicyEdge(schemas.Request):
    """A move that there is: from a stage (`*`: any) to a stage or alias (a pattern), for `who`, with checks and approvals."""

    from_: Annotated[str, Field(alias="from", max_length=10, examples=["staging"])]
    to: Annotated[str, StringConstraints(min_length=1, max_length=64), Field(examples=["production"])]
    who: Who = ()
    checks: Annotated[Sequence[Check], Field(max_length=50)] = ()
    approvals: Annotated[int, Field(ge=0, le=20, strict=True)] = 0
    approvers: Who = ()
    expires_s: Annotated[int, Field(ge=60, le=366 * 24 * 3600, strict=True)] = EXPIRES_S

    def value(self) -> Edge:
        checks = [check.model_dump() for check in self.checks]
        said = self.model_dump(exclude={"from_", "checks"})
        return Edge(self.from_, checks=checks, **said)


class PolicySet(schemas.Request):
    """All that a policy says. `rollback_by`: who may roll back; nobody listed: whoever may promote."""

    edges: Annotated[list[PolicyEdge], Field(min_length=1, max_length=100)]
    rollback_by: Who = ()
    expected_revision: schemas.Generation | None = None

    def rules(self) -> Rules:
        return Rules([edge.value() for edge in self.edges], self.rollback_by)


class Policy(schemas.Answer):
    """The newest revision of the policy for the models whose names match a pattern."""

    pattern: str
    revision: int
    edges: list[dict[str, Any]]
    rollback_by: list[str]
    set_at: schemas.Time
    set_by: str


class Policies(schemas.Answer):
    items: list[Policy]


class Finding(schemas.Answer):
    """What a check found, and all that it looked at."""

    check: dict[str, Any]
    passed: bool
    said: str
    inputs: dict[str, Any]


class Verdict(schemas.Answer):
    """What would become of a promotion: it `moves`, it `asks` for so many approvals, or it is `refused`.

    `refused_by`: the policy that knows no such move. `only_for`: for whom it is, and the caller is none of them.
    """

    number: int
    source: Annotated[str, Field(serialization_alias="from")]
    to: str
    generation: int
    outcome: Literal["moves", "asks", "refused"]
    policies: list[tuple[str, int]]
    approvals: int
    refused_by: str | None
    only_for: list[str]
    frozen: str | None
    findings: list[Finding]


class Decision(schemas.Answer):
    """On what grounds somebody was let through, or had to ask. The move that followed has the next generation of `pointer`."""

    id: int
    outcome: Literal["asked", "done"]
    number: int
    source: Annotated[str, Field(serialization_alias="from")]
    to: str
    pointer: str | None
    generation: int
    digest: str
    fact_revision: int
    policies: list[tuple[str, int]]
    approvals: int
    approved_by: list[str]
    request: int | None
    actor: str
    at: schemas.Time
    findings: list[Finding]


class DecisionPage(schemas.Answer):
    items: list[Decision]
    next: str | None


Pattern = Annotated[str, Field(max_length=128)]


@router.get("/policies")
def list_policies(database: Db, caller: Reader) -> Policies:
    """The policies of patterns whose models one may read."""
    with database.read() as session:
        return Policies(items=[_shown(each) for each in policy.policies(session, caller)])


@router.get("/policies/{pattern}")
def get_policy(pattern: str, database: Db, caller: Reader) -> Policy:
    """The policy of one pattern."""
    with database.read() as session:
        return _shown(policy.policy(session, caller, pattern))


@router.put("/policies/{pattern}")
def set_policy(pattern: str, body: PolicySet, database: Db, caller: Owner) -> Policy:
    """Say what promotions of the models of a pattern need. Every revision is kept."""
    with database.write() as session:
        expected = body.expected_revision
        return _shown(policy.put(session, caller, pattern, body.rules(), expected_revision=expected))


@router.delete("/policies/{pattern}", status_code=204)
def lift_policy(
    pattern: str,
    database: Db,
    caller: Owner,
    expected_revision: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
) -> None:
    """Let a pattern have no policy any more. What it said is kept."""
    with database.write() as session:
        policy.lift(session, caller, pattern, expected_revision=expected_revision)


@router.get("/models/{model}/policies")
def list_policies_of_model(model: str, database: Db, caller: Reader) -> Policies:
    """All policies that count for a model."""
    with database.read() as session:
        return Policies(items=[_shown(each) for each in policy.of_model(session, caller, model)])


@router.get("/models/{model}/promotions")
def preview_promotion(
    model: str,
    number: Annotated[int, Query(ge=1, le=MAX_NUMBER)],
    to: Annotated[str, Query(max_length=64)],
    database: Db,
    caller: Reader,
) -> Verdict:
    """What would become of a promotion if you asked for it now. Nothing is changed or kept."""
    with database.read() as session:
        owner, proposal, verdict = decide.preview(session, caller, model, number, to)
    return Verdict(
        number=number,
        source=proposal.source,
        to=to,
        generation=proposal.generation,
        outcome="refused" if owner.frozen is not None else verdict.outcome,
        policies=[(each.pattern, each.revision) for each in verdict.policies],
        approvals=verdict.approvals,
        refused_by=verdict.refusing.pattern if verdict.refusing is not None else None,
        only_for=list(verdict.kept_out.who) if verdict.kept_out is not None else [],
        frozen=owner.frozen,
        findings=[Finding.model_validate(decide.said(finding)) for finding in verdict.findings],
    )


@router.get("/models/{model}/decisions", response_model=DecisionPage)
def list_decisions(
    model: str,
    database: Db,
    caller: Reader,
    pointer: Annotated[str | None, Query(max_length=64, description="of this stage or alias only")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[decisions.Decision]:
    """On what grounds promotions were let through or asked for, newest first."""
    with database.read() as session:
        return decisions.decisions(session, caller, model, pointer=pointer, limit=limit, after=after)


def _shown(found: policy.Policy) -> Policy:
    about = {name: value for name, value in asdict(found).items() if name != "rules"}
    return Policy(**about, **found.rules.as_json())
