"""What the database itself refuses, whatever the code above it does; and migrations in both directions."""

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry import migrate
from registry.database import Database
from registry.errors import DatabaseUnavailable
from tests.servers.app import promote, publish

ZERO = "sha256:" + "0" * 64


@pytest.fixture
def filled(api: TestClient, database: Database) -> Database:
    """Two versions of "fraud", the first in production; one version of "other"."""
    publish(api, "fraud", {"m": b"1"})
    publish(api, "fraud", {"m": b"2"})
    publish(api, "other", {"m": b"3"})
    promote(api, "fraud", 1)
    return database


REFUSED = {
    "a second holder of production": "INSERT INTO pointers (model_id, name, kind, number, generation, moved_at, moved_by)"
    " SELECT model_id, name, kind, 2, 9, moved_at, moved_by FROM pointers WHERE name = 'production'",
    "one version in two stages": "INSERT INTO pointers (model_id, name, kind, number, generation, moved_at, moved_by)"
    " SELECT model_id, 'staging', 'stage', 1, 1, moved_at, moved_by FROM pointers WHERE name = 'production'",
    "a pointer to a version that does not exist": "UPDATE pointers SET number = 3, generation = generation + 1",
    "a pointer that goes back in time": "UPDATE pointers SET number = 2, generation = generation",
    "a pointer that forgets": "DELETE FROM pointers",
    "an alias that calls itself a stage": "INSERT INTO pointers"
    " (model_id, name, kind, number, generation, moved_at, moved_by)"
    " SELECT model_id, 'champion', 'stage', 2, 1, moved_at, moved_by FROM pointers",
    "a version number used twice": "INSERT INTO versions SELECT * FROM versions WHERE number = 2",
    "a counter that goes back": "UPDATE models SET next_number = 1",
    "other bytes behind a version": f"UPDATE versions SET manifest_digest = '{ZERO}'",
    "a version that vanishes": "DELETE FROM versions",
    "a file that changes": f"UPDATE files SET digest = '{ZERO}'",
    "a file that vanishes": "DELETE FROM files",
    "a blob that vanishes while a file needs it": "DELETE FROM blobs",
    "a digest in upper case": f"INSERT INTO blobs (digest, key, size) VALUES ('{ZERO.replace('00', 'AA')}', 'k', 1)",
    "a digest of another algorithm": f"INSERT INTO blobs (digest, key, size) VALUES ('{'md5:0000' + '0' * 63}', 'k', 1)",
    "a negative size": f"INSERT INTO blobs (digest, key, size) VALUES ('{ZERO}', 'k', -1)",
    "a history that is rewritten": "UPDATE moves SET actor = 'nobody'",
    "a history that is shortened": "DELETE FROM moves",
    "a second counter of the feed": "INSERT INTO feed (id, revision) VALUES (2, 0)",
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_refuses(filled: Database, what: str) -> None:
    with pytest.raises(sa.exc.IntegrityError), filled.engine.begin() as connection:
        connection.execute(sa.text(REFUSED[what]))


def test_archiving_is_the_one_change_that_a_version_allows(filled: Database) -> None:
    with filled.engine.begin() as connection:
        assert (
            connection.execute(sa.text("UPDATE versions SET archived = true WHERE number = 2")).rowcount == 1
        )


def test_migrations_go_up_down_and_up_again(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    migrate.upgrade(database)
    migrate.downgrade(database, "base")
    left = set(sa.inspect(database.engine).get_table_names())
    assert left <= {"alembic_version"}
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        assert migrate.current_revision(connection) == migrate.head_revision()
    database.close()


def test_tables_and_migrations_agree(database: Database) -> None:
    migrate.check(database)


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises((sa.exc.DBAPIError, DatabaseUnavailable)), database.read() as session:
        session.execute(sa.text("UPDATE feed SET revision = 7"))


def test_a_failed_block_leaves_nothing_behind(database: Database) -> None:
    def change_and_fail() -> None:
        with database.write() as session:
            session.execute(sa.text("UPDATE feed SET revision = 7"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    with database.read() as session:
        assert session.scalar(sa.text("SELECT revision FROM feed")) == 0


def test_sqlite_runs_in_wal_with_foreign_keys_and_full_synchronisation(database: Database) -> None:
    if database.is_sqlite:
        with database.read() as session:
            found = [
                session.scalar(sa.text(f"PRAGMA {p}"))
                for p in ("journal_mode", "foreign_keys", "synchronous")
            ]
        assert found == ["wal", 1, 2]
