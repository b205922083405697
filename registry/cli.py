"""`modelyard-registry`: serve, migrate."""

import json
import logging
import sys
from typing import Any, NoReturn

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from registry import __version__, migrate
from registry.cli_audit import audit
from registry.cli_people import password_command
from registry.cli_storage import storage
from registry.cli_upkeep import fsck_command, scrub_command, sweep_command
from registry.database import Database
from registry.errors import RegistryError
from registry.settings import Settings
from storage.errors import StorageError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelyard-registry")
def main() -> None:
    """The Modelyard registry server.

    Settings are environment variables (MODELYARD_REGISTRY_DATABASE_URL, …_STORAGE_URL, …_TOKEN, …); the defaults are
    SQLite and disk under ~/.modelyard, on loopback.
    """


@main.command()
@click.option("--host", help="address to listen on  [default: 127.0.0.1]")
@click.option("--port", type=int, help="port to listen on  [default: 7070]")
@click.option(
    "--migrate/--no-migrate", "run_migrations", default=True, help="bring the database up to date first"
)
def serve(run_migrations: bool, **overrides: Any) -> None:
    """Serve the API until stopped."""
    from registry.bootstrap import NotConfigured
    from registry.server import AddressInUse
    from registry.server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = _settings(**overrides)
    if run_migrations:
        _migrate(settings)
    try:
        run(settings)
    except (AddressInUse, NotConfigured, StorageError) as error:
        _fail(str(error))


@main.command("migrate")
@click.option("--to", "revision", default="head", show_default=True, help="revision to stop at")
@click.option(
    "--down", is_flag=True, help="undo what came after --to instead (`base`: everything, data included)"
)
@click.option("--json", "as_json", is_flag=True, help="machine-readable output")
def migrate_command(revision: str, down: bool, as_json: bool) -> None:
    """Bring the database to the schema of this release."""
    current = _migrate(_settings(), revision, down=down)
    click.echo(
        json.dumps({"revision": current}) if as_json else f"The database is at {current or 'base (empty)'}."
    )


def _settings(**overrides: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        _fail(f"{error}: it is not valid JSON")
    except ValidationError as error:
        # Not str(error): that repeats the values, and a database URL holds a password.
        _fail("; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()))


def _migrate(settings: Settings, revision: str = "head", *, down: bool = False) -> str | None:
    try:
        database = Database(settings.database_url)
        try:
            (migrate.downgrade if down else migrate.upgrade)(database, revision)
            with database.engine.connect() as connection:
                return migrate.current_revision(connection)
        finally:
            database.close()
    except (RegistryError, OSError, migrate.MigrationFailed) as error:
        _fail(f"cannot migrate the database: {error}")


for command in (sweep_command, scrub_command, fsck_command, storage, audit, password_command):
    main.add_command(command)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
