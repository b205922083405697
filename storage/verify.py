"""Whether a store can be trusted: what an operator runs before handing one to the registry.

    open ──> checks, one after the other (verify_checks.py, verify_tickets.py, verify_races.py) ──> clean up
                 └─ each one:  returns a detail     ok
                               raises Broken        no, and the store cannot be trusted
                               raises Lacks         no, but the registry can do without
                               raises Inapplicable  n/a: the store does not offer it

A store that fails one check is asked the others, too: what else it gets wrong helps to find out why.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from storage.base import BlobStore
from storage.errors import StorageError
from storage.verify_checks import CHECKS
from storage.verify_races import RACES
from storage.verify_scratch import Broken, Check, Inapplicable, Lacks, Scratch
from storage.verify_tickets import TICKETS

Outcome = Literal["ok", "no", "n/a"]
CLEANS_UP = Check("cleans up", "what was written here is deleted and no longer listed", Scratch.clean_up)


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    meaning: str
    outcome: Outcome
    required: bool  # as it came out: a capability that turns out to be a lie is no longer a mere capability
    detail: str


@dataclass(slots=True)
class Report:
    checks: list[Result] = field(default_factory=list)

    @property
    def failed(self) -> list[Result]:
        return [check for check in self.checks if check.outcome == "no" and check.required]

    @property
    def trusted(self) -> bool:
        return bool(self.checks) and not self.failed

    def as_json(self) -> dict[str, Any]:
        return {"trusted": self.trusted, "checks": [asdict(check) for check in self.checks]}


def verify(opened: Callable[[], BlobStore], tell: Callable[[str], None] = lambda _: None) -> Report:
    """Open a store, check it, clean up and close it. `tell` hears the name of each check before it begins.

    Whatever ends this early, Ctrl-C or an error that no check foresaw, what was written is deleted first.
    """
    report = Report()
    with _opened(opened, report, tell) as store:
        if store:
            scratch = Scratch(store)
            try:
                for check in [*CHECKS, *TICKETS, *RACES]:
                    _run(check, partial(check.run, scratch), report, tell)
            finally:
                _run(CLEANS_UP, scratch.clean_up, report, tell)
    return report


@contextmanager
def _opened(
    opened: Callable[[], BlobStore], report: Report, tell: Callable[[str], None]
) -> Iterator[BlobStore | None]:
    """The store, or None where it does not open, which the report then says."""
    stores: list[BlobStore] = []

    def attempt() -> str:
        stores.append(opened())
        stores[0].check()
        return ""

    try:
        _run(Check("opens", "the store answers and knows us", lambda _: attempt()), attempt, report, tell)
        yield stores[0] if report.trusted else None
    finally:
        for store in stores:
            store.close()


def _run(check: Check, run: Callable[[], str], report: Report, tell: Callable[[str], None]) -> None:
    tell(check.name)
    report.checks.append(_outcome(check, run))


def _outcome(check: Check, run: Callable[[], str]) -> Result:
    def result(outcome: Outcome, detail: str, *, required: bool = check.required) -> Result:
        return Result(check.name, check.meaning, outcome, required, detail)

    try:
        return result("ok", run())
    except Inapplicable as e:
        return result("n/a", str(e))
    except Lacks as e:
        return result("no", str(e), required=False)
    except Broken as e:
        return result("no", str(e), required=True)
    except StorageError as e:
        return result("no", f"{type(e).__name__}: {e}", required=True)
