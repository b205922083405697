"""What the commands of `modelyard-registry` share: settings, an open database and store, and how to say that something failed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
import sqlalchemy as sa
from pydantic import ValidationError
from pydantic_settings import SettingsError

from registry import migrate, scrub, sweep
from registry.audit_export import TrailDamaged
from registry.database import Database
from registry.errors import RegistryError
from registry.settings import Settings
from storage import BlobStore, open_store
from storage.errors import StorageError

as_json_option = click.option("--json", "as_json", is_flag=True, help="machine-readable output")


@contextmanager
def opened() -> Iterator[tuple[Settings, Database, BlobStore]]:
    with reported():
        settings = read_settings()
        database = Database(settings.database_url)
        store = open_store(settings.storage_url)
        try:
            with database.engine.connect() as connection:
                if migrate.current_revision(connection) != migrate.head_revision():
                    fail(
                        "the database has another schema than this release: run `modelyard-registry migrate`"
                    )
            yield settings, database, store
        finally:
            store.close()
            database.close()


@contextmanager
def reported() -> Iterator[None]:
    try:
        yield
    except (RegistryError, StorageError, sweep.Implausible, scrub.TooMuchDamage, TrailDamaged) as error:
        fail(str(error))
    except sa.exc.DBAPIError as error:
        fail(f"the database does not answer as it should: {type(error.orig).__name__}")


def read_settings() -> Settings:
    try:
        return Settings()
    except SettingsError as error:
        fail(f"{error}: it is not valid JSON")
    except ValidationError as error:
        # Not str(error): that repeats the values, and a database URL holds a password.
        fail("; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()))


def progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(1)
