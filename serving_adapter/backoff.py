"""How long to wait before trying again: twice as long each time, up to a limit, and never in step with others."""

import random


class Backoff:
    """Pauses in seconds, growing from `first_s` to at most `most_s`."""

    def __init__(self, first_s: float = 0.2, most_s: float = 15.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """The next pause: a random part, at least half, of one that doubles each time."""
        pause_s = spread(self._next_s)
        self._next_s = min(2 * self._next_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """It worked: the next pause is short again."""
        self._next_s = self._first_s


def spread(seconds: float) -> float:
    """Between half of it and all of it, so that many adapters do not come back at the same moment."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret, only spread
