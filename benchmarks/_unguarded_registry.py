"""`modelyard-registry` without authentication and audit, to measure what those cost. It serves nobody else."""

from registry import audit, cli
from registry.access import Caller
from registry.identify import ADMIN, DEFAULT, Identities
from tests.reliability.leash import end_with_parent

ANYBODY = Caller(ADMIN, DEFAULT, 1, administrator=True)

Identities.caller = lambda *_: ANYBODY  # type: ignore[method-assign]  # that is what is measured
audit.record = lambda *_, **__: None

end_with_parent()
cli.main()
