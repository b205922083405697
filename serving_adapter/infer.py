"""The one path that every inference takes, whatever protocol it came by.

route to a slot ──▶ take its snapshot, once ──▶ is it the version that was asked for? ──▶ run ──▶ release

It runs in a thread of the lane. A model that fails is counted, and logged at most once a second.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving_adapter.errors import ModelFailed, Unknown
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.slots import Slots
from serving_adapter.tensors import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs by name, and the version that gave them."""

    snapshot: Snapshot
    outputs: dict[str, Array]


class Inference:
    """Answers requests from the slots."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._quiet_until = 0.0

    def infer(
        self, model: str, version: str | None, inputs: Mapping[str, Array], wanted: Sequence[str] = ()
    ) -> Answer:
        """Run `model` on `inputs`.

        `version` is None, the number that is being served, or the name of the pointer that is being followed.
        Raises Unknown, NotReady, BadInput or ModelFailed.
        """
        slot = self._slots.get(model)
        snapshot = slot.acquire()
        failed = False
        try:
            require_version(slot, snapshot, version)
            return Answer(snapshot, snapshot.model.run(inputs, wanted))
        except ModelFailed as error:
            failed = True
            self._report(slot, snapshot, error)
            raise
        finally:
            slot.release(snapshot, failed=failed)

    def _report(self, slot: Slot, snapshot: Snapshot, error: ModelFailed) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + 1.0
            cause = f": {error.__cause__!s:.500}" if error.__cause__ else ""
            log.warning("model %s version %d: %s%s", slot.name, snapshot.version, error, cause)


def require_version(slot: Slot, snapshot: Snapshot, version: str | None) -> None:
    """Raise Unknown unless `version` is None or names what is being served."""
    if version not in (None, str(snapshot.version), slot.pointer):
        raise Unknown(f"model '{slot.name}' serves version {snapshot.version}, not '{version:.64}'")
