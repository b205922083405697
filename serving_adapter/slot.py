"""The slot of one model: the version in use, the one before it, and what became of the last candidate.

                fetch ▶ select ▶ load ▶ example
    candidate ─────────────────────────────────▶ current ──next swap──▶ previous ──next swap──▶ retired
        │ rejected                                  ▲                      │ (warm)                │ no request
        ▼                                           └──────swap back───────┘                       ▼ inside it
    last_error; current stays                                                                    closed

A request takes the current snapshot once, with `acquire`, and gives it back with `release`; everything that it says
about the version comes from that snapshot. A swap is one assignment under a lock that is held for a few instructions.
"""

import ctypes
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelyard._cache_lock import Hold

from serving_adapter.errors import NotReady
from serving_adapter.model import Model


@dataclass(slots=True)
class _Uses:
    """How many requests are inside a model, and whether it is to be closed after the last."""

    count: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version in service. Immutable; only the count of its uses moves, and only the slot moves it.

    `pin` keeps its files in the cache. Each snapshot has its own: two slots may serve the same version.
    """

    version: int
    digest: str
    format: str
    model: Model
    pin: Hold | None = field(default=None, repr=False, compare=False)
    uses: _Uses = field(default_factory=_Uses, repr=False, compare=False)

    def close(self) -> None:
        """Unload the model and let its files go; once, and only when no request is inside."""
        self.model.close()
        if self.pin is not None:
            self.pin.close()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version is not being served; `retrying` when the fault is not the version's, and it is tried again."""

    version: int | None
    phase: str
    message: str
    retrying: bool
    at: str


class Slot:
    """What answers for one model. Requests and the model's follower meet here, and nowhere else."""

    def __init__(self, name: str, follows: str, pointer: str | None = None) -> None:
        self.name = name
        self.follows = follows
        self.pointer = pointer
        self._lock = threading.Lock()
        self._current: Snapshot | None = None
        self._previous: Snapshot | None = None
        self._generation = 0
        self._since = ""
        self._candidate: tuple[int, str] | None = None
        self._rejection: Failure | None = None
        self._trouble: Failure | None = None  # hides the rejection until it is over
        self._note: str | None = None
        self._requests = self._failures = self._swaps = 0

    @property
    def current(self) -> Snapshot | None:
        return self._current

    @property
    def previous(self) -> Snapshot | None:
        return self._previous

    @property
    def candidate_version(self) -> int | None:
        """The version that is being prepared at the moment."""
        return self._candidate[0] if self._candidate else None

    @property
    def tried(self) -> bool:
        """Whether there has been an outcome, good or bad."""
        return self._current is not None or self._failure is not None

    # ── requests

    def acquire(self) -> Snapshot:
        """The version that answers this request; it stays loaded until `release`. Raises NotReady."""
        with self._lock:
            snapshot = self._current
            if snapshot is not None:
                snapshot.uses.count += 1
                self._requests += 1
                return snapshot
        raise NotReady(self.why_not_ready())

    def release(self, snapshot: Snapshot, *, failed: bool = False) -> None:
        with self._lock:
            self._failures += failed
            snapshot.uses.count -= 1
            unused = snapshot.uses.retired and snapshot.uses.count == 0
        if unused:
            _unload(snapshot)

    def why_not_ready(self) -> str:
        failure = self._failure
        reason = failure.message if failure else self._note
        return f"model '{self.name}' has no version loaded" + (f": {reason}" if reason else "")

    # ── the follower

    def swap(self, snapshot: Snapshot, generation: int) -> None:
        """Answer with `snapshot` from now on. What was current stays warm; what was previous is unloaded once unused."""
        with self._lock:
            retired, self._previous, self._current = self._previous, self._current, snapshot
            self._settle(generation)
            self._swaps += 1
            unused = retired is not None and self._retire(retired)
        if retired is not None and unused:
            _unload(retired)

    def swap_back(self, generation: int) -> None:
        """Answer with the previous version again: nothing is loaded, so this cannot fail."""
        with self._lock:
            self._current, self._previous = self._previous, self._current
            self._settle(generation)
            self._swaps += 1

    def keep(self, generation: int, note: str | None = None) -> None:
        """The pointer has moved, and the current version is still the right one."""
        with self._lock:
            self._generation = generation
            self._candidate = None
            self._note = note
            self._trouble = None  # what was to be tried again is no longer wanted

    def settled(self) -> None:
        """The registry has been asked, and there is nothing to do."""
        with self._lock:
            self._trouble = None

    def close(self) -> None:
        """Unload everything; only after the last request."""
        with self._lock:
            gone = [snapshot for snapshot in (self._current, self._previous) if snapshot is not None]
            self._current = self._previous = None
        for snapshot in gone:
            snapshot.close()

    @property
    def _failure(self) -> Failure | None:
        return self._trouble or self._rejection

    def _settle(self, generation: int) -> None:
        self._generation, self._since = generation, _now()
        self._candidate = self._rejection = self._trouble = self._note = None

    def _retire(self, snapshot: Snapshot) -> bool:
        snapshot.uses.retired = True
        return snapshot.uses.count == 0

    # ── reporting

    def trying(self, version: int, phase: str) -> None:
        self._candidate = (version, phase)  # one assignment: no lock

    def failed(self, version: int | None, phase: str, message: str, *, retrying: bool) -> None:
        with self._lock:
            self._candidate = None
            failure = Failure(version, phase, message, retrying, _now())
            if retrying:
                self._trouble = failure
            else:
                self._rejection, self._trouble = failure, None

    def status(self) -> dict[str, Any]:
        with self._lock:
            return {
                "follows": self.follows,
                "current": _facts(self._current, since=self._since, generation=self._generation),
                "previous": _facts(self._previous),
                "candidate": self._candidate
                and dict(zip(("version", "phase"), self._candidate, strict=True)),
                "last_error": None if self._failure is None else asdict(self._failure),
                "note": self._note,
                "requests": self._requests,
                "failures": self._failures,
                "swaps": self._swaps,
            }


def _facts(snapshot: Snapshot | None, **more: Any) -> dict[str, Any] | None:
    if snapshot is None:
        return None
    return {"version": snapshot.version, "digest": snapshot.digest, "format": snapshot.format, **more}


def _unload(snapshot: Snapshot) -> None:
    snapshot.close()
    # glibc keeps freed memory for itself: without this, each reload seems to leak a model.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
