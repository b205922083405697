"""Removing what is over: attempts that have drained, logins that nobody finished, tokens that have expired."""

import sqlalchemy as sa

from registry.database import Database, utc_now
from registry.login_tables import AttemptRow, BrowserLoginRow, LoginCodeRow, SpentTokenRow

INTERVAL_S = 600.0
BATCH = 1000


def remove_expired(database: Database) -> int:
    """Remove rows whose time is over; returns how many."""
    gone = 0
    for table in (AttemptRow, BrowserLoginRow, LoginCodeRow, SpentTokenRow):
        key = table.__mapper__.primary_key[0]
        # Whoever is about to change a row has locked it, and several registries trim at once: nobody waits.
        over = sa.select(key).where(table.expires_at < utc_now()).limit(BATCH)
        found = BATCH
        while found == BATCH:
            with database.write() as session:
                keys = session.scalars(over.with_for_update(skip_locked=True)).all()
                session.execute(sa.delete(table).where(key.in_(keys)))
            found = len(keys)
            gone += found
    return gone
