"""What the database itself refuses, whatever the code above it does; and migrations in both directions."""

import math
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from registry import browse, migrate
from registry.access import Caller
from registry.app import create_app
from registry.database import Database
from registry.errors import DatabaseUnavailable
from registry.settings import Settings
from registry.stored import stored_version
from tests.servers.app import ADMIN, BASE, KINDS, NewDatabase, copy_database, promote, publish
from tests.servers.postgres import Postgres

ZERO = "sha256:" + "0" * 64
EVERYBODY = Caller("admin", "default", 1, administrator=True)


NOW = "2026-11-22T00:00:00.000000Z"


def blob(digest: str = ZERO, size: int = 1, state: str = "live") -> str:
    return (
        "INSERT INTO blobs (digest, size, key, state, damaged) "
        f"VALUES ('{digest}', {size}, 'k', '{state}', 1 > 2)"
    )


def fact(**changed: str) -> str:
    """A fact of fraud/1; each change as SQL."""
    columns = {
        "model_id": "1",
        "number": "1",
        "kind": "'metadata'",
        "name": "'n'",
        "dataset": "''",
        "slice": "''",
    }
    columns |= {"type": "'string'", "text": "'a'", "head": "'a'", "value": "NULL", **changed}
    return f"INSERT INTO facts ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


