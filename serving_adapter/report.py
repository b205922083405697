"""Reporting: one thread that tells the registry what this adapter runs, when it changes and every 30 seconds.

    slots ──look, once a second──▶ changed, or 30 s over? ──▶ report
                                        └── refused, or nobody there: again in 30 s at the latest, whatever changes

It only reads the slots, as /status does; nothing that serves or follows knows of it. Whatever goes wrong here is logged
once and changes nothing: a registry of before there were reports, a token that may not, no answer at all.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from modelyard import ModelyardError, Run, parse_ref

from serving_adapter.slot import Slot
from serving_adapter.slots import Slots

log = logging.getLogger(__name__)

EVERY_S = 30.0
LOOK_S = 1.0
LONGEST_TROUBLE = 512


class Registry(Protocol):
    """What is used of modelyard.Client."""

    def report_deployments(self, adapter: str, runs: Sequence[Run]) -> int: ...


class Reporter:
    """One thread for all slots."""

    def __init__(
        self, registry: Registry, slots: Slots, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._name = name
        self._clock = clock
        self._reported: list[Run] | None = None
        self._next = clock()
        self._failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Report no more; a report that is under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self.step()

    def step(self) -> None:
        """Look, and report if there is reason to."""
        try:
            runs = [_run_of(slot) for slot in self._slots.all()]
            changed = runs != self._reported and not self._failing
            if changed or self._clock() >= self._next:
                self._next = self._clock() + EVERY_S
                self._registry.report_deployments(self._name, runs)
                self._reported, self._failing = runs, False
        except ModelyardError as error:
            if self._is_news():
                log.warning("the registry does not take reports of what is served: %s", error)
            self._failing = True
        except Exception:
            # The border of the thread: nobody needs it to serve.
            if self._is_news():
                log.exception("unexpected error while reporting what is served")
            self._failing = True

    def _is_news(self) -> bool:
        """Failures are logged once, not at each attempt."""
        return not (self._failing or self._stopped.is_set())


def _run_of(slot: Slot) -> Run:
    status = slot.status()
    current, error = status["current"], status["last_error"]
    return Run(
        name=slot.name,
        model=parse_ref(slot.follows).model,
        number=current and current["version"],
        digest=current and current["digest"],
        follows=slot.follows,
        since=current and (current["since"] or None),
        trouble=_trouble(error["version"], error["phase"], error["message"]) if error else "",
    )


def _trouble(version: int | None, phase: str, message: str) -> str:
    what = phase if version is None else f"version {version}, {phase}"
    return f"{what}: {message}".replace("\x00", "")[:LONGEST_TROUBLE]
