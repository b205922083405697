"""The slots, by the name under which each model is served, and whether the adapter is ready.

models named on the command line   ready when every one of them has a version loaded
every model of the registry        ready when the registry has listed them, each has been tried, and one is loaded
stopping                           not ready, while requests are still answered
"""

import threading

from serving_adapter.errors import Unknown
from serving_adapter.slot import Slot


class Slots:
    """All models that this adapter serves, or is to serve. Followers add to it; requests look up in it."""

    def __init__(self, *, follow_all: bool) -> None:
        self._follow_all = follow_all
        self._slots: dict[str, Slot] = {}
        self._lock = threading.Lock()
        self._listed = not follow_all
        self._stopping = False

    def add(self, slot: Slot) -> None:
        with self._lock:
            self._slots = {**self._slots, slot.name: slot}  # a new dict, so that readers need no lock

    def get(self, name: str) -> Slot:
        """The slot of `name`; raise Unknown if there is none."""
        slot = self._slots.get(name)
        if slot is None:
            # Triton's words, which some of its clients look for.
            raise Unknown(f"Request for unknown model: '{name:.128}' is not found")
        return slot

    def all(self) -> list[Slot]:
        return [slot for _, slot in sorted(self._slots.items())]

    def listed(self) -> None:
        """The registry has told which models there are, and those in production have their slots."""
        self._listed = True

    def stop(self) -> None:
        """From now on not ready."""
        self._stopping = True

    def close(self) -> None:
        for slot in self.all():
            slot.close()

    def why_not_ready(self) -> str | None:
        """None when ready."""
        if self._stopping:
            return "the adapter is stopping"
        if not self._listed:
            return "the registry has not listed its models yet"
        slots = self.all()
        missing = [slot for slot in slots if slot.current is None and not (self._follow_all and slot.tried)]
        if missing:
            return missing[0].why_not_ready()
        if not any(slot.current for slot in slots):
            return slots[0].why_not_ready() if slots else "the registry has no model in production"
        return None
