"""Named places where a test can make a process wait, fail or die. For tests only: nobody else sets the variable.

    MODELYARD_FAILPOINTS="sweep.before_condemn=sleep:0.2;seal.after=kill;commit.before=raise"

Races that random kills miss for days, a delay at the right place finds at once.
"""

import functools
import os
import signal
import time
from collections.abc import Callable


class FailpointReached(Exception):
    """A test asked for a failure here."""


def failpoint(name: str) -> None:
    """Do what the environment asked for at `name` when the process started: as a rule nothing."""
    if (action := ACTIONS.get(name)) is not None:
        action()


def parse(text: str) -> dict[str, Callable[[], None]]:
    """What to do where. Raises ValueError for what it does not understand: a typo would make a test pass."""
    return {
        name: _action(name, what)
        for name, _, what in (each.partition("=") for each in text.split(";") if each)
    }


def _action(name: str, what: str) -> Callable[[], None]:
    verb, _, seconds = what.partition(":")
    if verb == "sleep":
        return functools.partial(time.sleep, float(seconds))
    if what == "kill":
        return functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    if what == "raise":
        return functools.partial(_fail, name)
    raise ValueError(f"MODELYARD_FAILPOINTS: {name} can do sleep:SECONDS, kill or raise")


def _fail(name: str) -> None:
    raise FailpointReached(name)


ACTIONS = parse(os.environ.get("MODELYARD_FAILPOINTS", ""))
