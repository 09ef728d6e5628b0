"""Deadlines of connections (pings, silence, the end of a closing handshake) without a loop timer for any of
them.

Before changing it: an entry costs one small object and a place in a list; a deadline is kept to the tick (50
ms), never early. Moving an entry to a later time is free: it is put into its new place when the old one comes
up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from presence import logs

TICK_S = 0.05
NEVER = float("-inf")  # of a moment (monotonic)
STALL_S = 0.25  # a busy loop is late by some ms at every tick; only a longer gap means that it stood still

log = logs.get(__name__)


class Entry:
    """One deadline. After it came up (or was cancelled) it rests until it is moved again."""

    __slots__ = ("_place", "callback", "due")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback
        self.due = 0  # tick at which to call; 0: rests
        self._place = 0  # tick under which the wheel holds it; an older place is stale

    def cancel(self) -> None:
        """Never call it again, and let go of what the callback holds; the wheel forgets the entry in
        passing."""
        self.callback = None
        self.due = 0


class Wheel:
    """Entries by the tick in which they come up, and one coroutine that turns it.

    `awake_s` is a coarse clock that stands still while the process did (a frozen process must not take its
    clients for silent); `stalled_at` is when it last went on after that (`NEVER`: it did not).
    """

    def __init__(self, tick_s: float = TICK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.awake_s = 0.0
        self.stalled_at = NEVER
        self._tick_s = tick_s
        self._clock = clock
        self._start = self._turned = clock()
        self._tick = 0
        self._places: dict[int, list[Entry]] = {}

    def add(self, delay_s: float, callback: Callable[[], None]) -> Entry:
        """Call `callback` once, `delay_s` from now."""
        entry = Entry(callback)
        self.move(entry, delay_s)
        return entry

    def move(self, entry: Entry, delay_s: float) -> None:
        """Let the entry come up `delay_s` from now instead, whether it rests, waits or has come up before."""
        if entry.callback is None:
            return
        due = self._after(delay_s)
        entry.due = due
        if entry._place <= self._tick or due < entry._place:
            entry._place = due
            self._places.setdefault(due, []).append(entry)

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._places.values())

    async def run(self) -> None:
        """Turn the wheel until cancelled: the only timer of all connections."""
        while True:
            await asyncio.sleep(max(0.0, self._start + (self._tick + 1) * self._tick_s - self._clock()))
            self.turn()

    def turn(self) -> None:
        """Call what has come up until now."""
        now = self._clock()
        self._note_stall(now)
        last = int((now - self._start) / self._tick_s)
        while self._tick < last:
            self._tick += 1
            entries = self._places.pop(self._tick, None)
            if entries:
                self._call(entries)

    def _after(self, delay_s: float) -> int:
        """The first tick that ends at least `delay_s` from now, at least the next one."""
        return max(self._tick, int((self._clock() - self._start + delay_s) / self._tick_s)) + 1

    def _note_stall(self, now: float) -> None:
        gap = now - self._turned
        self._turned = now
        if gap > STALL_S:
            self.stalled_at = now
            gap = self._tick_s
        self.awake_s += gap

    def _call(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry._place != self._tick or entry.callback is None or not entry.due:
                continue
            if entry.due > self._tick:
                entry._place = entry.due
                self._places.setdefault(entry.due, []).append(entry)
                continue
            entry.due = 0
            try:
                entry.callback()
            except Exception as error:  # one connection's fault must not stop the pings of all others
                log.error("wheel_callback_failed", error=type(error).__name__)
