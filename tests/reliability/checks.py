"""What must be true of a registry's database and store in the end, whatever happened to them."""

from typing import Any

import sqlalchemy as sa

from registry import fsck, sweep
from registry.database import Database, utc_now
from registry.tables import TrashRow, UploadRow
from storage import BlobStore
from storage.layout import is_audit, is_trial
from tests.reliability.caller import Violation

# Plain SQL: what the code under test believes about who needs what is not asked here.
NEEDED = """
    SELECT DISTINCT b.key FROM blobs b JOIN content_blobs cb ON cb.blob_id = b.id
    JOIN files f ON f.content_id = cb.content_id
    JOIN versions v ON v.model_id = f.model_id AND v.number = f.number WHERE v.purged_at IS NULL
"""


def require_sound(database_url: str, store: BlobStore) -> None:
    """Raises Violation unless fsck finds nothing, having read every byte."""
    if problems := fsck.fsck(database_url, store, deep=True):
        raise Violation("\n".join(map(str, problems)))


def require_nothing_leaked(database_url: str, store: BlobStore) -> None:
    """Raises Violation unless the sweep, once all uploads are over, leaves exactly the objects that versions need."""
    database = Database(database_url)
    try:
        for _ in range(2):
            _let_time_pass(database)
            # Not with `orphans`: whatever a process that died has written is in the trash already.
            sweep.sweep(database, store, sweep.Rules(restore_window_s=0, grace_s=0, max_share=1))
        require_sound(database_url, store)
        with database.read() as session:
            needed = set(session.scalars(sa.text(NEEDED)))
    finally:
        database.close()
    there = {stat.key for stat in store.iterate() if not (is_trial(stat.key) or is_audit(stat.key))}
    if there != needed:
        raise Violation(f"leaked: {sorted(there - needed)}, missing: {sorted(needed - there)}")


def _let_time_pass(database: Database) -> None:
    past: Any = sa.select(utc_now()).scalar_subquery()
    with database.write() as session:
        session.execute(sa.update(UploadRow).values(expires_at=past))
        session.execute(sa.update(TrashRow).values(not_before=past))
