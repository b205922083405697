"""What a registry does by itself, each in a thread of its own, beside every other registry of the same database.

    sweeper        gives back the space of bytes that nothing needs
    tidier         removes what is over: attempts and logins, adapters that are silent, events that are too old
    scheduler      carries out promotions whose time has come, and ends requests that are over
    checkpointer   signs where the audit trail ends

Whatever reads bytes is verify.py's, whatever tells others is feed.py's and deliveries'.
"""

import threading
from collections.abc import Sequence
from functools import partial

from registry.audit_export import Exporter, export_in_background
from registry.background import Background
from registry.checkpoints import Signer
from registry.database import Database
from registry.deployments import forget_silent
from registry.expired import remove_expired
from registry.schedule import carry_out_due
from registry.settings import Settings
from registry.sweep import Rules, sweep_in_background
from registry.trim import trim
from storage import BlobStore

TIDY_S = 600.0


def upkeep(settings: Settings, database: Database, store: BlobStore, key: bytes) -> Sequence[Background]:
    """All of it, not yet started."""
    rules = Rules(settings.restore_window_s, settings.sweep_grace_s, settings.sweep_max_share)
    sweep = partial(sweep_in_background, database, store, rules)
    export = partial(export_in_background, Exporter(database, store, Signer(key)))
    carry_out = partial(carry_out_due, database)

    def tidy(stopping: threading.Event) -> None:
        remove_expired(database)
        forget_silent(database)
        trim(database, settings.feed_retention_s, stopping=stopping)

    return (
        Background("sweeper", lambda stop: sweep(stopping=stop), interval_s=settings.sweep_interval_s),
        Background("tidier", tidy, interval_s=TIDY_S),
        Background("scheduler", lambda stop: carry_out(stopping=stop), interval_s=settings.schedule_poll_s),
        Background(
            "checkpointer", lambda stop: export(stopping=stop), interval_s=settings.audit_checkpoint_s
        ),
    )
