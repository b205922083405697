"""Who may do what, told again in plain Python: grants, groups, limited tokens, and those who are shut out."""

import re
from dataclasses import dataclass, field

from tests.oracle.answers import Refused

MAY = {
    "reader": {"read"},
    "publisher": {"read", "publish"},
    "promoter": {"read", "promote"},
    "owner": {"read", "publish", "promote", "own"},
    "admin": {"read", "publish", "promote", "own", "admin"},
}
ADMIN = "admin"


def fits(name: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


@dataclass(frozen=True)
class Caller:
    """Somebody, with a token that may be limited to a role and a pattern."""

    name: str
    role: str | None = None
    pattern: str = "*"


@dataclass(frozen=True)
class Grant:
    whom: str
    to_group: bool
    role: str
    pattern: str


@dataclass
class Rights:
    grants: dict[int, Grant] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)
    shut_out: set[str] = field(default_factory=set)

    def granted(self, name: str) -> list[tuple[str, str]]:
        """Roles and patterns of somebody."""
        if name == ADMIN:
            return [("admin", "*")]
        return [
            (grant.role, grant.pattern)
            for grant in self.grants.values()
            if (name in self.groups[grant.whom] if grant.to_group else name == grant.whom)
        ]

    def may(self, caller: Caller, permission: str, model: str | None = None) -> bool:
        """Whether `caller` may, for a model or (None) for some model."""
        held = any(_gives(*granted, permission, model) for granted in self.granted(caller.name))
        return held and (caller.role is None or _gives(caller.role, caller.pattern, permission, model))

    def require(self, caller: Caller, permission: str, model: str | None = None) -> None:
        if caller.name in self.shut_out:
            raise Refused(401, "unauthorized")
        if self.may(caller, permission, model):
            return
        if not self.may(caller, "read"):
            raise Refused(404, "workspace_not_found")
        if model is not None and not self.may(caller, "read", model):
            raise Refused(404, "model_not_found")
        raise Refused(403, "forbidden")

    def still_may(self, name: str, permission: str, model: str) -> bool:
        """Whether somebody may by now, with whatever token."""
        return name not in self.shut_out and self.may(Caller(name), permission, model)

    def is_meant(self, caller: Caller, listed: list[str], model: str) -> bool:
        """Whether a policy's list means the caller; an empty one means everybody."""
        return not listed or any(self._is(caller, *each.split(":"), model) for each in listed)

    def _is(self, caller: Caller, kind: str, name: str, model: str) -> bool:
        if kind == "principal":
            return caller.name == name
        if kind == "group":
            return caller.name in self.groups.get(name, ())
        roles = [role for role, pattern in self.granted(caller.name) if fits(model, pattern)]
        by_token = caller.role is None or MAY[caller.role] >= MAY[name]
        return by_token and any(MAY[role] >= MAY[name] for role in roles)


def _gives(role: str, pattern: str, permission: str, model: str | None) -> bool:
    if permission == "admin" and pattern != "*":
        return False
    return permission in MAY[role] and (model is None or fits(model, pattern))
