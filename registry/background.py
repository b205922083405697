"""Work that a registry does by itself, beside answering requests: a thread that looks whether there is any."""

import logging
import threading
from collections.abc import Callable

from registry.errors import RegistryError
from storage.errors import StorageError

log = logging.getLogger("modelyard.registry")


class Background:
    """Calls `work` every `interval_s` seconds (0: never), and when woken. The event is set when it is to stop."""

    def __init__(self, name: str, work: Callable[[threading.Event], object], *, interval_s: float) -> None:
        self._name = name
        self._work = work
        self._interval_s = interval_s
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start waiting; may be called again after `stop`."""
        if self._interval_s:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """There may be work."""
        self._awake.set()

    def stop(self) -> None:
        """Return when the work at hand was finished or given up."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.wait(self._interval_s)
            self._awake.clear()
            try:
                if not self._stopping.is_set():
                    self._work(self._stopping)
            except (StorageError, RegistryError) as error:
                log.warning("the %s stopped, and tries again: %s", self._name, error)
            except Exception:
                log.exception("the %s failed, and tries again", self._name)
