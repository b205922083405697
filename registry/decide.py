"""Deciding: does policy let a promotion through? Asked by promote.py, with the model's row locked.

    Proposal ──judge──> Verdict      edges: one of each policy that governs the move
                          │          findings: what their checks found
                          │
              no edge, not one of `who`, a check that failed     refused, by an error
              approvals or a time to wait for                    becomes a request (requests.py)
              else                                               let through

What was decided on which grounds is kept, whenever a policy governs the move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry import identify, policy, requests
from registry.access import Caller, Permission
from registry.browse import model_row, pointer_rows, version_row
from registry.checks import Finding, Subject, evaluate
from registry.database import ReadSession, WriteSession
from registry.domain import canonical_json, check_pointer_name, stage_of
from registry.errors import ChecksFailed, GenerationConflict, ModelFrozen, NoSuchEdge, NotByPolicy
from registry.policy import Policy
from registry.policy_tables import DecisionRow, FindingRow, RequestRow
from registry.rules import EXPIRES_S, Edge
from registry.tables import ModelRow, PointerRow, VersionRow
from registry.who import is_one_of

Session = ReadSession | WriteSession


@dataclass(frozen=True, slots=True)
class Proposal:
    """A promotion that somebody wants: `pointer` would move, which is `held`, if it was ever used."""

    version: VersionRow
    source: str
    to: str
    pointer: str | None
    held: PointerRow | None
    reason: str = ""
    at: datetime | None = None
    request: RequestRow | None = None

    @property
    def generation(self) -> int:
        return self.held.generation if self.held is not None else 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says. `refusing`: a policy that knows no such move; `kept_out`: an edge that is for others."""

    policies: Sequence[Policy]
    edges: Sequence[Edge]
    refusing: Policy | None
    kept_out: Edge | None
    findings: Sequence[Finding]

    @property
    def approvals(self) -> int:
        return max((edge.approvals for edge in self.edges), default=0)

    @property
    def expires_s(self) -> int:
        return min((edge.expires_s for edge in self.edges), default=EXPIRES_S)

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def outcome(self) -> str:
        """What would become of it: `moves`, `asks` (for approvals), or `refused`."""
        if self.refusing or self.kept_out or not self.passed:
            return "refused"
        return "asks" if self.approvals else "moves"


def propose(
    version: VersionRow,
    pointers: Mapping[str, PointerRow],
    to: str,
    *,
    reason: str = "",
    at: datetime | None = None,
    request: RequestRow | None = None,
) -> Proposal:
    """The promotion of a version to a stage or alias, the model's pointers being what they are. Raises InvalidName."""
    stages = (each for each in pointers.values() if each.kind == "stage" and each.number == version.number)
    stage = next(stages, None)
    if to in ("none", "archived"):
        name, held = stage.name if stage is not None else None, stage
    else:
        check_pointer_name(to)
        name, held = to, pointers.get(to)
    source = stage_of([stage.name] if stage is not None else [], archived=version.archived)
    return Proposal(version, source, to, name, held, reason, at, request)


def judge(session: Session, caller: Caller, model: ModelRow, proposal: Proposal) -> Verdict:
    """What the model's policies say about it now."""
    found = _governing(session, model, proposal)
    edges = [edge for _, edge in found if edge is not None]
    subject = Subject(session, proposal.version, proposal.to)
    checks = {canonical_json(check): check for edge in edges for check in edge.checks}
    return Verdict(
        policies=[each for each, _ in found],
        edges=edges,
        refusing=next((each for each, edge in found if edge is None), None),
        kept_out=next((edge for edge in edges if not is_one_of(session, caller, edge.who, model.name)), None),
        findings=[evaluate(subject, check) for check in checks.values()],
    )


def preview(
    session: Session, caller: Caller, model: str, number: int, to: str
) -> tuple[ModelRow, Proposal, Verdict]:
    """What would become of a promotion. Raises ModelNotFound, VersionNotFound, VersionDeleted or InvalidName."""
    owner = model_row(session, caller, model)
    proposal = propose(version_row(session, owner, number), pointer_rows(session, owner.id), to)
    return owner, proposal, judge(session, caller, owner, proposal)


def consult(session: WriteSession, caller: Caller, model: ModelRow, proposal: Proposal) -> int | None:
    """None: let it through. A number: that of the request that it has become.

    Raises NoSuchEdge, NotByPolicy or ChecksFailed; with a request that is not to be carried out, GenerationConflict.
    """
    verdict = judge(session, caller, model, proposal)
    if verdict.refusing is not None:
        raise NoSuchEdge(proposal.source, proposal.to, verdict.refusing.pattern)
    request = proposal.request
    if request is None and verdict.kept_out is not None:
        raise NotByPolicy("this promotion", verdict.kept_out.who)
    waits = request is None and (verdict.approvals > 0 or proposal.at is not None)
    if not verdict.passed and not (waits and proposal.at is not None):
        raise ChecksFailed([said(finding) for finding in verdict.findings])
    if waits:
        return _ask(session, caller, model, proposal, verdict)
    approvers: Sequence[str] = ()
    if request is not None:
        if request.pointer != proposal.pointer:
            raise GenerationConflict(proposal.to, request.generation, proposal.generation, None)
        approvers = requests.approvers(session, request, proposal.version)
        requests.close(session, caller, request, proposal.version, "done")
    if verdict.policies:
        _record(session, caller, proposal, verdict, "done", request.id if request else None, approvers)
    return None


