"""Reads the model "race" while others write: sees damage that a look at the end would not."""

import threading
from typing import Any

import httpx2

from tests.servers.app import ADMIN

MODEL = "/api/v1/models/race"


class Witness:
    """`surprises`: what was read that must never be, such as two productions, or a generation that went back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.reads = 0
        self.surprises: list[Any] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        generation = 0
        with httpx2.Client(base_url=self._url, timeout=60, headers=ADMIN) as api:
            while not self._stop.is_set():
                versions = api.get(f"{MODEL}/versions?limit=1000").json()["items"]
                pointer = api.get(f"{MODEL}/pointers/production")
                self.reads += 1
                holders = [each["number"] for each in versions if each["stage"] == "production"]
                seen = pointer.json() if pointer.status_code != 404 else {"generation": generation}
                if len(holders) > 1 or (generation and len(holders) != 1) or seen["generation"] < generation:
                    self.surprises.append((holders, seen))
                generation = seen["generation"]
