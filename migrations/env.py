"""Runs migrations: on the connection that registry.migrate hands over, or, from the alembic command, on a new one."""

from alembic import context
from sqlalchemy import Connection

from registry import (
    access_tables,  # noqa: F401 - its tables are in the metadata once it has been read
    deployment_tables,  # noqa: F401 - as above
    facts_tables,  # noqa: F401 - as above
    login_tables,  # noqa: F401 - as above
    migrate,
    policy_tables,  # noqa: F401 - as above
    webhook_tables,  # noqa: F401 - as above
)
from registry.database import Database
from registry.settings import Settings
from registry.tables import Base


def run(connection: Connection) -> None:
    """Run inside the transaction of `connection`: all of it happens, or nothing."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(Settings().database_url)
    with migrate.transaction(database) as opened:
        run(opened)
    database.close()
