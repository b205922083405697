"""What a policy says, as values.

    Rules ──< Edge ──< check        the moves that there are: who may make them, and what each needs
          └─ rollback_by            who may return a pointer to the version before

A stage is governed by every policy of its model: a move to it that none of the policy's edges names is refused. An alias is
governed by those that name it. Of the edges of one policy that name a move, the first one counts.

    who     role:owner   group:risk   principal:kim         nobody listed: whoever may promote
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from registry import checks
from registry.access import ROLES, check_pattern, matches
from registry.domain import check_principal_name
from registry.errors import InvalidPolicy

STAGES = ("none", "staging", "production", "archived")
ANY = "*"
EXPIRES_S = 7 * 24 * 3600

_WHO = re.compile(r"(role|group|principal):(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Edge:
    """Moves from the stage `source` (or any, `*`) to a stage or to aliases, as a pattern."""

    source: str
    to: str
    who: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    approvals: int = 0
    approvers: Sequence[str] = ()
    expires_s: int = EXPIRES_S

    def names(self, source: str, to: str) -> bool:
        return self.source in (ANY, source) and matches(to, self.to)

    def as_json(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.to,
            "who": list(self.who),
            "checks": [dict(check) for check in self.checks],
            "approvals": self.approvals,
            "approvers": list(self.approvers),
            "expires_s": self.expires_s,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        return cls(said["from"], **{name: value for name, value in said.items() if name != "from"})


@dataclass(frozen=True, slots=True)
class Rules:
    edges: Sequence[Edge]
    rollback_by: Sequence[str] = ()

    def governs(self, to: str) -> bool:
        """Whether moves to this stage, or of this alias, are the policy's concern."""
        return to in STAGES or any(matches(to, edge.to) for edge in self.edges)

    def edge(self, source: str, to: str) -> Edge | None:
        return next((edge for edge in self.edges if edge.names(source, to)), None)

    def as_json(self) -> dict[str, Any]:
        return {"edges": [edge.as_json() for edge in self.edges], "rollback_by": list(self.rollback_by)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        return cls([Edge.from_json(edge) for edge in said["edges"]], said["rollback_by"])


def check_rules(rules: Rules) -> None:
    """Raise InvalidPolicy, InvalidExpression or InvalidName unless all that the rules name can be."""
    for edge in rules.edges:
        if edge.source not in (*STAGES, ANY):
            raise InvalidPolicy(f"An edge comes from one of {', '.join(STAGES)}, or from * (any of them).")
        check_pattern(edge.to)
        for who in (*edge.who, *edge.approvers):
            check_who(who)
        for check in edge.checks:
            checks.check_check(check)
    for who in rules.rollback_by:
        check_who(who)


def check_who(who: str) -> None:
    found = _WHO.fullmatch(who)
    if found is None or (found[1] == "role" and found[2] not in ROLES):
        raise InvalidPolicy(
            "Name people as role:owner (or another role), group:NAME or principal:NAME.",
        )
    if found[1] != "role":
        check_principal_name(found[2])
