"""Who may do what. Everything is denied that no grant allows.

    Caller ── rights: (role, pattern of model names) …     what grants give in the workspace that is asked
           └─ scope: (role, pattern)                       what the token at most allows

    everyone    report                              which version a serving adapter of theirs runs
    reader      read
    publisher   read, publish
    promoter    read,          promote
    owner       read, publish, promote, own     (delete, restore, hold)
    admin       all that, and who may do what in the workspace

The right to publish is not the right to promote. What one may not read does not exist for one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from registry.errors import Forbidden, InvalidName, ModelNotFound, RegistryError, WorkspaceNotFound
from registry.tables import ModelRow


class Permission(StrEnum):
    """What a route needs. `NONE`: nothing at all; `IDENTIFIED`: nothing but a valid token; `ADMINISTER`: to be an administrator of the registry."""

    NONE = "none"
    IDENTIFIED = "identified"
    READ = "read"
    REPORT = "report"
    PUBLISH = "publish"
    PROMOTE = "promote"
    OWN = "own"
    ADMIN = "admin"
    ADMINISTER = "administer"


_PUBLISH, _PROMOTE, _OWN = Permission.PUBLISH, Permission.PROMOTE, Permission.OWN
# Whoever may fetch a version may run it, and so say that they do.
_READ = frozenset({Permission.READ, Permission.REPORT})

ROLES: Mapping[str, frozenset[Permission]] = {
    "reader": _READ,
    "publisher": _READ | {_PUBLISH},
    "promoter": _READ | {_PROMOTE},
    "owner": _READ | {_PUBLISH, _PROMOTE, _OWN},
    "admin": _READ | {_PUBLISH, _PROMOTE, _OWN, Permission.ADMIN},
}

_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Right:
    """A role for the models whose names match a pattern."""

    role: str
    pattern: str

    def gives(self, permission: Permission, model: str | None) -> bool:
        """Whether this role has the permission for `model`, or (None) for some model."""
        # Who may do what is decided for a workspace as a whole, or not at all.
        if permission is Permission.ADMIN and self.pattern != "*":
            return False
        return permission in ROLES[self.role] and (model is None or matches(model, self.pattern))


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf something is done, in which workspace; `name` goes into history and audit."""

    name: str
    workspace: str
    workspace_id: int
    rights: tuple[Right, ...] = ()
    scope: Right | None = None
    administrator: bool = False
    token_id: str | None = None
    request_id: str = field(default="", compare=False)

    def permits(self, permission: Permission, model: str | None = None) -> bool:
        """Whether the caller may, for `model`; without a model: for some model."""
        if permission is Permission.IDENTIFIED:
            return True
        if permission is Permission.ADMINISTER:
            return self.administrator and self.scope is None
        if self.scope is not None and not self.scope.gives(permission, model):
            return False
        return self.administrator or any(right.gives(permission, model) for right in self.rights)

    def sees(
        self, workspace_id: sa.ColumnElement[Any], name: sa.ColumnElement[str]
    ) -> sa.ColumnElement[bool]:
        """The models that the caller may read, as a condition on these columns."""
        readable: list[sa.ColumnElement[bool]] = [
            name_matches(name, right.pattern) for right in self.rights if Permission.READ in ROLES[right.role]
        ]
        if self.administrator or any(right.pattern == "*" for right in self.rights):
            readable = [sa.true()]
        conditions = [workspace_id == self.workspace_id, sa.or_(sa.false(), *readable)]
        if self.scope is not None and self.scope.pattern != "*":
            conditions.append(name_matches(name, self.scope.pattern))
        return sa.and_(*conditions)

    def sees_models(self) -> sa.ColumnElement[bool]:
        """The same, as a condition on the table of models."""
        return self.sees(ModelRow.__table__.c.workspace_id, ModelRow.__table__.c.name)


NOBODY = "nobody"
"""The name of whoever has not said who they are."""
SYSTEM = "modelyard"
"""Who did what the registry does by itself. Nobody else can have this name."""


def require(caller: Caller, permission: Permission, model: str | None = None) -> None:
    """Raise unless the caller may: what it may not read is not there (NotFound), else Forbidden."""
    if caller.permits(permission, model):
        return
    refusal: RegistryError
    if not caller.permits(Permission.READ):
        refusal = WorkspaceNotFound(caller.workspace)
    elif model is not None and not caller.permits(Permission.READ, model):
        refusal = ModelNotFound(model)
    else:
        refusal = Forbidden(
            f"This needs the right to {permission.value}, which {caller.name!r} has not been given here."
        )
    refusal.denied = True
    raise refusal


def check_pattern(pattern: str) -> str:
    """Return a pattern of model names, in which only `*` is special, or raise InvalidName."""
    if not _PATTERN.fullmatch(pattern):
        raise InvalidName(
            "A pattern has 1 to 128 letters, digits, dots, hyphens, underscores, and * for any number of characters."
        )
    return pattern


def matches(name: str, pattern: str) -> bool:
    """Whether a model's name matches a pattern."""
    return fnmatchcase(name, pattern)


class name_matches(sa.sql.functions.GenericFunction[bool]):  # noqa: N801 - reads as the SQL function it is
    """`matches` in SQL: name, pattern."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(name_matches, "sqlite")
def _matches_sqlite(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    name, pattern = element.clauses
    return f"{compiler.process(name, **options)} GLOB {compiler.process(pattern, **options)}"


@compiles(name_matches, "postgresql")
def _matches_postgresql(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    name, pattern = (compiler.process(each, **options) for each in element.clauses)
    # LIKE's own special characters cannot be in a name, but for the underscore.
    return f"{name} LIKE replace(replace({pattern}, '_', '\\_'), '*', '%%')"
