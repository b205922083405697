"""What was refused, for the audit trail: whoever tries what they have no right to do leaves an entry.

The refused transaction has changed nothing, so the entry is written in one of its own. Whoever looks at the same thing
again and again (an adapter whose right was taken) leaves one entry a minute, or reading would fill the trail.
"""

import logging
import time
from collections import OrderedDict

from registry import audit
from registry.access import Caller
from registry.database import Database
from registry.errors import DatabaseUnavailable, RegistryError

QUIET_S = 60.0
_MANY = 10_000

log = logging.getLogger("modelyard.registry")


class Denials:
    """Records what callers were refused. One per process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def record(self, caller: Caller, method: str, path: str, error: RegistryError) -> None:
        """`path` is what was asked. When the database is away, the log has to do: the refusal stands."""
        if method in ("GET", "HEAD") and self._has_just_looked((caller.name, caller.workspace, path)):
            return
        said = {"method": method, "code": error.code}
        try:
            with self._database.write() as session:
                audit.record(session, caller, "access.denied", path, said, outcome="denied")
        except DatabaseUnavailable:
            log.exception("could not record that %r was refused %s %r", caller.name, method, path)

    def _has_just_looked(self, what: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        if now - self._looked.get(what, -QUIET_S) < QUIET_S:
            return True
        self._looked[what] = now
        self._looked.move_to_end(what)
        if len(self._looked) > _MANY:
            self._looked.popitem(last=False)
        return False
