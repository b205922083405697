"""Bringing a database to the schema that this code knows, and back. Safe to run from several processes at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from registry.database import Database


class MigrationFailed(Exception):
    """The database could not be brought to the revision that was asked for; it is as it was."""


_ADVISORY_LOCK = 0x4D59_5244  # any number, as long as it stays the same


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply what is missing up to `revision`; other processes that try meanwhile wait, then find nothing to do."""
    _run(database, command.upgrade, revision)


def downgrade(database: Database, revision: str) -> None:
    """Undo what came after `revision` ("base": everything)."""
    _run(database, command.downgrade, revision)


def check(database: Database) -> None:
    """Raise MigrationFailed when tables.py and the migrations disagree."""
    _run(database, lambda config, _: command.check(config), "")


def current_revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def head_revision() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _run(database: Database, run: Callable[[Config, str], object], revision: str) -> None:
    config = _config()
    with transaction(database) as connection:
        config.attributes["connection"] = connection
        try:
            run(config, revision)
        except CommandError as error:
            raise MigrationFailed(str(error)) from error


@contextmanager
def transaction(database: Database) -> Iterator[sa.Connection]:
    """A transaction that no other migration runs beside."""
    with database.transaction() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        yield connection


def _config() -> Config:
    # In a wheel the migrations live inside the package; in a checkout, beside it.
    package = Path(__file__).parent
    script = package / "migrations"
    config = Config()
    config.set_main_option(
        "script_location", str(script if script.exists() else package.parent / "migrations")
    )
    return config
