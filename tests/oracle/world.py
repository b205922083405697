"""A whole registry in a few hundred lines of plain Python: what tests compare the real one with. It shares nothing with it.

Each verb returns the Answer that is due, and changes the world if it is a good one. `told` counts what the audit trail has
to tell.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.answers import Answer, Refused
from tests.oracle.rights import Caller, Grant, Rights, fits
from tests.oracle.state import CHECKS, STAGES, Entry, Model, Move, Pointer, Request, Version

SYSTEM = "modelyard"
WEEK = 7 * 24 * 3600
ALL_STAGES = ("none", "archived", *STAGES)
Edge = Mapping[str, Any]


@dataclass
class Policy:
    """`edges`: None when it was lifted."""

    revision: int = 0
    edges: list[Edge] | None = None
    rollback_by: list[str] = field(default_factory=list)

    def governs(self, to: str) -> bool:
        return self.edges is not None and (
            to in ALL_STAGES or any(fits(to, edge["to"]) for edge in self.edges)
        )

    def edge(self, source: str, to: str) -> Edge | None:
        named = [e for e in self.edges or () if e["from"] in ("*", source) and fits(to, e["to"])]
        return named[0] if named else None


@dataclass
class Proposal:
    """A promotion of `version`: which pointer would move, and what policy finds."""

    model: Model
    version: Version
    to: str
    source: str
    pointer: str | None
    governing: list[tuple[str, Policy, Edge | None]]
    findings: dict[str, bool]

    @property
    def generation(self) -> int:
        return self.model.generation(self.pointer)

    @property
    def edges(self) -> list[Edge]:
        return [edge for _, _, edge in self.governing if edge is not None]

    @property
    def refused(self) -> bool:
        return len(self.edges) < len(self.governing)

    @property
    def passed(self) -> bool:
        return all(self.findings.values())

    @property
    def approvals(self) -> int:
        return max((edge["approvals"] for edge in self.edges), default=0)

    @property
    def expires_s(self) -> int:
        return min((edge["expires_s"] for edge in self.edges), default=WEEK)


def done(**said: Any) -> Answer:
    return Answer(said=said)


class World:
    def __init__(self) -> None:
        self.rights = Rights()
        self.models: dict[str, Model] = {}
        self.policies: dict[str, Policy] = {}
        self.now = 0
        self.told = 0

    def attempt(self, verb: Callable[..., Answer], *args: Any, **more: Any) -> Answer:
        """Do it, or nothing."""
        before = copy.deepcopy(self.__dict__)
        try:
            return verb(*args, **more)
        except Refused as refusal:
            self.__dict__ = before
            return refusal.answer

    # --- people

    def give(self, caller: Caller, grant: Grant, number: int | None) -> Answer:
        """`number`: which the registry gave it, unless it has one."""
        self.rights.require(caller, "admin")
        if grant.to_group and grant.whom not in self.rights.groups:
            raise Refused(404, "group_not_found")
        same = [known for known, each in self.rights.grants.items() if each == grant]
        if not same and number is not None:
            self.rights.grants[number] = grant
            self.told += 1
        return Answer(201, said={"id": same[0]} if same else {})

    def take(self, caller: Caller, number: int) -> Answer:
        self.rights.require(caller, "admin")
        if self.rights.grants.pop(number, None) is None:
            raise Refused(404, "grant_not_found")
        self.told += 1
        return done(id=number)

    def make_group(self, caller: Caller, group: str) -> Answer:
        self.rights.require(caller, "admin")
        if group in self.rights.groups:
            raise Refused(409, "name_taken")
        self.rights.groups[group] = set()
        self.told += 1
        return Answer(201, said={"members": []})

    def delete_group(self, caller: Caller, group: str) -> Answer:
        self._group(caller, group)
        del self.rights.groups[group]
        self.rights.grants = {
            n: g for n, g in self.rights.grants.items() if not (g.to_group and g.whom == group)
        }
        self.told += 1
        return Answer(204)

    def join(self, caller: Caller, group: str, name: str) -> Answer:
        members = self._group(caller, group)
        self.told += name not in members
        members.add(name)
        return done(members=sorted(members))

    def leave(self, caller: Caller, group: str, name: str) -> Answer:
        members = self._group(caller, group)
        self.told += name in members
        members.discard(name)
        return done(members=sorted(members))

    def _group(self, caller: Caller, group: str) -> set[str]:
        self.rights.require(caller, "admin")
        if group not in self.rights.groups:
            raise Refused(404, "group_not_found")
        return self.rights.groups[group]

    def shut_out(self, name: str, *, disabled: bool) -> Answer:
        self.told += disabled != (name in self.rights.shut_out)
        (self.rights.shut_out.add if disabled else self.rights.shut_out.discard)(name)
        return done(disabled=disabled)

    # --- models and versions

    def begin(self, caller: Caller, model: str) -> Answer:
        self.rights.require(caller, "publish", model)
        return Answer(201)

    def publish(self, caller: Caller, model: str) -> Answer:
        self.rights.require(caller, "publish", model)
        owner = self.models.setdefault(model, Model(model))
        number = len(owner.versions) + 1
        owner.versions[number] = Version(number, caller.name)
        self.told += 1
        return Answer(201, said={"number": number, "stage": "none", "fact_revision": 0})

    def amend(
        self,
        caller: Caller,
        model: str,
        number: int,
        tags: Mapping[str, str | None],
        auc: float | None,
        expected: int | None,
    ) -> Answer:
        """Set tags (None: remove), and the metric (None: leave it)."""
        version = self._version(self._model(caller, "publish", model), number)
        if expected not in (None, version.revision):
            raise Refused(409, "facts_conflict")
        before = copy.deepcopy(version)
        merged = {**version.tags, **tags}
        version.tags = {name: value for name, value in merged.items() if value is not None}
        version.auc = version.auc if auc is None else auc
        if version != before:
            version.revision += 1
            self.told += 1
        return done(revision=version.revision, tags=version.tags)

    def delete(self, caller: Caller, model: str, number: int) -> Answer:
        owner = self._model(caller, "own", model)
        if number not in owner.versions:
            raise Refused(404, "version_not_found")
        version = owner.versions[number]
        if not version.deleted and (owner.held_stage(number) or owner.aliases(number)):
            raise Refused(409, "version_in_use")
        self.told += not version.deleted
        version.deleted = True
        return done(number=number)

    def restore(self, caller: Caller, model: str, number: int) -> Answer:
        owner = self._model(caller, "own", model)
        if number not in owner.versions:
            raise Refused(404, "version_not_found")
        self.told += owner.versions[number].deleted
        owner.versions[number].deleted = False
        return done(number=number, stage=owner.stage(number))

    def freeze(self, caller: Caller, model: str, reason: str | None) -> Answer:
        owner = self._model(caller, "own", model)
        self.told += owner.frozen != reason
        owner.frozen = reason
        return done(frozen=reason)

    def _model(self, caller: Caller, permission: str, name: str) -> Model:
        self.rights.require(caller, permission, name)
        if name not in self.models:
            raise Refused(404, "model_not_found")
        return self.models[name]

    def _version(self, model: Model, number: int) -> Version:
        if number not in model.versions:
            raise Refused(404, "version_not_found")
        if model.versions[number].deleted:
            raise Refused(410, "version_deleted")
        return model.versions[number]

    # --- policies

    def set_policy(
        self,
        caller: Caller,
        pattern: str,
        edges: list[Edge] | None,
        rollback_by: list[str],
        expected: int | None,
    ) -> Answer:
        """`edges` None: lift it."""
        self.rights.require(caller, "own")
        self.rights.require(caller, "own", pattern)
        policy = self.policies.get(pattern, Policy())
        if expected not in (None, policy.revision):
            raise Refused(409, "policy_changed")
        if edges is None and policy.edges is None:
            raise Refused(404, "policy_not_found")
        if (policy.edges, policy.rollback_by) != (edges, rollback_by):
            policy = self.policies[pattern] = Policy(policy.revision + 1, edges, rollback_by)
            self.told += 1
        return Answer(204) if edges is None else done(revision=policy.revision, pattern=pattern)

    def see(self, caller: Caller) -> Answer:
        """Look at lists: there is something to see for whoever may read something."""
        self.rights.require(caller, "read")
        return done()

    def preview(self, caller: Caller, model: str, number: int, to: str) -> Answer:
        owner = self._model(caller, "read", model)
        proposal = self._propose(owner, self._version(owner, number), to)
        outcome = "asks" if proposal.approvals else "moves"
        refused = proposal.refused or self._kept_out(caller, proposal) or not proposal.passed or owner.frozen
        return done(
            **{"from": proposal.source},
            generation=proposal.generation,
            outcome="refused" if refused else outcome,
            approvals=proposal.approvals,
            frozen=owner.frozen,
        )

    def _applying(self, model: Model) -> list[tuple[str, Policy]]:
        found = self.policies.items()
        return [(pattern, each) for pattern, each in found if fits(model.name, pattern) and each.edges]

    def _propose(self, model: Model, version: Version, to: str) -> Proposal:
        source = model.stage(version.number)
        governing = [
            (pattern, each, each.edge(source, to))
            for pattern, each in self._applying(model)
            if each.governs(to)
        ]
        checks = {check for _, _, edge in governing if edge for check in edge["checks"]}
        return Proposal(
            model,
            version,
            to,
            source,
            model.held_stage(version.number) if to in ("none", "archived") else to,
            governing,
            {check: CHECKS[check][1](model, version, self.now) for check in checks},
        )

    def _kept_out(self, caller: Caller, proposal: Proposal) -> bool:
        return not all(
            self.rights.is_meant(caller, edge["who"], proposal.model.name) for edge in proposal.edges
        )

    # --- promotions

    def promote(
        self,
        caller: Caller,
        model: str,
        number: int,
        to: str,
        *,
        expected: int | None = None,
        reason: str = "",
        at: int | None = None,
    ) -> Answer:
        owner = self._thawed(caller, model)
        proposal = self._propose(owner, self._version(owner, number), _valid(to, *ALL_STAGES))
        self._expect(owner, proposal.pointer, expected)
        if _is_so(proposal):
            return self._outcome(owner, number, proposal.pointer, moved=False)
        if proposal.refused:
            raise Refused(409, "no_such_edge")
        if self._kept_out(caller, proposal):
            raise Refused(403, "not_by_policy")
        if not proposal.passed and at is None:
            raise Refused(409, "checks_failed")
        if proposal.approvals or at is not None:
            request = self._ask(caller, proposal, reason, at)
            asked = self._outcome(owner, number, proposal.pointer, moved=False)
            return Answer(202, said={**asked.said, "request": request.id})
        self._decided(caller, proposal, "done", None, [])
        return self._do(caller, proposal, reason)

    def _do(self, caller: Caller, proposal: Proposal, reason: str) -> Answer:
        owner, number, to = proposal.model, proposal.version.number, proposal.to
        self.told += 1
        if to in ("none", "archived"):
            proposal.version.archived = to == "archived"
            if proposal.pointer is not None:
                self._move(caller, owner, proposal.pointer, None, "vacate", reason)
            return self._outcome(owner, number, proposal.pointer)
        self._put(caller, owner, to, number, "promote", reason)
        return self._outcome(owner, number, to)

    def _put(self, caller: Caller, owner: Model, to: str, number: int, kind: str, reason: str) -> None:
        """A version takes a pointer; if that is a stage, it leaves the other, and production's last holder is archived."""
        stage = owner.held_stage(number)
        if to in STAGES and stage is not None:
            self._move(caller, owner, stage, None, "vacate", reason)
        before = owner.holds(to)
        self._move(caller, owner, to, number, kind, reason)
        if to == "production" and before is not None:
            owner.versions[before].archived = True
        if to in STAGES:
            owner.versions[number].archived = False

    def roll_back(self, caller: Caller, model: str, name: str, expected: int | None, reason: str) -> Answer:
        owner = self._thawed(caller, model)
        pointer = self._pointer(owner, name, expected)
        for _, policy in self._applying(owner):
            if policy.governs(name) and not self.rights.is_meant(caller, policy.rollback_by, model):
                raise Refused(403, "not_by_policy")
        before = _held_before(owner, pointer)
        if before is None:
            raise Refused(409, "nothing_to_roll_back")
        self._put(caller, owner, name, before, "rollback", reason)
        self.told += 1
        return self._outcome(owner, before, name)

    def remove(self, caller: Caller, model: str, name: str, expected: int | None, reason: str) -> Answer:
        owner = self._thawed(caller, model)
        pointer = self._pointer(owner, name, expected)
        number = pointer.number
        if number is None:
            return self._outcome(owner, None, name, moved=False)
        to = "none" if name in STAGES else name
        for _, policy in self._applying(owner):
            if policy.governs(to):
                edge = policy.edge(owner.stage(number), to)
                if edge is None or edge["approvals"]:
                    raise Refused(409, "no_such_edge")
                if not self.rights.is_meant(caller, edge["who"], model):
                    raise Refused(403, "not_by_policy")
        self._move(caller, owner, name, None, "vacate", reason)
        self.told += 1
        return self._outcome(owner, number, name)

    def _thawed(self, caller: Caller, model: str) -> Model:
        owner = self._model(caller, "promote", model)
        if owner.frozen is not None:
            raise Refused(409, "model_frozen")
        return owner

    def _pointer(self, owner: Model, name: str, expected: int | None) -> Pointer:
        if _valid(name, *STAGES) not in owner.pointers:
            raise Refused(404, "pointer_not_found")
        self._expect(owner, name, expected)
        return owner.pointers[name]

    def _expect(self, owner: Model, pointer: str | None, expected: int | None) -> None:
        if expected not in (None, owner.generation(pointer)):
            raise Refused(409, "generation_conflict")

    def _move(self, caller: Caller, owner: Model, name: str, to: int | None, kind: str, reason: str) -> None:
        pointer = owner.pointers.setdefault(name, Pointer())
        move = Move(pointer.generation + 1, pointer.number, to, kind, caller.name, reason)
        pointer.moves.append(move)
        pointer.number, pointer.since = to, self.now

    def _outcome(
        self, owner: Model, number: int | None, pointer: str | None, *, moved: bool = True
    ) -> Answer:
        shown = None
        if pointer in owner.pointers:
            shown = {"name": pointer, "number": owner.holds(pointer), "generation": owner.generation(pointer)}
        stage = owner.stage(number) if number is not None else None
        return done(number=number, stage=stage, moved=moved, pointer=shown, request=None)

    # --- requests

    def _ask(self, caller: Caller, proposal: Proposal, reason: str, at: int | None) -> Request:
        owner, version = proposal.model, proposal.version
        for old in owner.requests:
            if old.closed is None and (old.number, old.to) == (version.number, proposal.to):
                seen = old.pointer, old.generation, old.at
                if seen == (proposal.pointer, proposal.generation, at) and old.expires_at > self.now:
                    return old
                self._close(caller, owner, old, "outdated")
        request = Request(
            id=len(owner.requests) + 1,
            number=version.number,
            to=proposal.to,
            pointer=proposal.pointer,
            generation=proposal.generation,
            reason=reason,
            at=at,
            expires_at=max(self.now, at or 0) + proposal.expires_s,
            asker=caller.name,
        )
        owner.requests.append(request)
        self._say(caller, owner, request, "asked", reason)
        self._decided(caller, proposal, "asked", request.id, [])
        self.told += 1
        return request

    def comment(self, caller: Caller, model: str, number: int, text: str) -> Answer:
        return self._end(caller, model, number, "commented", text)

    def reject(self, caller: Caller, model: str, number: int, text: str) -> Answer:
        return self._end(caller, model, number, "rejected", text)

    def withdraw(self, caller: Caller, model: str, number: int, text: str) -> Answer:
        return self._end(caller, model, number, "withdrawn", text)

    def _end(self, caller: Caller, model: str, number: int, kind: str, text: str) -> Answer:
        owner, request = self._open(caller, model, number)
        if kind == "withdrawn" and caller.name != request.asker:
            raise Refused(403, "forbidden")
        self._say(caller, owner, request, kind, text)
        if kind != "commented":
            request.closed = kind
        self.told += 1
        return self._shown(owner, request)

    def approve(self, caller: Caller, model: str, number: int, text: str, revision: int | None) -> Answer:
        owner, request = self._open(caller, model, number)
        version = owner.versions[request.number]
        if caller.name == request.asker:
            raise Refused(403, "four_eyes")
        if revision not in (None, version.revision):
            raise Refused(409, "version_changed")
        proposal = self._propose(owner, version, request.to)
        asking = [edge for edge in proposal.edges if edge["approvals"]]
        if asking and not any(self.rights.is_meant(caller, e["approvers"], model) for e in asking):
            raise Refused(403, "not_by_policy")
        new = caller.name not in owner.approvers(request)
        if new:
            self._say(caller, owner, request, "approved", text)
        if self._is_ready(owner, request):
            self._carry_out(caller, owner, request)
        else:
            self.told += new
        return self._shown(owner, request)

    def look(self) -> None:
        """The scheduler looks at all that is due."""
        for name in self.models:
            for index in range(len(self.models[name].requests)):
                self._settle(Caller(SYSTEM), name, index)

    def _settle(self, system: Caller, name: str, index: int) -> None:
        owner = self.models[name]
        request = owner.requests[index]
        if request.closed is not None:
            return
        if request.expires_at <= self.now:
            self._close(system, owner, request, "expired", tell=True)
        elif request.at is not None and self._is_ready(owner, request):
            refusal = self.attempt(self._act, system, name, index)
            owner = self.models[name]
            if refusal.code is not None:
                state = "outdated" if refusal.code == "generation_conflict" else "failed"
                self._close(system, owner, owner.requests[index], state, tell=True)

    def _act(self, system: Caller, name: str, index: int) -> Answer:
        owner = self.models[name]
        self._carry_out(system, owner, owner.requests[index])
        return done()

    def _open(self, caller: Caller, model: str, number: int) -> tuple[Model, Request]:
        owner = self._model(caller, "promote", model)
        if not 1 <= number <= len(owner.requests):
            raise Refused(404, "request_not_found")
        request = owner.requests[number - 1]
        if owner.state(request, self.now) != "open":
            raise Refused(409, "request_closed")
        return owner, request

    def _is_ready(self, owner: Model, request: Request) -> bool:
        """Whether its time has come, and enough have approved who still may."""
        if request.at is not None and request.at > self.now:
            return False
        proposal = self._propose(owner, owner.versions[request.number], request.to)
        approvers = [
            Caller(name)
            for name in owner.approvers(request)
            if self.rights.still_may(name, "promote", owner.name)
        ]
        return all(
            sum(self.rights.is_meant(each, edge["approvers"], owner.name) for each in approvers)
            >= edge["approvals"]
            for edge in proposal.edges
        )

    def _carry_out(self, caller: Caller, owner: Model, request: Request) -> None:
        if not self.rights.still_may(request.asker, "promote", owner.name):
            raise Refused(403, "forbidden")
        if owner.frozen is not None:
            raise Refused(409, "model_frozen")
        proposal = self._propose(owner, self._version(owner, request.number), request.to)
        seen = request.pointer, request.generation
        if (proposal.pointer, proposal.generation) != seen or _is_so(proposal):
            raise Refused(409, "generation_conflict")
        if proposal.refused:
            raise Refused(409, "no_such_edge")
        if not proposal.passed:
            raise Refused(409, "checks_failed")
        self._decided(caller, proposal, "done", request.id, owner.approvers(request))
        self._close(caller, owner, request, "done")
        self._do(caller, proposal, request.reason)

    def _close(self, caller: Caller, owner: Model, request: Request, how: str, *, tell: bool = False) -> None:
        self._say(caller, owner, request, how, "")
        request.closed = how
        self.told += tell

    def _say(self, caller: Caller, owner: Model, request: Request, kind: str, text: str) -> None:
        revision = owner.versions[request.number].revision
        request.entries.append(Entry(kind, caller.name, text, revision))

    def _shown(self, owner: Model, request: Request) -> Answer:
        return done(
            id=request.id,
            state=owner.state(request, self.now),
            approved_by=owner.approvers(request),
            requested_by=request.asker,
        )

    def _decided(
        self, caller: Caller, proposal: Proposal, outcome: str, request: int | None, approvers: list[str]
    ) -> None:
        """Keep on which grounds: whenever policy had a say, or a request was made or carried out."""
        if not proposal.governing and outcome == "done":
            return
        proposal.model.decisions.append(
            {
                "outcome": outcome,
                "number": proposal.version.number,
                "from": proposal.source,
                "to": proposal.to,
                "pointer": proposal.pointer,
                "generation": proposal.generation,
                "fact_revision": proposal.version.revision,
                "policies": sorted([pattern, each.revision] for pattern, each, _ in proposal.governing),
                "approvals": proposal.approvals,
                "approved_by": approvers,
                "request": request,
                "actor": caller.name,
                "passed": sorted(proposal.findings.values()),
            }
        )


def _valid(name: str, *known: str) -> str:
    """An alias is a word that is neither a stage nor reserved."""
    if name not in known and (name in ALL_STAGES or name in ("latest", "v2", "2", "")):
        raise Refused(400, "invalid_name")
    return name


def _is_so(proposal: Proposal) -> bool:
    if proposal.to in ("none", "archived"):
        return proposal.source == proposal.to
    return proposal.model.holds(proposal.to) == proposal.version.number


def _held_before(owner: Model, pointer: Pointer) -> int | None:
    """Who held a pointer before whoever holds it now: rolling back undoes moves, and never to a version that was deleted."""
    before: list[int | None] = []
    for move in pointer.moves:
        if move.kind != "rollback":
            before.append(move.before)
        else:
            while before.pop() != move.after:
                pass
    for number in reversed(before):
        if number is None:
            return None
        if number != pointer.number and not owner.versions[number].deleted:
            return number
    return None
