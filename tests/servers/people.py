"""People, robots and their tokens, straight from the tables: for tests of how they come in."""

from typing import Any

import sqlalchemy as sa

from registry.access_tables import GroupRow, MembershipRow, PrincipalRow, TokenRow
from registry.database import Database, utc_now


def add_person(database: Database, name: str, password_hash: str | None = None, **columns: Any) -> None:
    with database.write() as session:
        session.add(
            PrincipalRow(name=name, kind="person", password_hash=password_hash, created_by="test", **columns)
        )


def add_robot(database: Database, name: str, workspace_id: int = 1, **columns: Any) -> None:
    with database.write() as session:
        session.add(
            PrincipalRow(name=name, kind="robot", workspace_id=workspace_id, created_by="test", **columns)
        )


def shut_out(database: Database, *, disabled: bool = True) -> None:
    """Everybody."""
    with database.write() as session:
        session.execute(sa.update(PrincipalRow).values(disabled_at=utc_now() if disabled else None))


def people_of(database: Database) -> dict[str, tuple[str | None, str | None]]:
    """Issuer and subject of everybody, by name."""
    with database.read() as session:
        return {row.name: (row.issuer, row.subject) for row in session.scalars(sa.select(PrincipalRow))}


def issued(database: Database) -> list[tuple[str, str, int, int | None]]:
    """Principal, kind, lifetime in seconds, and workspace of each token that is still good, in order of names."""
    query = sa.select(TokenRow, PrincipalRow.name).join(PrincipalRow).where(TokenRow.revoked_at.is_(None))
    with database.read() as session:
        return [
            (name, row.kind, round((row.expires_at - row.created_at).total_seconds()), row.workspace_id)
            for row, name in session.execute(query.order_by(PrincipalRow.name))
            if row.expires_at is not None
        ]


def add_groups(database: Database, *names: str, workspace_id: int = 1) -> None:
    with database.write() as session:
        session.add_all(GroupRow(workspace_id=workspace_id, name=name, created_by="test") for name in names)


def groups_of(database: Database, person: str) -> set[str]:
    query = sa.select(GroupRow.name).join(MembershipRow).join(PrincipalRow).where(PrincipalRow.name == person)
    with database.read() as session:
        return set(session.scalars(query))
