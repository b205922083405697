"""A process that sweeps until it reaches a failpoint, and is killed there.

It is forked from a server that has imported everything: a fresh one would spend its life on that.
"""

import multiprocessing

from registry import failpoints
from registry.database import Database
from registry.sweep import Rules, sweep
from storage import open_store


def sweep_and_die(database_url: str, storage_url: str, failpoint: str) -> int | None:
    """Returns the exit code: minus the signal that killed it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    victim = context.Process(target=_sweep, args=(database_url, storage_url, failpoint))
    victim.start()
    victim.join()
    return victim.exitcode


def _sweep(database_url: str, storage_url: str, failpoint: str) -> None:
    failpoints.ACTIONS.update(failpoints.parse(f"{failpoint}=kill"))
    sweep(Database(database_url), open_store(storage_url), Rules(0, 0, 1))
