"""Two databases, one behaviour: SQLite (WAL) and PostgreSQL, with reading and writing sessions of different types.

    with database.read() as session: …      sees one snapshot; a write fails
    with database.write() as session: …     commits at the end of the block, or changes nothing

A writer on SQLite takes the write lock at once (BEGIN IMMEDIATE): a reader that upgrades half-way could find the
database changed under it and would have to fail. On PostgreSQL writers meet at row locks.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from registry.domain import sha256
from registry.errors import DatabaseUnavailable

_FRESH_S = 1.0
"""A connection that was used within so many seconds is taken to be alive."""


class ReadSession(Session):
    """A session that may only look."""


class WriteSession(Session):
    """A session inside the one writing transaction of a use case."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A point in time with microseconds, aware and in UTC on both databases; text in SQLite, which sorts as time does."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Pick the column type of `dialect`."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.String(32))
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Write an aware datetime."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy calls it by name
        """Read an aware datetime."""
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        return value.astimezone(UTC) if value is not None else None


class utc_now(sa.sql.functions.FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, not the process's: several registry processes share it."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(_element: utc_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"


@compiles(utc_now, "postgresql")
def _utc_now_postgresql(_element: utc_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # Not now(): that is when the transaction began, and a writer may have waited for its lock since.
    return "clock_timestamp()"


class as_text(sa.sql.functions.FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """A point in time as text: 2026-11-22T10:00:00.123456Z."""

    type = sa.String()
    inherit_cache = True


@compiles(as_text, "sqlite")
def _as_text_sqlite(element: as_text, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)  # that is how UtcDateTime keeps it


@compiles(as_text, "postgresql")
def _as_text_postgresql(element: as_text, compiler: SQLCompiler, **options: Any) -> str:
    at = compiler.process(element.clauses, **options)
    return f"to_char({at} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


class sha256_of(sa.sql.functions.FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """The digest of a text, computed by the database: "sha256:" and 64 hex digits."""

    type = sa.String()
    inherit_cache = True


@compiles(sha256_of, "sqlite")
def _sha256_of_sqlite(element: sha256_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"modelyard_sha256({compiler.process(element.clauses, **options)})"


@compiles(sha256_of, "postgresql")
def _sha256_of_postgresql(element: sha256_of, compiler: SQLCompiler, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    return f"('sha256:' || encode(sha256(convert_to({text}, 'UTF8')), 'hex'))"


class Database:
    """A database by URL. `announce` is called with the newest event revision after each commit that recorded one."""

    def __init__(self, url: str, *, announce: Callable[[int], None] = lambda _revision: None) -> None:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._announce = announce
        # SQLite lets one writer in at a time and makes the others poll; a lock lets our own threads queue fairly.
        self._writer = threading.Lock() if self.is_sqlite else nullcontext()
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed)
        self._reader_engine = self.engine.execution_options(postgresql_readonly=True, sqlite_readonly=True)
        self._writer_engine = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """A consistent look at the database."""
        with _translated(), ReadSession(self._reader_engine, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with _translated():
            with self._writer, WriteSession(self._writer_engine, expire_on_commit=False) as session:
                session.connection()  # takes SQLite's write lock before the first read
                yield session
                session.commit()
            if (revision := session.info.get("revision")) is not None:
                self._announce(revision)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A bare connection inside a writing transaction, for migrations."""
        with _translated(), self._writer_engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def insert_or_ignore(session: WriteSession, table: type, *rows: dict[str, Any]) -> None:
    """Insert rows unless some with the same key are there; when one is being inserted right now, wait for that."""
    if rows:
        session.flush()
        session.execute(_insert_or_ignore(table, session.get_bind().dialect.name), list(rows))


@cache
def _insert_or_ignore(table: Any, dialect: str) -> sa.Insert:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table.__table__).on_conflict_do_nothing()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        raise DatabaseUnavailable(
            "The registry's database does not answer. Try again in a moment."
        ) from error


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=20,
        max_overflow=20,
        connect_args={"connect_timeout": 5, "application_name": "modelyard-registry"},
    )
    # What the pool's own pre_ping does, but not for a connection that answered a moment ago: that is a round trip of each
    # request's.
    ping = engine.dialect.do_ping

    @sa.event.listens_for(engine, "checkin")
    def answered(_connection: Any, record: Any) -> None:
        record.info["answered"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def require_answer(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("answered", 0.0) < _FRESH_S:
            return
        try:
            ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.InvalidatePoolError from error  # the pool makes new connections

    return engine


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=20, max_overflow=30, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            None  # the driver must not begin transactions of its own; see begin() below
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged promotion survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function(
            "modelyard_sha256", 1, lambda text: sha256(text.encode()), deterministic=True
        )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(f"PRAGMA query_only = {int(options.get('sqlite_readonly', False))}")
        connection.exec_driver_sql(options.get("sqlite_begin", "BEGIN"))

    return engine
