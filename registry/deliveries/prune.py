"""Deliveries that ended long ago are forgotten, with their attempts."""

import threading
from datetime import timedelta

import sqlalchemy as sa

from registry.database import Database, utc_now
from registry.webhook_tables import DeliveryRow

BATCH = 500


def prune(database: Database, *, keep_s: float, stopping: threading.Event) -> int:
    """Forget what ended more than `keep_s` seconds ago, a batch and a transaction at a time; returns how many."""
    forgotten = 0
    while not stopping.is_set():
        with database.read() as session:
            before = session.scalars(sa.select(utc_now())).one() - timedelta(seconds=keep_s)
            ended = sa.select(DeliveryRow.number).where(DeliveryRow.ended_at < before).limit(BATCH)
            numbers = session.scalars(ended).all()
        if not numbers:
            break
        with database.write() as session:
            # Again with the condition: it may have been redelivered since.
            old = DeliveryRow.number.in_(numbers), DeliveryRow.ended_at < before
            session.execute(sa.delete(DeliveryRow).where(*old))
        forgotten += len(numbers)
    return forgotten
