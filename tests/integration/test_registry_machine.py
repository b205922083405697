"""Thousands of random calls, by several people whose rights change, are answered as a plain model of the registry says.

    a step      one call (or an hour passing)      the answer is the one that tests/oracle gives
    after it    what can be seen is compared: pointers, stages, history, requests, decisions, audit, lists, searches

MODELYARD_MACHINE_RUNS=200 makes it long, random instead of the same each time, and lets it look for the shortest example.
"""

import hashlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from starlette.testclient import TestClient

from registry import identify, schedule
from registry.settings import Settings
from tests.oracle.answers import Answer
from tests.oracle.rights import ADMIN, Caller, Grant
from tests.oracle.state import CHECKS, Model, Move, Request, Version
from tests.oracle.world import World
from tests.servers.app import create, send

RUNS = int(os.environ.get("MODELYARD_MACHINE_RUNS", "0"))
PROFILE = hypothesis.settings(
    max_examples=RUNS or 3,
    stateful_step_count=150,
    derandomize=not RUNS,
    database=None,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink] if RUNS else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
HOUR = 3600

MODELS = ["fraud-eu", "fraud_us", "risk"]
PATTERNS = ["*", "fraud*", "fraud_*", "risk", "*k"]
PEOPLE = ["ann", "bob", "cat", "dan", "eve"]
GROUPS = ["ops", "board"]
CALLERS = [
    Caller(ADMIN),
    *map(Caller, PEOPLE),
    Caller("bob", "promoter", "fraud*"),
    Caller("ann", "reader"),
]
TARGETS = ["production", "staging", "champion", "canary", "none", "archived"]
SEARCHES: dict[str, Callable[[Model, Version], bool]] = {
    "": lambda _m, _v: True,
    "stage = production": lambda m, v: m.stage(v.number) == "production",
    "stage = archived OR stage = staging": lambda m, v: m.stage(v.number) in ("archived", "staging"),
    "NOT stage = none": lambda m, v: m.stage(v.number) != "none",
    "alias = champion": lambda m, v: m.holds("champion") == v.number,
    "archived = true": lambda _m, v: v.archived,
    "tags.scan = clean AND metrics.auc >= 0.85": lambda _m, v: (
        v.tags.get("scan") == "clean" and v.auc is not None and v.auc >= 0.85
    ),
    "creator = dan": lambda _m, v: v.creator == "dan",
    "model ~ fraud*": lambda m, _v: m.name.startswith("fraud"),
}

REACHED = {
    *(
        ("promotions", code)
        for code in ("200", "202", "checks_failed", "generation_conflict", "not_by_policy")
    ),
    *(
        ("rollbacks", code)
        for code in ("200", "generation_conflict", "not_by_policy", "nothing_to_roll_back")
    ),
    *(
        ("approve", code)
        for code in ("200", "four_eyes", "not_by_policy", "request_closed", "version_changed")
    ),
    *(("state", state) for state in ("done", "expired", "outdated", "rejected", "withdrawn")),
    *(("pointers", code) for code in ("200", "generation_conflict", "no_such_edge")),
    *(("policies", code) for code in ("200", "204", "policy_changed", "policy_not_found", "forbidden")),
    *(("facts", code) for code in ("200", "facts_conflict", "forbidden")),
    *(("grants", "201"), ("grants", "forbidden"), ("members", "200"), ("groups", "204"), ("comments", "200")),
    *(("restore", "200"), ("versions", "version_in_use"), ("promotions", "model_frozen")),
}
"""What must have come about, or all of this proves little: (what it was about, its status or why it was refused)."""
NOUNS = [
    "approve",
    "comments",
    "decisions",
    "downloads",
    "facts",
    "freeze",
    "grants",
    "groups",
    "members",
    "models",
    "pointers",
    "policies",
    "principals",
    "promotions",
    "reject",
    "restore",
    "rollbacks",
    "search",
    "uploads",
    "versions",
    "withdraw",
]

