"""Watching the feed: one answer to a long poll, or a stream of them.

    begin: is this place one of this feed, and is all of it kept? ─▶ what is after it
    next:  look ─▶ something? ─▶ there it is
             ▲         └▶ wait for news, a look at the rights, or the end of the time ─┐
             └──────────────────────────────────────────────────────────────────────────┘

What a watcher may see is looked at again every few seconds, so that it ends with the right to it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from registry.access import Caller
from registry.domain import MAX_SIZE
from registry.errors import DatabaseUnavailable, RevisionUnknown
from registry.events import Look, Wanted
from registry.feed import Feed, Told, Watcher

RIGHTS_S = 2.0
"""A right that was taken away is noticed within this time, and that for which rights are remembered (identify.py)."""

_RIGHTS_AGAIN_S = 0.5

HEARTBEAT_S = 15.0
PAGE = 32
"""Events that a stream sends at a time: no more wait in memory for a slow reader."""

LookAgain = Callable[[], Awaitable[Caller]]
"""The caller, with the rights that it has by now; raises what answers one without."""


async def poll(
    feed: Feed,
    since: int,
    wanted: Wanted,
    *,
    limit: int,
    wait_s: float,
    look_again: LookAgain,
    gone: "asyncio.Future[None]",
) -> Look[Told]:
    """What came after revision `since`: at once when there is something, else after `wait_s` seconds at most.

    Ends early when the server stops, or the caller is `gone`. Raises EventsTrimmed, TooManyWatchers, DatabaseUnavailable.
    """
    place = await _begin(feed, since, wanted, limit, now=not wait_s)
    if place.events or not wait_s or place.revision < since:
        return place
    with feed.watcher(wanted) as watcher:
        gone.add_done_callback(lambda _: watcher.dismiss())
        place = await _next(feed, watcher, place, limit, wait_s, _Rights(wanted.caller, look_again))
    if place.events or feed.closed or gone.done():
        return place
    await feed.refresh()  # nothing has happened until now, and an outage does not look like it
    if watcher.dismissed:
        return await feed.look(since, watcher.wanted, limit)
    return await feed.look_on(place, watcher.wanted, limit)


async def stream(
    feed: Feed, since: int | None, wanted: Wanted, *, most_s: float, look_again: LookAgain
) -> AsyncGenerator[Look[Told]]:
    """What comes after revision `since` (None: after now), page by page; a page without events is a heartbeat.

    Ends after `most_s` seconds, or when the server stops. Raises EventsTrimmed, RevisionUnknown, TooManyWatchers, DatabaseUnavailable.
    """
    end = time.monotonic() + most_s
    place = await _begin(feed, MAX_SIZE if since is None else since, wanted, PAGE, now=since is None)
    if since is not None and place.revision < since:
        raise RevisionUnknown(place.revision)
    rights = _Rights(wanted.caller, look_again)
    with feed.watcher(wanted) as watcher:
        yield place
        while not watcher.dismissed and (left_s := end - time.monotonic()) > 0:
            place = await _next(feed, watcher, place, PAGE, min(HEARTBEAT_S, left_s), rights)
            if not place.events and not watcher.dismissed:
                await feed.refresh()
            yield place


async def _begin(feed: Feed, since: int, wanted: Wanted, limit: int, *, now: bool) -> Look[Told]:
    # This process may be the last to hear of what another one has already told.
    if now or not feed.has(since):
        await feed.refresh()
    return await feed.look(since, wanted, limit)


async def _next(
    feed: Feed, watcher: Watcher, place: Look[Told], limit: int, wait_s: float, rights: "_Rights"
) -> Look[Told]:
    deadline = time.monotonic() + wait_s
    while True:
        watcher.wanted = replace(watcher.wanted, caller=await rights.caller())
        place = await feed.look_on(place, watcher.wanted, limit)
        left_s = deadline - time.monotonic()
        if place.events or watcher.dismissed or left_s <= 0:
            return place
        await watcher.wait(min(left_s, rights.due_in_s()))


class _Rights:
    def __init__(self, caller: Caller, look_again: LookAgain) -> None:
        self._caller = caller
        self._look_again = look_again
        self._due = time.monotonic() + RIGHTS_S

    def due_in_s(self) -> float:
        return max(0.0, self._due - time.monotonic())

    async def caller(self) -> Caller:
        if not self.due_in_s():
            try:
                self._caller = await self._look_again()
                self._due = time.monotonic() + RIGHTS_S
            except DatabaseUnavailable:  # then there are no events to read either
                self._due = time.monotonic() + _RIGHTS_AGAIN_S
        return self._caller