def run(connection: sa.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(sa.text(statement))


@pytest.fixture(scope="module", params=KINDS)
def template(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Two versions of "fraud", the first in production; one version of "other". Not to be changed."""
    home = tmp_path_factory.mktemp("filled")
    settings = Settings(home=home, database_url=new_database(request.param, home), storage_url="memory://")
    with TestClient(create_app(settings), base_url=BASE, headers=ADMIN) as api:
        publish(api, "fraud", {"m": b"1"})
        publish(api, "fraud", {"m": b"2"})
        publish(api, "other", {"m": b"3"})
        promote(api, "fraud", 1)
    return settings.database_url


@pytest.fixture
def filled(template: str, tmp_path: Path) -> Iterator[Database]:
    """A copy of the template."""
    database = Database(copy_database(template, tmp_path))
    yield database
    database.close()


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
    "a file with another content": "UPDATE files SET content_id = content_id + 1",
    "a file that vanishes": "DELETE FROM files",
    "a blob that vanishes while a file needs it": "DELETE FROM blobs",
    "a digest in upper case": blob(digest=ZERO.replace("00", "AA")),
    "a digest of another algorithm": blob(digest="md5:0000" + "0" * 63),
    "a negative size": blob(size=-1),
    "a blob in a state of its own": blob(state="lost"),
    "a blob condemned at no time": blob(state="condemned"),
    "other bytes at a live blob's key": "UPDATE blobs SET key = 'other' WHERE state = 'live'",
    "a blob with another digest": f"UPDATE blobs SET digest = '{ZERO}'",
    "a content that is exchanged": "UPDATE contents SET layout = layout",
    "a content with another digest": f"UPDATE contents SET digest = '{ZERO}'",
    "a content that vanishes": "DELETE FROM contents",
    "a version deleted while in production": f"UPDATE versions SET deleted_at = '{NOW}' WHERE number = 1 AND model_id = 1",
    "a version deleted under a legal hold": f"UPDATE versions SET legal_hold = 'why', deleted_at = '{NOW}' WHERE number = 2",
    "a version purged but not deleted": f"UPDATE versions SET purged_at = '{NOW}' WHERE number = 2",
    "facts that become older": "UPDATE versions SET fact_revision = 3; UPDATE versions SET fact_revision = 2",
    "a fact of no version": fact(number="99"),
    "a fact of a kind of its own": fact(kind="'rumour'"),
    "a fact without a name": fact(name="''"),
    "a tag that is a number": fact(kind="'tag'", type="'number'", text="NULL", head="NULL", value="1"),
    "a metric that is text": fact(kind="'metric'"),
    "a parameter of a dataset": fact(kind="'parameter'", dataset="'test'"),
    "a text with another head": fact(head="'b'"),
    "a text without a head": fact(head="NULL"),
    "a text that is a number, too": fact(value="1"),
    "a number that is none": fact(type="'number'", text="NULL", head="NULL"),
    "a boolean that is neither": fact(type="'boolean'", text="NULL", head="NULL", value="0.5"),
    "a fact said twice": fact() + ";" + fact(text="'b'", head="'b'"),
    "an empty card": "INSERT INTO cards (model_id, number, text) VALUES (1, 1, '')",
    "a history that is rewritten": "UPDATE moves SET actor = 'nobody'",
    "a history that is shortened": "DELETE FROM moves",
    "a second counter of the feed": "INSERT INTO feed (id, revision) VALUES (2, 0)",
}


def test_what_is_without_fault_is_taken(filled: Database) -> None:
    """Else the refusals below could be for another reason."""
    with filled.engine.begin() as connection:
        connection.execute(sa.text(blob()))
        connection.execute(sa.text(fact()))


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_refuses(filled: Database, what: str) -> None:
    with pytest.raises(sa.exc.IntegrityError), filled.engine.begin() as connection:
        run(connection, REFUSED[what])


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_a_fact_is_finite(filled: Database, value: float) -> None:
    statement = sa.text(fact(type="'number'", text="NULL", head="NULL", value=":value"))
    with pytest.raises(sa.exc.IntegrityError), filled.engine.begin() as connection:
        connection.execute(statement, {"value": value})


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


METRICS = '{"auc"\\: 0.971, "n"\\: 10, "tiny"\\: 5e-324}'
TAGS = '{"team"\\: "risk & Co", "ü"\\: ""}'
BEFORE_PACKS = f"""
INSERT INTO models (id, name, description) VALUES (1, 'fraud', '');
INSERT INTO uploads (id, model, created_by, expires_at) VALUES ('u1', 'fraud', 'me', '{NOW}'), ('u2', 'fraud', 'me', '{NOW}');
INSERT INTO blobs (digest, key, size) VALUES ('{ZERO}', 'sha256/00/key', 7);
INSERT INTO upload_blobs (upload_id, digest, key, size) VALUES ('u2', '{ZERO}', 'sha256/00/under-way', 7);
INSERT INTO versions (model_id, number, manifest_digest, format, variants, description, metrics, tags, upload_id, created_by)
 VALUES (1, 1, '{ZERO}', 'files', '[]', '', '{METRICS}', '{TAGS}', 'u1', 'me');
INSERT INTO files (model_id, number, path, digest) VALUES (1, 1, 'a', '{ZERO}'), (1, 1, 'b', '{ZERO}')
"""


def test_versions_of_before_packs_are_read_as_ever(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    migrate.upgrade(database, "0001")
    with database.engine.begin() as connection:
        for statement in BEFORE_PACKS.split(";"):
            connection.execute(sa.text(statement))
    for _ in range(2):
        migrate.upgrade(database)
        with database.read() as session:
            version = browse.version(session, EVERYBODY, "fraud", 1)
            stored = stored_version(session, EVERYBODY, "fraud", 1)
            trash = session.scalars(sa.text("SELECT key FROM trash")).all()
        assert [(file.path, file.size, file.digest) for file in version.files] == [
            ("a", 7, ZERO),
            ("b", 7, ZERO),
        ]
        assert (version.verified, version.damaged) == (True, False)
        assert version.metrics == {"auc": 0.971, "n": 10.0, "tiny": 5e-324}
        assert version.tags == {"team": "risk & Co", "ü": ""}
        assert [[(s.offset, s.length) for s in file.segments] for file in stored.files] == [[(0, 7)]] * 2
        assert [blob.key for blob in stored.blobs.values()] == ["sha256/00/key"]
        assert trash in (["sha256/00/under-way"], [])
        migrate.downgrade(database, "0001")
    database.close()


def test_what_the_old_schema_cannot_hold_stops_the_way_back(filled: Database) -> None:
    with filled.engine.begin() as connection:
        connection.execute(sa.text("UPDATE contents SET damaged = (1 < 2)"))
        connection.execute(
            sa.text("UPDATE contents SET layout = :two"),
            {"two": '{"layout": 1, "segments": [[1, 0, 1], [1, 0, 1]]}'},
        )
    with pytest.raises(RuntimeError, match="packs"):
        migrate.downgrade(filled, "0001")
    migrate.check(filled)


OF_FRAUD = "INSERT INTO {} (model_id, number, {}) VALUES (1, 2, {})"
NEWER = [
    fact(),
    fact(kind="'metric'", dataset="'test'", type="'number'", text="NULL", head="NULL", value="1"),
    OF_FRAUD.format("cards", "text", "'# Purpose'"),
    OF_FRAUD.format("lineages", "run, repository, code_commit, image", "'42', '', '', ''"),
    OF_FRAUD.format("datasets", "name, digest", "'train', 'md5:00000000'"),
    OF_FRAUD.format("parents", "parent_model_id, parent_number", "1, 1"),
]


def test_facts_that_the_old_schema_cannot_hold_stop_the_way_back(filled: Database) -> None:
    tables = ("facts", "facts", "cards", "lineages", "datasets", "parents")
    for table, statement in zip(tables, NEWER, strict=True):
        with filled.engine.begin() as connection:
            connection.execute(sa.text(statement))
        with pytest.raises(RuntimeError, match="1 facts are of kinds"):
            migrate.downgrade(filled, "0007")
        with filled.engine.begin() as connection:
            connection.execute(sa.text(f"DELETE FROM {table}"))
    migrate.check(filled)
    migrate.downgrade(filled, "0007")


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


def test_a_connection_that_died_while_it_rested_is_replaced_unnoticed(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.database._FRESH_S", 0.0)
    url = postgres.new_database()
    database = Database(url)

    def backend() -> int:
        with database.read() as session:
            return int(session.scalar(sa.text("SELECT pg_backend_pid()")) or 0)

    first = backend()
    assert backend() == first
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    assert backend() != first
    database.close()
