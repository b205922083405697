"""A follower keeps one slot at what its reference names.

    woken by the feed, or by its own slow poll
      └▶ read the pointer ─▶ no newer generation?         nothing to do; a version that was named directly: still there?
                             nobody holds it any more?     keep what is current, and say so
                             the current version?          keep
                             the previous version?         swap back: it is still loaded
                             another?                      prepare ─▶ rejected: keep current; not again until the pointer moves
                                                              │
                                                              └▶ swap, unless the pointer went back to current meanwhile
    registry, store, disk or loader fail ─▶ keep current, try again after a growing pause

A generation is settled once its version is in service or rejected. An answer with an older generation than the settled
one comes from a stale replica or cache, and is ignored.
"""

import logging
import threading
from dataclasses import dataclass

from modelyard import ModelyardError, Ref, Version

from serving_adapter.backoff import Backoff, spread
from serving_adapter.errors import CandidateRejected, LoaderBroken
from serving_adapter.prepare import Workshop
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.upstream import Upstream

log = logging.getLogger(__name__)

_UNSETTLED = -1


@dataclass(frozen=True, slots=True)
class Target:
    """What the reference named when it was read; a version that was named directly has generation 0 for ever."""

    number: int | None
    generation: int


class Follower:
    """One slot, one reference, one thread."""

    def __init__(self, slot: Slot, ref: Ref, upstream: Upstream, workshop: Workshop) -> None:
        self.slot = slot
        self.ref = ref
        self._upstream = upstream
        self._workshop = workshop
        self._settled = _UNSETTLED
        self._anew = False
        self._wanted = threading.Event()
        self._stopped = False
        self._backoff = Backoff()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"follow-{slot.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """The pointer may have moved: look soon."""
        self._wanted.set()

    def forget(self) -> None:
        """The registry has started anew: whatever the pointer says next is news, even to a step that is under way."""
        self._anew = True
        self.wake()

    def stop(self) -> None:
        """Stop after the step that is under way; see `join`."""
        self._stopped = True
        self.wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped:
            self._wanted.clear()
            self._wanted.wait(self.step())

    def step(self) -> float:
        """Bring the slot up to date, if that can be done; returns after how many seconds to look again."""
        try:
            self.catch_up()
        except (ModelyardError, LoaderBroken, OSError) as error:
            self._will_retry(str(error))
        except Exception as error:
            # The border of the thread: what nobody foresaw must not end the following of this model.
            if not self._stopped:
                log.exception("model %s: unexpected error", self.slot.name)
            self._will_retry(f"unexpected {type(error).__name__}")
        else:
            self._failing = False
            self._backoff.reset()
            return spread(self._workshop.settings.poll_s)
        return self._backoff.pause_s()

    def catch_up(self) -> None:
        """One pass of the drawing above; raises what may be tried again."""
        if self._anew:
            self._anew, self._settled = False, _UNSETTLED
        target = self._read()
        if target.generation <= self._settled:
            self._look_after()
        elif target.number is None:
            self._vacate(target)
        else:
            self._serve(self._upstream.version(self.ref.model, target.number), target)

    def _read(self) -> Target:
        if self.ref.number is not None:
            return Target(self.ref.number, 0)
        pointer = self._upstream.pointer(self.ref.model, str(self.ref.pointer))
        return Target(pointer.number, pointer.generation)

    def _look_after(self) -> None:
        """No pointer holds a version that was named directly, so it may be deleted: then this raises, and it stays loaded."""
        if self.ref.number is not None:
            self._upstream.version(self.ref.model, self.ref.number)
        self.slot.settled()

    def _vacate(self, target: Target) -> None:
        note = f"nothing holds {self.ref}" + (", the last version stays" if self.slot.current else "")
        log.warning("model %s: %s", self.slot.name, note)
        self.slot.keep(target.generation, note)
        self._settled = target.generation

    def _serve(self, version: Version, target: Target) -> None:
        if _is(self.slot.current, version):
            self.slot.keep(target.generation)
            self._settled = target.generation
        elif _is(self.slot.previous, version):
            self.slot.swap_back(target.generation)
            self._settled = target.generation
            log.info("model %s: swapped back to version %d", self.slot.name, version.number)
        else:
            self._replace(version, target)

    def _replace(self, version: Version, target: Target) -> None:
        try:
            snapshot = self._workshop.prepare(version, lambda phase: self.slot.trying(version.number, phase))
        except CandidateRejected as error:
            self.slot.failed(version.number, error.phase, str(error), retrying=False)
            self._settled = target.generation
            log.warning(
                "model %s: version %d rejected (%s): %s", self.slot.name, version.number, error.phase, error
            )
            return
        if self._went_back(target):
            snapshot.close()
            return
        self.slot.swap(snapshot, target.generation)
        self._settled = target.generation
        log.info(
            "model %s: serves version %d (%s, %s)",
            self.slot.name,
            version.number,
            snapshot.format,
            snapshot.digest,
        )

    def _went_back(self, target: Target) -> bool:
        """Whether the pointer has moved back to what is current while the candidate was being prepared."""
        if not self._wanted.is_set() or self.slot.current is None:
            return False
        try:
            now = self._read()
        except ModelyardError:
            return False
        return now.generation > target.generation and now.number == self.slot.current.version

    def _will_retry(self, message: str) -> None:
        if not (self._failing or self._stopped):  # once, not at each attempt
            log.warning("model %s: cannot be brought up to date, trying on: %s", self.slot.name, message)
        self._failing = True
        version = self.slot.candidate_version
        self.slot.failed(version, "registry" if version is None else "fetch", message, retrying=True)


def _is(snapshot: Snapshot | None, version: Version) -> bool:
    """By number and digest: a number never gets other content, but a registry may have been replaced by another."""
    return snapshot is not None and (snapshot.version, snapshot.digest) == (version.number, version.digest)