def missing(
    session: WriteSession, caller: Caller, model: ModelRow, request: RequestRow, proposal: Proposal
) -> int:
    """How many approvals a request still needs: those count that are given by people who may still give them."""
    edges = [edge for _, edge in _governing(session, model, proposal) if edge is not None]
    names = requests.approvers(session, request, proposal.version)
    found = (identify.person(session, name, caller.workspace, caller.workspace_id) for name in names)
    people = [each for each in found if each is not None and each.permits(Permission.PROMOTE, model.name)]
    return max((edge.approvals - _eligible(session, model, people, edge) for edge in edges), default=0)


def may_approve(session: Session, caller: Caller, model: ModelRow, proposal: Proposal) -> None:
    """Raise NotByPolicy unless some edge takes the caller's approval."""
    edges = [edge for _, edge in _governing(session, model, proposal) if edge is not None and edge.approvals]
    if edges and not any(is_one_of(session, caller, edge.approvers, model.name) for edge in edges):
        raise NotByPolicy("to approve this", edges[0].approvers)


def allow_rollback(session: Session, caller: Caller, model: ModelRow, pointer: str) -> None:
    """Raise NotByPolicy unless the caller may roll back: the version before was let through once, no checks are due."""
    for each in policy.applying(session, model):
        if each.rules.governs(pointer) and not is_one_of(session, caller, each.rules.rollback_by, model.name):
            raise NotByPolicy("rolling back", each.rules.rollback_by)


def allow_removal(session: Session, caller: Caller, model: ModelRow, pointer: str, source: str) -> None:
    """Raise unless the caller may let a pointer hold nothing: for a stage that is a move to "none".

    Nothing can be checked of no version, and nobody can approve of it: where policy asks for approvals, promote another one.
    """
    to = "none" if pointer in ("production", "staging") else pointer
    for each in policy.applying(session, model):
        if not each.rules.governs(to):
            continue
        edge = each.rules.edge(source, to)
        if edge is None or edge.approvals:
            raise NoSuchEdge(source, "none", each.pattern)
        if not is_one_of(session, caller, edge.who, model.name):
            raise NotByPolicy("this removal", edge.who)


def require_thawed(model: ModelRow) -> None:
    """Raise ModelFrozen."""
    if model.frozen is not None:
        raise ModelFrozen(model.name, model.frozen)


def said(finding: Finding) -> Mapping[str, Any]:
    """A finding as JSON."""
    return {
        "check": dict(finding.check),
        "passed": finding.passed,
        "said": finding.said,
        "inputs": dict(finding.inputs),
    }


def _governing(session: Session, model: ModelRow, proposal: Proposal) -> list[tuple[Policy, Edge | None]]:
    """The policies that are concerned, each with the edge that names the move."""
    found = [each for each in policy.applying(session, model) if each.rules.governs(proposal.to)]
    return [(each, each.rules.edge(proposal.source, proposal.to)) for each in found]


def _eligible(session: WriteSession, model: ModelRow, people: Sequence[Caller], edge: Edge) -> int:
    return sum(is_one_of(session, each, edge.approvers, model.name) for each in people)


def _ask(session: WriteSession, caller: Caller, model: ModelRow, proposal: Proposal, verdict: Verdict) -> int:
    wanted = requests.Wanted(
        number=proposal.version.number,
        to=proposal.to,
        pointer=proposal.pointer,
        generation=proposal.generation,
        reason=proposal.reason,
        at=proposal.at,
        expires_s=verdict.expires_s,
    )
    request, new = requests.find_or_open(session, caller, model, proposal.version, wanted)
    if new:
        _record(session, caller, proposal, verdict, "asked", request.id, ())
        requests.announce(session, caller, model, request, "request.opened")
    return request.id


def _record(
    session: WriteSession,
    caller: Caller,
    proposal: Proposal,
    verdict: Verdict,
    outcome: str,
    request: int | None,
    approvers: Sequence[str],
) -> None:
    version = proposal.version
    decision = DecisionRow(
        model_id=version.model_id,
        outcome=outcome,
        number=version.number,
        source=proposal.source,
        to=proposal.to,
        pointer=proposal.pointer,
        generation=proposal.generation,
        manifest_digest=version.manifest_digest,
        fact_revision=version.fact_revision,
        policies=[[each.pattern, each.revision] for each in verdict.policies],
        approvals=verdict.approvals,
        approved_by=list(approvers),
        request_id=request,
        actor=caller.name,
    )
    session.add(decision)
    session.flush()
    for position, finding in enumerate(verdict.findings):
        session.add(FindingRow(decision_id=decision.id, position=position, **said(finding)))
    session.flush()