callers = st.sampled_from([CALLERS[0]] * 8 + [Caller("ann")] * 4 + CALLERS)
promoters = st.sampled_from([Caller(name) for name in (ADMIN, "ann", "bob", "cat")] * 3 + CALLERS)
models = st.sampled_from(MODELS[:1] * 5 + MODELS[1:2] * 2 + MODELS[2:])
numbers = st.sampled_from([1, 2, 3, 1, 2, 3, 1, 2, 3, 4])
reasons = st.sampled_from(["", "better"])
picks = st.integers(0, 11)
WHO = ["role:owner", "role:promoter", "group:ops", "group:board", "principal:ann", "principal:cat"]
who = st.sampled_from([[], [], [], *([each] for each in WHO), WHO[:3], WHO[3:]])
edges = st.fixed_dictionaries(
    {
        "from": st.sampled_from(["*"] * 6 + ["none", "staging", "production", "archived"]),
        "to": st.sampled_from(["production", "production", "staging", "archived", "none", "c*", "*", "*"]),
        "who": who,
        "checks": st.sampled_from([[], [], [], [], *([each] for each in sorted(CHECKS))]),
        "approvals": st.sampled_from([0, 1, 1, 2]),
        "approvers": who,
        "expires_s": st.sampled_from([5 * HOUR // 4, 200 * HOUR]),
    }
)
ANYTHING = {
    "from": "*",
    "to": "*",
    "who": [],
    "checks": [],
    "approvals": 0,
    "approvers": [],
    "expires_s": HOUR,
}
some_edges = st.tuples(st.lists(edges, min_size=1, max_size=2), st.sampled_from([[], *[[ANYTHING]] * 5]))


VERBS: list[str] = []
ARGUMENTS: dict[str, dict[str, Any]] = {}


def verb(weight: int, **arguments: Any) -> Callable[[Any], Any]:
    """A step of the machine, which is taken `weight` times as often as others."""

    def register(method: Any) -> Any:
        VERBS.extend([method.__name__] * weight)
        ARGUMENTS[method.__name__] = arguments
        return method

    return register


class Clock:
    """Lets the database's clock go forward."""

    def __init__(self, engine: sa.Engine) -> None:
        self.hours = 0
        sa.event.listen(engine, "before_cursor_execute", self._shift, retval=True)

    def _shift(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        statement = statement.replace("'now')", f"'now', '+{self.hours} hours')")
        now = f"(clock_timestamp() + interval '{self.hours} hours')"
        return statement.replace("clock_timestamp()", now), parameters


class Machine(RuleBasedStateMachine):
    """One workspace of its own, in a registry that all runs share."""

    app: FastAPI
    api: TestClient
    clock: Clock
    tokens: dict[Caller, str]
    reached: Counter[tuple[str, str]]
    serial = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.workspace = f"w{next(self.serial)}"
        self.clock.hours = 0
        self.start = datetime.now(UTC)
        self.turn = zip(itertools.cycle(CALLERS), itertools.cycle(SEARCHES), strict=False)
        self.touched = ""
        self.steps = 0
        made = self.api.post("/api/v1/workspaces", json={"name": self.workspace})
        assert made.status_code == 201, made.text
        for name in PEOPLE:
            self.api.patch(f"/api/v1/principals/{name}", json={"disabled": False})
        self.told = self.audited()

    # --- calling

    def call(self, caller: Caller, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[caller]}"}
        if method != "GET" and path.startswith("/models/"):
            self.touched = path.split("/")[2]
        return self.api.request(method, f"/w/{self.workspace}/api/v1{path}", headers=headers, **more)

    def check(self, answer: Any, due: Answer) -> None:
        """The answer is the one that is due."""
        body = answer.json() if answer.content else {}
        got = answer.status_code, body.get("code")
        self.reached[_noun(answer.request.url.path), due.code or str(due.status)] += 1
        assert got == (due.status, due.code), (got, due, body)
        differs = {name: (body[name], said) for name, said in due.said.items() if not _is(body[name], said)}
        assert not differs, differs

    def audited(self) -> int:
        query = sa.text("SELECT count(*) FROM audit WHERE outcome = 'done' AND workspace = :workspace")
        with self.app.state.database.read() as session:
            return int(session.execute(query, {"workspace": self.workspace}).scalar_one())

    # --- people

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        """Two models, whom a handful of people may promote: to production, when somebody else approves."""
        # Hypothesis likes to choose the same again and again: good for finding, bad for reaching much in few runs.
        self.random = random.Random(seed)  # noqa: S311 - it only chooses steps
        admin = Caller(ADMIN)
        for group in GROUPS:
            self.make_group(admin, group)
        self.join(admin, "ops", "bob")
        for name, role, pattern in [
            ("ann", "owner", "*"),
            ("bob", "promoter", "*"),
            ("cat", "promoter", "fraud*"),
            ("dan", "publisher", "*"),
        ]:
            self.give(admin, Grant(name, False, role, pattern))
        self.give(admin, Grant("board", True, "reader", "risk"))
        for model in MODELS[:2]:
            for _ in range(3):
                self.publish(admin, model)
        self.set_policy(
            admin, "*", ([{**ANYTHING, "to": "production", "approvals": 1}], [ANYTHING]), [], False
        )

    @verb(
        2,
        caller=callers,
        whom=st.sampled_from([*PEOPLE, *GROUPS]),
        role=st.sampled_from(["reader", "publisher", "promoter", "promoter", "owner", "admin"]),
        pattern=st.sampled_from(PATTERNS),
    )
    def grant(self, caller: Caller, whom: str, role: str, pattern: str) -> None:
        self.give(caller, Grant(whom, whom in GROUPS, role, pattern))

    def give(self, caller: Caller, grant: Grant) -> None:
        whom = {"group" if grant.to_group else "principal": grant.whom}
        body = {**whom, "role": grant.role, "pattern": grant.pattern}
        answer = self.call(caller, "POST", "/grants", json=body)
        self.check(answer, self.world.attempt(self.world.give, caller, grant, answer.json().get("id")))

    @verb(1, caller=callers, pick=picks)
    def take(self, caller: Caller, pick: int) -> None:
        known = sorted(self.world.rights.grants)
        number = known[pick % len(known)] if known and pick else 1
        answer = self.call(caller, "DELETE", f"/grants/{number}")
        self.check(answer, self.world.attempt(self.world.take, caller, number))

    @verb(2, caller=callers, group=st.sampled_from(GROUPS), name=st.sampled_from(PEOPLE), leave=st.booleans())
    def member(self, caller: Caller, group: str, name: str, leave: bool) -> None:
        (self.leave if leave else self.join)(caller, group, name)

    def join(self, caller: Caller, group: str, name: str) -> None:
        answer = self.call(caller, "PUT", f"/groups/{group}/members/{name}")
        self.check(answer, self.world.attempt(self.world.join, caller, group, name))

    def leave(self, caller: Caller, group: str, name: str) -> None:
        answer = self.call(caller, "DELETE", f"/groups/{group}/members/{name}")
        self.check(answer, self.world.attempt(self.world.leave, caller, group, name))

    @verb(1, caller=callers, group=st.sampled_from(GROUPS))
    def regroup(self, caller: Caller, group: str) -> None:
        """A group goes, or comes back."""
        if group not in self.world.rights.groups:
            self.make_group(caller, group)
        else:
            answer = self.call(caller, "DELETE", f"/groups/{group}")
            self.check(answer, self.world.attempt(self.world.delete_group, caller, group))

    def make_group(self, caller: Caller, group: str) -> None:
        answer = self.call(caller, "POST", "/groups", json={"name": group})
        self.check(answer, self.world.attempt(self.world.make_group, caller, group))

    @verb(1, name=st.sampled_from(PEOPLE), disabled=st.sampled_from([False, False, True]))
    def shut_out(self, name: str, disabled: bool) -> None:
        answer = self.call(Caller(ADMIN), "PATCH", f"/principals/{name}", json={"disabled": disabled})
        self.check(answer, self.world.shut_out(name, disabled=disabled))

    # --- versions

    @verb(1, caller=callers, model=models)
    def publish(self, caller: Caller, model: str) -> None:
        files = {"m": model.encode()}
        self_ = _As(self, caller)
        answer = self_.post(
            f"/api/v1/models/{model}/uploads",
            json={"files": [{"path": "m", "size": len(files["m"]), "digest": _digest(files["m"])}]},
        )
        due = self.world.attempt(self.world.begin, caller, model)
        self.check(answer, due)
        if due.code is None:
            upload = answer.json()
            send(self_, upload, files)
            answer = create(self_, model, upload, files)
            self.check(answer, self.world.attempt(self.world.publish, caller, model))

    @verb(
        4,
        caller=callers,
        model=models,
        number=numbers,
        tags=st.dictionaries(
            st.sampled_from(["scan", "team"]), st.sampled_from(["clean", "risk", None]), max_size=2
        ),
        auc=st.sampled_from([None, 0.8, 0.9]),
        expected=st.sampled_from([None, None, 0, 1]),
    )
    def amend(
        self,
        caller: Caller,
        model: str,
        number: int,
        tags: dict[str, str | None],
        auc: float | None,
        expected: int | None,
    ) -> None:
        metrics = [{"name": "auc", "value": auc}] if auc is not None else []
        body = {"tags": tags, "metrics": metrics, "expected_revision": expected}
        answer = self.call(caller, "PATCH", f"/models/{model}/versions/{number}/facts", json=body)
        due = self.world.attempt(self.world.amend, caller, model, number, tags, auc, expected)
        self.check(answer, due)

    @verb(1, caller=callers, model=models, number=numbers)
    def delete(self, caller: Caller, model: str, number: int) -> None:
        answer = self.call(caller, "DELETE", f"/models/{model}/versions/{number}")
        self.check(answer, self.world.attempt(self.world.delete, caller, model, number))

    @verb(2, caller=callers, model=models, number=numbers)
    def restore(self, caller: Caller, model: str, number: int) -> None:
        answer = self.call(caller, "POST", f"/models/{model}/versions/{number}/restore")
        self.check(answer, self.world.attempt(self.world.restore, caller, model, number))

    @verb(2, caller=callers, model=models, reason=st.sampled_from([None, None, "audit"]))
    def freeze(self, caller: Caller, model: str, reason: str | None) -> None:
        path = f"/models/{model}/freeze"
        if reason is None:
            answer = self.call(caller, "DELETE", path)
        else:
            answer = self.call(caller, "PUT", path, json={"reason": reason})
        self.check(answer, self.world.attempt(self.world.freeze, caller, model, reason))

    # --- policies

    @verb(
        4,
        caller=callers,
        pattern=st.sampled_from(PATTERNS),
        said=some_edges,
        rollback_by=who,
        stale=st.sampled_from([None, False, True]),
    )
    def set_policy(
        self,
        caller: Caller,
        pattern: str,
        said: tuple[list[Any], list[Any]],
        rollback_by: list[str],
        stale: bool | None,
    ) -> None:
        wanted = [edge for part in said for edge in part]
        as_sent = [{**edge, "checks": [CHECKS[name][0] for name in edge["checks"]]} for edge in wanted]
        expected = self._revision(pattern, stale)
        body = {"edges": as_sent, "rollback_by": rollback_by, "expected_revision": expected}
        answer = self.call(caller, "PUT", f"/policies/{pattern}", json=body)
        due = self.world.attempt(self.world.set_policy, caller, pattern, wanted, rollback_by, expected)
        self.check(answer, due)

    @verb(1, caller=callers, pattern=st.sampled_from(PATTERNS), stale=st.sampled_from([None, False, True]))
    def lift_policy(self, caller: Caller, pattern: str, stale: bool | None) -> None:
        expected = self._revision(pattern, stale)
        query = {} if expected is None else {"expected_revision": expected}
        answer = self.call(caller, "DELETE", f"/policies/{pattern}", params=query)
        self.check(answer, self.world.attempt(self.world.set_policy, caller, pattern, None, [], expected))

    def _revision(self, pattern: str, stale: bool | None) -> int | None:
        known = self.world.policies.get(pattern)
        return None if stale is None else (known.revision if known else 0) + stale

    @verb(2, caller=callers, model=models, number=numbers, to=st.sampled_from(TARGETS))
    def preview(self, caller: Caller, model: str, number: int, to: str) -> None:
        answer = self.call(caller, "GET", f"/models/{model}/promotions", params={"number": number, "to": to})
        self.check(answer, self.world.attempt(self.world.preview, caller, model, number, to))

    # --- promotions

    @verb(
        5,
        caller=promoters,
        model=models,
        number=numbers,
        to=st.sampled_from([*TARGETS, "production", "staging", "latest"]),
        stale=st.sampled_from([None, None, False, True]),
        reason=reasons,
    )
    def promote(
        self, caller: Caller, model: str, number: int, to: str, stale: bool | None, reason: str
    ) -> None:
        self._promote(caller, model, number, to, stale, reason, None)

    @verb(4, caller=promoters, model=models, number=numbers, to=st.sampled_from(TARGETS[:3]))
    def promote_again(self, caller: Caller, model: str, number: int, to: str) -> None:
        self._promote(caller, model, number, to, None, "", None)

    @verb(
        3,
        caller=promoters,
        model=models,
        number=numbers,
        to=st.sampled_from(TARGETS),
        hours=st.integers(-1, 2),
    )
    def promote_later(self, caller: Caller, model: str, number: int, to: str, hours: int) -> None:
        self._promote(caller, model, number, to, None, "", self.world.now + hours * HOUR + HOUR // 2)

    def _promote(
        self,
        caller: Caller,
        model: str,
        number: int,
        to: str,
        stale: bool | None,
        reason: str,
        at: int | None,
    ) -> None:
        expected = self._generation(model, number, to, stale)
        body: dict[str, Any] = {"number": number, "to": to, "reason": reason, "expected_generation": expected}
        if at is not None:
            body["at"] = (self.start + timedelta(seconds=at)).isoformat()
        answer = self.call(caller, "POST", f"/models/{model}/promotions", json=body)
        more = {"expected": expected, "reason": reason, "at": at}
        self.check(answer, self.world.attempt(self.world.promote, caller, model, number, to, **more))

    def _generation(self, model: str, number: int, name: str, stale: bool | None) -> int | None:
        """That of a pointer, or one that is wrong."""
        known = self.world.models.get(model)
        if stale is None or known is None:
            return None
        pointer = known.held_stage(number) if name in ("none", "archived") else name
        return known.generation(pointer) + stale

    @verb(
        5,
        caller=promoters,
        model=models,
        name=st.sampled_from(["production", "production", "staging", "champion"]),
        stale=st.sampled_from([None, None, False, True]),
        reason=reasons,
    )
    def roll_back(self, caller: Caller, model: str, name: str, stale: bool | None, reason: str) -> None:
        for number in (1, 2) if self._generation(model, 0, name, stale=False) in (0, 1) else ():
            self._promote(Caller("ann"), model, number, name, None, "", None)
        expected = self._generation(model, 0, name, stale)
        body = {"pointer": name, "expected_generation": expected, "reason": reason}
        answer = self.call(caller, "POST", f"/models/{model}/rollbacks", json=body)
        due = self.world.attempt(self.world.roll_back, caller, model, name, expected, reason)
        self.check(answer, due)

    @verb(
        2,
        caller=promoters,
        model=models,
        name=st.sampled_from(["production", "staging", "champion", "canary", "none"]),
        stale=st.sampled_from([None, None, False, True]),
        reason=reasons,
    )
    def remove(self, caller: Caller, model: str, name: str, stale: bool | None, reason: str) -> None:
        expected = self._generation(model, 0, name, stale)
        query = {"reason": reason, **({} if expected is None else {"expected_generation": expected})}
        answer = self.call(caller, "DELETE", f"/models/{model}/pointers/{name}", params=query)
        due = self.world.attempt(self.world.remove, caller, model, name, expected, reason)
        self.check(answer, due)

    # --- requests

    def _request(self, pick: int) -> tuple[str, int]:
        """An open one if there is one and `pick` is not 0."""
        if pick and not self._open():
            at = self.world.now + HOUR // 2 if pick % 2 else None
            self._promote(Caller("bob"), MODELS[pick % 3 == 0], 1 + pick % 3, TARGETS[pick % 4], None, "", at)
        found = (self._open() if pick else []) or [
            (m, r) for m in self.world.models.values() for r in m.requests
        ]
        if not found:
            return MODELS[0], 1
        model, request = found[pick % len(found)]
        return model.name, request.id

    def _open(self) -> list[tuple[Model, Request]]:
        models = self.world.models.values()
        return [(m, r) for m in models for r in m.requests if m.state(r, self.world.now) == "open"]

    @verb(4, caller=promoters, pick=picks, stale=st.sampled_from([None, None, False, True]))
    def approve(self, caller: Caller, pick: int, stale: bool | None) -> None:
        self._approve(caller, pick, stale)

    @verb(7, caller=promoters, pick=picks)
    def approve_too(self, caller: Caller, pick: int) -> None:
        self._approve(caller, pick, None)

    def _approve(self, caller: Caller, pick: int, stale: bool | None) -> None:
        model, number = self._request(pick)
        owner = self.world.models[model]
        if number <= len(owner.requests) and pick % 4 == 3:
            caller = Caller(owner.requests[number - 1].asker)
        known = number <= len(owner.requests)
        revision = owner.versions[owner.requests[number - 1].number].revision if known else 0
        expected = None if stale is None else revision + stale
        body = {"text": "fine", "fact_revision": expected}
        answer = self.call(caller, "POST", f"/models/{model}/requests/{number}/approve", json=body)
        due = self.world.attempt(self.world.approve, caller, model, number, "fine", expected)
        self.check(answer, due)

    @verb(
        2, caller=promoters, pick=picks, verb=st.sampled_from(["comment", "reject", "withdraw", "withdraw"])
    )
    def answer(self, caller: Caller, pick: int, verb: str) -> None:
        model, number = self._request(pick)
        path = f"/models/{model}/requests/{number}/{'comments' if verb == 'comment' else verb}"
        answer = self.call(caller, "POST", path, json={"text": "no"})
        due = self.world.attempt(getattr(self.world, verb), caller, model, number, "no")
        self.check(answer, due)

    @verb(2, hours=st.integers(0, 2))
    def time_passes(self, hours: int) -> None:
        self.clock.hours += hours
        self.world.now += hours * HOUR

    @verb(3)
    def look(self) -> None:
        """The scheduler looks."""
        schedule.carry_out_due(self.app.state.database)
        self.world.look()
        self.touched = "*"

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One of the verbs: Hypothesis itself would choose all as often, and leave some out of a whole run."""
        chosen = self.random.choice(VERBS)
        for model in self.world.models.values():
            if model.frozen and self.random.random() < 0.2:  # or little else would happen
                self.freeze(Caller(ADMIN), model.name, None)
        getattr(self, chosen)(**data.draw(st.fixed_dictionaries(ARGUMENTS[chosen]), label=chosen))

    # --- what can be seen

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert self.audited() - self.told == self.world.told
        self.steps += 1
        if RUNS or self.steps % 3 == 0:
            self.compare_views(*next(self.turn))
        if self.touched == "*":
            for model in self.world.models.values():
                self.compare_requests(model)
        if self.touched in self.world.models:
            self.compare_requests(self.world.models[self.touched])
        self.touched = ""

    def teardown(self) -> None:
        for model in self.world.models.values():
            self.reached.update(("state", model.state(each, self.world.now)) for each in model.requests)
            self.compare_requests(model)
            self.compare_history(model)
            self.compare_decisions(model)
        for caller in CALLERS:
            self.compare_views(caller, "")
            self.compare_policies(caller)

    def get(self, path: str, caller: Caller = CALLERS[0], **query: Any) -> Any:
        answer = self.call(caller, "GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def compare_history(self, model: Model) -> None:
        moves = self.get(f"/models/{model.name}/history", limit=1000)["items"]
        assert len(moves) == sum(pointer.generation for pointer in model.pointers.values())
        for name, pointer in model.pointers.items():
            of_pointer = sorted((m for m in moves if m["pointer"] == name), key=lambda m: m["generation"])
            assert [
                Move(m["generation"], m["from"], m["to"], m["kind"], m["actor"], m["reason"])
                for m in of_pointer
            ] == pointer.moves
            before = "sha256:" + "0" * 64
            for move in of_pointer:
                assert (move["previous_digest"], move["digest"]) == (before, _link(move))
                before = move["digest"]

    def compare_requests(self, model: Model) -> None:
        requests = self.get(f"/models/{model.name}/requests", limit=1000)["items"]
        assert [
            (
                *(r[name] for name in ("id", "number", "to", "pointer", "generation", "requested_by")),
                r["state"],
                r["approved_by"],
                [
                    (
                        e["kind"],
                        e["author"],
                        e["fact_revision"],
                        e["text"] * (e["kind"] not in ("failed", "outdated")),
                    )
                    for e in r["entries"]
                ],
            )
            for r in requests
        ] == [
            (
                *(r.id, r.number, r.to, r.pointer, r.generation, r.asker),
                model.state(r, self.world.now),
                model.approvers(r),
                [(e.kind, e.author, e.revision, e.text) for e in r.entries],
            )
            for r in reversed(model.requests)
        ]

    def compare_decisions(self, model: Model) -> None:
        found = self.get(f"/models/{model.name}/decisions", limit=1000)["items"]
        assert [_decision(each) for each in found] == model.decisions[::-1]

    def compare_views(self, caller: Caller, query: str) -> None:
        """What somebody sees in lists and searches: nothing of what they may not read."""
        due = self.world.attempt(self.world.see, caller)
        if due.code is not None:
            for path in ("/models", "/search", "/policies"):
                self.check(self.call(caller, "GET", path), due)
            return
        seen = [m for m in self.world.models.values() if self.world.rights.may(caller, "read", m.name)]
        assert {m["name"]: _shown(m) for m in self.get("/models", caller)["items"]} == {
            m.name: (m.frozen, {name: (p.number, p.generation) for name, p in m.pointers.items()})
            for m in seen
        }
        found = self.get("/search", caller, q=query)["items"]
        same = ("model", "number", "stage", "aliases", "fact_revision", "tags", "metrics", "created_by")
        assert [[version[name] for name in same] for version in found] == [
            [
                m.name,
                v.number,
                m.stage(v.number),
                m.aliases(v.number),
                v.revision,
                v.tags,
                v.metrics,
                v.creator,
            ]
            for m in reversed(seen)
            for v in reversed(m.versions.values())
            if not v.deleted and SEARCHES[query](m, v)
        ], query

    def compare_policies(self, caller: Caller) -> None:
        if self.world.attempt(self.world.see, caller).code is None:
            assert {p["pattern"]: p["revision"] for p in self.get("/policies", caller)["items"]} == {
                pattern: policy.revision
                for pattern, policy in self.world.policies.items()
                if policy.edges is not None and self.world.rights.may(caller, "read", pattern)
            }


class _As:
    """An API as one caller sees it."""

    def __init__(self, machine: Machine, caller: Caller) -> None:
        self._machine = machine
        self._caller = caller

    def post(self, path: str, **more: Any) -> Any:
        return self._machine.call(self._caller, "POST", path.removeprefix("/api/v1"), **more)

    def put(self, path: str, headers: dict[str, str], **more: Any) -> Any:
        assert not headers
        return self._machine.call(self._caller, "PUT", path.removeprefix("/api/v1"), **more)


def _noun(path: str) -> str:
    """What a path is about: /w/w1/api/v1/models/risk/requests/3/approve is about "approve"."""
    return next(part for part in reversed(path.split("/")) if part in NOUNS)


def _shown(model: dict[str, Any]) -> Any:
    return model["frozen"], {p["name"]: (p["number"], p["generation"]) for p in model["pointers"]}


def _is(got: Any, said: Any) -> bool:
    """Of an object only what was said."""
    if isinstance(got, dict) and isinstance(said, dict) and "generation" in said:
        return all(got[name] == value for name, value in said.items())
    return bool(got == said)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _link(move: dict[str, Any]) -> str:
    """The digest of a move, as anybody can compute it."""
    said = {name: move[name] for name in ("model", "actor", "reason", "pointer", "from", "to", "generation")}
    at = datetime.fromisoformat(move["at"]).isoformat(timespec="microseconds")
    told = {**said, "kind": move["kind"], "previous": move["previous_digest"], "at": at}
    return _digest(json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def _decision(said: dict[str, Any]) -> dict[str, Any]:
    same = ("outcome", "number", "from", "to", "pointer", "generation", "fact_revision", "approvals")
    return {
        **{name: said[name] for name in (*same, "approved_by", "request", "actor")},
        "policies": sorted(said["policies"]),
        "passed": sorted(finding["passed"] for finding in said["findings"]),
    }


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The machine says when the scheduler looks."""
    return settings.model_copy(update={"schedule_poll_s": 0.0})


@pytest.mark.timeout(0 if RUNS else 300)
def test_the_registry_answers_as_its_oracle(
    app: FastAPI, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "REMEMBERED_S", 0.0)
    for name in PEOPLE:
        made = api.post("/api/v1/principals", json={"name": name, "kind": "person"})
        assert made.status_code == 201, made.text
    tokens = {caller: token_of(api, caller) for caller in CALLERS}
    clock = Clock(app.state.database.engine)
    reached: Counter[tuple[str, str]] = Counter()
    shared = {"app": app, "api": api, "clock": clock, "tokens": tokens, "reached": reached}
    run_state_machine_as_test(type("Bound", (Machine,), shared), settings=PROFILE)
    missed = REACHED - reached.keys()
    assert not missed, (
        f"proves too little: these never came about: {sorted(missed)}; {sorted(reached.items())}"
    )


def token_of(api: TestClient, caller: Caller) -> str:
    if caller.name == ADMIN:
        return str(os.environ["MODELYARD_REGISTRY_TOKEN"])
    limits = {} if caller.role is None else {"role": caller.role, "pattern": caller.pattern}
    body = {"name": "test", "principal": caller.name, "everywhere": True, **limits}
    made = api.post("/api/v1/tokens", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["token"])
