"""The feed: one thread that hears of moved pointers and wakes the followers concerned.

    synchronise: note the registry's revision ─▶ (follow all: list its models) ─▶ wake every follower
         ▲                                                                            │
         └─ anything fails: pause ── long-poll from that revision on ◀────────────────┘
                                         └▶ pointer.moved ─▶ wake its followers, or follow a model that is new

The revision is noted before the followers read their pointers, so a move in between is seen twice rather than never.
After any interruption everything is synchronised again, also when the registry does not keep events for as long as we were
away; when its revision has gone back, it is another registry or a restored one (or we may see less than before), and the
followers forget which generations they have seen.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from modelyard import Event, ModelyardError, Ref

from serving_adapter.backoff import Backoff
from serving_adapter.follower import Follower
from serving_adapter.prepare import Workshop
from serving_adapter.settings import Following
from serving_adapter.slot import Slot
from serving_adapter.slots import Slots
from serving_adapter.upstream import Upstream

log = logging.getLogger(__name__)

WAIT_S = 10.0
EVENTS_TRIMMED = "events_trimmed"
PRODUCTION = "production"


class Followers:
    """Makes the followers and finds those that an event concerns. Only the feed's thread adds to it after the start."""

    def __init__(self, slots: Slots, upstream: Upstream, workshop: Workshop) -> None:
        self._slots = slots
        self._upstream = upstream
        self._workshop = workshop
        self._followers: dict[str, Follower] = {}

    def follow(self, following: Following) -> None:
        """Start to follow; nothing happens if the name is already taken."""
        if following.name in self._followers:
            return
        slot = Slot(following.name, str(following.ref), following.ref.pointer)
        follower = Follower(slot, following.ref, self._upstream, self._workshop)
        self._followers = {**self._followers, following.name: follower}  # a new dict: others may be iterating
        self._slots.add(slot)
        follower.start()

    def models(self) -> Sequence[str]:
        return sorted({follower.ref.model for follower in self._followers.values()})

    def wake(self, model: str, pointer: str) -> None:
        for follower in self._followers.values():
            if (follower.ref.model, follower.ref.pointer) == (model, pointer):
                follower.wake()

    def each(self, do: Callable[[Follower], object]) -> None:
        for follower in self._followers.values():
            do(follower)

    def stop(self) -> None:
        self.each(Follower.stop)


class FeedReader:
    """One thread for all followers."""

    def __init__(self, upstream: Upstream, followers: Followers, slots: Slots, *, follow_all: bool) -> None:
        self._upstream = upstream
        self._followers = followers
        self._slots = slots
        self._follow_all = follow_all
        self._revision: int | None = None
        self._synchronised = False
        self._failing = False
        self._backoff = Backoff()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the poll that is under way; see `join`."""
        self._stopped.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._stopped.wait(self.step())

    def step(self) -> float:
        """Synchronise, or hear what is new; returns after how many seconds to go on."""
        try:
            if self._synchronised:
                self._listen()
            else:
                self._synchronise()
        except ModelyardError as error:
            if error.code == EVENTS_TRIMMED:
                log.info("the registry has trimmed events that we have not seen, so everything is looked at")
                self._synchronised = False
                return self._backoff.pause_s()
            if not (self._failing or self._stopped.is_set()):  # once, not at each attempt
                log.warning("no good answer from the registry, what is loaded stays: %s", error)
        except Exception:
            # The border of the thread: what nobody foresaw must not end the following of all models.
            if not self._stopped.is_set():
                log.exception("unexpected error while reading the change feed")
        else:
            self._succeeded()
            return 0.0
        self._failing = True
        self._synchronised = False
        return self._backoff.pause_s()

    def _succeeded(self) -> None:
        if self._failing:
            log.info("the registry answers again")
        self._failing = False
        self._backoff.reset()

    def _synchronise(self) -> None:
        self._notice(self._upstream.info().revision)
        if self._follow_all:
            for model in self._upstream.models():
                if any(
                    pointer.name == PRODUCTION and pointer.number is not None for pointer in model.pointers
                ):
                    self._followers.follow(Following(model.name, Ref(model.name, pointer=PRODUCTION)))
            self._slots.listed()
        self._followers.each(Follower.wake)
        self._synchronised = True

    def _listen(self) -> None:
        known = self._revision or 0
        models = () if self._follow_all else self._followers.models()
        feed = self._upstream.events(known, wait_s=WAIT_S, models=models)
        self._notice(feed.revision)
        for event in feed.events:
            if event.kind == "pointer.moved":
                self._pointer_moved(event)

    def _pointer_moved(self, event: Event) -> None:
        pointer = str(event.data.get("pointer"))
        if self._follow_all and pointer == PRODUCTION:
            self._followers.follow(Following(event.model, Ref(event.model, pointer=PRODUCTION)))
        self._followers.wake(event.model, pointer)

    def _notice(self, revision: int) -> None:
        if self._revision is not None and revision < self._revision:
            log.warning("the registry's revision went back from %d to %d", self._revision, revision)
            self._followers.each(Follower.forget)
        self._revision = revision
