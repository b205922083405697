"""The threads that send webhooks, beside answering requests.

    dispatcher ──(events became deliveries, or one is due)──> senders: claim and deliver until nothing is due
    pruner                                                    hourly

The dispatcher looks when an event was committed here, and every `poll_s` seconds for what other processes left. A sender that has
found work wakes the next, so that as many are at work as there is work for. Half of them leave alone the webhooks that are not
known to be quick: however many of those there are, the others are served at once.
"""

import logging
import threading
from dataclasses import dataclass
from functools import partial

from registry.background import Background
from registry.database import Database
from registry.deliveries import outbox, queue
from registry.deliveries.prune import prune
from registry.deliveries.queue import Rules
from registry.deliveries.sender import Sender
from registry.deliveries.target import Reach
from registry.errors import RegistryError
from registry.settings import Settings
from registry.vault import Vault

PRUNE_INTERVAL_S = 3600

log = logging.getLogger("modelyard.registry")


@dataclass(frozen=True, slots=True)
class Pace:
    """How many deliveries are under way at once, how often to look for more, how long to list those that ended (seconds)."""

    senders: int
    poll_s: float
    keep_s: float


def open_deliveries(settings: Settings, database: Database) -> "Deliveries":
    """What the settings ask for."""
    rules = Rules(
        first_s=settings.webhook_retry_first_s,
        cap_s=settings.webhook_retry_cap_s,
        tries=settings.webhook_tries,
        give_up_s=settings.webhook_give_up_s,
        deactivate_s=settings.webhook_deactivate_s,
    )
    pace = Pace(settings.webhook_senders, settings.webhook_poll_s, settings.webhook_keep_s)
    return Deliveries(database, Reach(settings.webhook_allow), rules, pace)


class Deliveries:
    """Sends webhooks, from `start` to `stop`, unless the pace is 0."""

    def __init__(self, database: Database, reach: Reach, rules: Rules, pace: Pace) -> None:
        self.reach = reach
        self._database = database
        self._rules = rules
        self._pace = pace
        self._dispatcher = Background("webhook-dispatcher", self._dispatch, interval_s=pace.poll_s)
        self._pruner = Background("webhook-pruner", self._prune, interval_s=PRUNE_INTERVAL_S)
        self._slow = threading.BoundedSemaphore(pace.senders // 2)
        self._threads: list[threading.Thread] = []
        self._calls = threading.Semaphore(0)
        self._stopping = threading.Event()

    def start(self, vault: Vault) -> None:
        """Start all threads. The vault opens the webhooks' secrets."""
        if not self._pace.poll_s:
            return
        self._stopping.clear()
        run = partial(self._run, Sender(self._database, vault, self.reach, self._rules))
        for number in range(self._pace.senders):
            thread = threading.Thread(target=run, name=f"webhook-sender-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._dispatcher.start()
        self._pruner.start()

    def wake(self) -> None:
        """There may be something to send."""
        self._dispatcher.wake()

    def stop(self) -> None:
        """Return when no delivery is under way any more; each is over in a few seconds."""
        self._stopping.set()
        self._dispatcher.stop()
        self._pruner.stop()
        for _ in self._threads:
            self._calls.release()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _dispatch(self, _stopping: threading.Event) -> None:
        made = outbox.dispatch(self._database, give_up_s=self._rules.give_up_s)
        if made or queue.is_due(self._database):
            self._calls.release()

    def _prune(self, stopping: threading.Event) -> None:
        prune(self._database, keep_s=self._pace.keep_s, stopping=stopping)

    def _run(self, sender: Sender) -> None:
        while not self._stopping.is_set():
            self._calls.acquire()
            try:
                while not self._stopping.is_set() and self._deliver_one(sender):
                    pass
            except RegistryError as error:
                log.warning("a sender of webhooks stopped, and tries again: %s", error)
            except Exception:
                log.exception("a sender of webhooks failed, and tries again")

    def _deliver_one(self, sender: Sender) -> bool:
        """Claim and deliver; returns whether there was anything to do."""
        slow = self._slow.acquire(blocking=False)
        try:
            claim = queue.claim(self._database, slow=slow)
            if claim is None:
                return False
            self._calls.release()
            if slow and not claim.slow:
                slow = False
                self._slow.release()
            sender.deliver(claim)
            return True
        finally:
            if slow:
                self._slow.release()
