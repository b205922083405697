"""Trusted publishers: CI jobs, and other programs with an identity of their own, that need no secret of this registry.

    {"repository": "acme/fraud", "ref": "refs/heads/release/*"}       claims that a token must have, all of them

A value is exact, or has `*` for any characters. At least one claim must be exact and say whose job it is: an issuer that
everybody can use signs tokens for everybody, and a branch "main" is in every repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry import audit, principals
from registry.access import Caller
from registry.access_tables import PrincipalRow
from registry.database import ReadSession, WriteSession
from registry.errors import AmbiguousPublisher, InvalidPublisher, NoTrustedPublisher, PublisherNotFound
from registry.login_tables import TrustedPublisherRow
from registry.oidc import Identity, Providers
from registry.tables import WorkspaceRow
from registry.tokens import require_charge

MAX_CLAIMS = 16
MAX_NAME, MAX_VALUE = 128, 512

# Checked already, or different each time: a publisher cannot say anything about them.
_NOT_SAID = frozenset(["aud", "exp", "iat", "iss", "jti", "nbf", "nonce"])
# True of jobs of many owners at a time.
_NOT_PINNING = frozenset(
    [
        "azp",
        "base_ref",
        "environment",
        "event_name",
        "head_ref",
        "pipeline_source",
        "ref",
        "ref_protected",
        "ref_type",
        "repository_visibility",
        "runner_environment",
        "typ",
        "workflow",
    ]
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whoever has a token of `issuer` with these claims is to be `principal`."""

    issuer: str
    claims: Mapping[str, str]
    principal: str


@dataclass(frozen=True, slots=True)
class Publisher(Wanted):
    """Whoever has a token of `issuer` with these claims is `principal`."""

    id: int
    created_at: datetime
    created_by: str


def check_claims(claims: Mapping[str, str]) -> None:
    """Raise InvalidPublisher unless these claims trust somebody in particular."""
    if len(claims) > MAX_CLAIMS:
        raise InvalidPublisher(f"A trusted publisher has at most {MAX_CLAIMS} claims.")
    for name, value in claims.items():
        if not _is_plain(name, MAX_NAME) or not _is_plain(value, MAX_VALUE):
            raise InvalidPublisher(
                f"Names of claims have 1 to {MAX_NAME} printable characters, values 1 to {MAX_VALUE}."
            )
        if name in _NOT_SAID:
            raise InvalidPublisher(f"The claim {name!r} is checked for every token, or differs in each.")
    if all(name in _NOT_PINNING or "*" in value for name, value in claims.items()):
        raise InvalidPublisher(
            "At least one claim must say without `*` whose job it is, for example repository or sub."
        )


def has_claims(claims: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a token with `claims` has all that are wanted. Lists and objects fit nothing."""
    return bool(wanted) and all(_fits(claims.get(name), pattern) for name, pattern in wanted.items())


def _fits(value: object, pattern: str) -> bool:
    if isinstance(value, bool):
        return _like("true" if value else "false", pattern)
    if isinstance(value, str | int):
        return _like(str(value), pattern)
    return False


def _like(text: str, pattern: str) -> bool:
    """Whether `text` is `pattern`, in which `*` stands for any characters. Takes linear time, unlike a regular expression."""
    if "*" not in pattern:
        return text == pattern
    beginning, *middle, end = pattern.split("*")
    if len(text) < len(beginning) + len(end) or not text.startswith(beginning) or not text.endswith(end):
        return False
    at, last = len(beginning), len(text) - len(end)
    for part in middle:
        found = text.find(part, at, last)
        if found < 0:
            return False
        at = found + len(part)
    return True


def add(session: WriteSession, providers: Providers, caller: Caller, wanted: Wanted) -> Publisher:
    """Trust a publisher from now on. Raises InvalidPublisher, PrincipalNotFound or Forbidden."""
    check_claims(wanted.claims)
    if not any(
        each.issuer.issuer == wanted.issuer and each.issuer.audience is not None for each in providers
    ):
        raise InvalidPublisher("This registry does not exchange tokens of this issuer.")
    robot = principals.grantee(session, caller, wanted.principal)
    # Else an admin of one workspace could become anybody.
    require_charge(caller, robot)
    if robot.kind != "robot":
        raise InvalidPublisher("A trusted publisher is a robot. Nobody but a person can be that person.")
    row = TrustedPublisherRow(
        workspace_id=caller.workspace_id,
        issuer=wanted.issuer,
        claims=dict(wanted.claims),
        principal_id=robot.id,
        created_by=caller.name,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    said = {"issuer": row.issuer, "claims": row.claims, "principal": robot.name}
    audit.record(session, caller, "publisher.trusted", f"trusted-publishers/{row.id}", said)
    return _publisher(row, robot.name)


def listed(session: ReadSession, caller: Caller) -> Sequence[Publisher]:
    """All of the workspace, oldest first."""
    query = _of(TrustedPublisherRow.workspace_id == caller.workspace_id)
    return [_publisher(row, robot.name) for row, robot in session.execute(query)]


def remove(session: WriteSession, caller: Caller, publisher_id: int) -> None:
    """Trust it no longer; tokens that it has already stay good until they expire. Raises PublisherNotFound."""
    row = session.get(TrustedPublisherRow, publisher_id, with_for_update=True)
    if row is None or row.workspace_id != caller.workspace_id:
        raise PublisherNotFound(publisher_id)
    session.delete(row)
    audit.record(session, caller, "publisher.distrusted", f"trusted-publishers/{publisher_id}")


def robot_of(
    session: WriteSession, workspace: str, identity: Identity, wanted: str | None
) -> tuple[PrincipalRow, int]:
    """Who the bearer of this identity is in this workspace (`wanted`, if given), and the workspace's id.

    Raises NoTrustedPublisher or AmbiguousPublisher.
    """
    query = _of(WorkspaceRow.name == workspace, TrustedPublisherRow.issuer == identity.issuer)
    fitting = {
        robot.name: (robot, row.workspace_id)
        for row, robot in session.execute(query)
        if has_claims(identity.claims, row.claims) and wanted in (None, robot.name)
    }
    if not fitting:
        raise NoTrustedPublisher
    if len(fitting) > 1:
        raise AmbiguousPublisher(sorted(fitting))
    return fitting.popitem()[1]


def _of(*conditions: sa.ColumnElement[bool]) -> sa.Select[TrustedPublisherRow, PrincipalRow]:
    return (
        sa.select(TrustedPublisherRow, PrincipalRow)
        .join(PrincipalRow, PrincipalRow.id == TrustedPublisherRow.principal_id)
        .join(WorkspaceRow, WorkspaceRow.id == TrustedPublisherRow.workspace_id)
        .where(*conditions)
        .order_by(TrustedPublisherRow.id)
    )


def _publisher(row: TrustedPublisherRow, principal: str) -> Publisher:
    return Publisher(row.issuer, row.claims, principal, row.id, row.created_at, row.created_by)


def _is_plain(text: str, longest: int) -> bool:
    return 1 <= len(text) <= longest and text.isprintable()
