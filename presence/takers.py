"""Who waits for work: long-polls of queues, woken by the events that this node hears.

Of the takers of one queue the one that waits longest listens; the others stand behind it. It asks the partitions from
which an event was heard, and all of them once a second: a lease ends without a word, and a message may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Any

from presence.errors import PresenceError
from presence.events import Event
from presence.keys import Keys, fed
from presence.queues import PartlyAway, Queues

EVERYWHERE_S = 1.0
PAUSE_S = 0.01  # between two questions of one taker: an event that the queue does not want costs no more than that


class _Line:
    """The takers of one queue on this node."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Event] = deque()
        self.heard: set[int] = set()

    def wake(self) -> None:
        if self.waiting:
            self.waiting[0].set()


class Takers:
    """Takes from queues, and waits where there is nothing."""

    def __init__(self, queues: Queues, keys: Keys) -> None:
        self._queues = queues
        self._keys = keys
        self._lines: dict[str, _Line] = {}
        self._ended = False
        self._giving_back: set[asyncio.Task[None]] = set()
        self.answering = 0  # requests whose answer is not written yet

    def heard_event(self, event: Event) -> None:
        """Wake those to whom this may matter."""
        if not fed(event.channel):
            return
        for line in self._lines.values():
            line.heard.add(self._keys.partition(event.channel))
            line.wake()

    def stop(self) -> None:
        """Let nobody wait any more: this node is going."""
        self._ended = True
        for line in self._lines.values():
            for bell in line.waiting:
                bell.set()

    async def take(self, group: str, consumer: str, count: int, wait_ms: int, lease_ms: int) -> list[dict[str, Any]]:
        """As `Queues.take`; where nothing is there, wait up to `wait_ms` for it. A part of Redis that is away does not
        end the waiting for the others."""
        ends = time.monotonic() + wait_ms / 1000
        line = self._lines.setdefault(group, _Line())
        bell = asyncio.Event()
        events: list[dict[str, Any]] = []
        trouble: PartlyAway | None = None
        line.waiting.append(bell)
        try:
            if line.waiting[0] is bell or wait_ms == 0:
                events, trouble = await self._ask_line(line, group, consumer, count, lease_ms, None)
            while not events and not self._ended and (left_s := ends - time.monotonic()) > 0:
                first = line.waiting[0] is bell
                await _rung(bell, min(left_s, EVERYWHERE_S) if first else left_s)
                if line.waiting[0] is not bell:
                    continue
                heard, line.heard = line.heard, set()
                events, away = await self._ask_line(line, group, consumer, count, lease_ms, heard or None)
                trouble = away if not heard else trouble or away
                if not events:
                    await asyncio.sleep(PAUSE_S)
        finally:
            line.waiting.remove(bell)
            if line.waiting:
                line.wake()
            else:
                del self._lines[group]
        if trouble is not None and not events:
            raise trouble
        return events

    async def give_back(self, group: str, consumer: str, events: list[dict[str, Any]]) -> None:
        """Let others have what nobody is there to take; where Redis cannot be asked, its lease ends by itself."""
        if events:
            with suppress(PresenceError):
                await self._queues.settle(group, consumer, "release", [event["id"] for event in events])

    async def _ask_line(
        self, line: _Line, group: str, consumer: str, count: int, lease_ms: int, partitions: set[int] | None
    ) -> tuple[list[dict[str, Any]], PartlyAway | None]:
        """Ask for this line: what it is given, or that a part of Redis is away."""
        try:
            events, more = await self._ask(group, consumer, count, lease_ms, partitions)
        except PartlyAway as problem:
            return [], problem
        line.heard |= more
        return events, None

    async def _ask(
        self, group: str, consumer: str, count: int, lease_ms: int, partitions: set[int] | None
    ) -> tuple[list[dict[str, Any]], set[int]]:
        """As `Queues.take`; who goes meanwhile takes nothing along."""
        asking = asyncio.ensure_future(self._queues.take(group, consumer, count, lease_ms, partitions))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: self._come_too_late(group, consumer, done))
            raise

    def _come_too_late(
        self, group: str, consumer: str, asked: asyncio.Future[tuple[list[dict[str, Any]], set[int]]]
    ) -> None:
        if not asked.cancelled() and asked.exception() is None:
            task = asyncio.get_running_loop().create_task(self.give_back(group, consumer, asked.result()[0]))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)


async def _rung(bell: asyncio.Event, within_s: float) -> None:
    """Wait for the bell, and make it ready to ring again."""
    try:
        await asyncio.wait_for(bell.wait(), within_s)
    except TimeoutError:
        return
    bell.clear()
