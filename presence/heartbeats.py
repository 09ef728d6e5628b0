"""Collects signs of life and sends them to Redis once per tick, up to 100 in one script call.

A heartbeat that Redis refused or did not answer stays here and goes again, unless its sender asked for an
answer only: a stall must not cost a connected member its place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from presence.errors import Unavailable
from presence.keys import Keys, entry
from presence.logs import get
from presence.lua import Scripts

log = get(__name__)

TICK_S = 0.005
RETRY_S = 0.1
BATCH = 100
MAX_WAITING = 200_000


class Touch:
    """One sign of life; `done` gets the script's word, None if Redis did not answer, `dropped` if too many wait."""

    __slots__ = ("done", "entry", "keep", "number", "partition", "ttl")

    def __init__(
        self,
        partition: int,
        entry: str,
        number: str,
        ttl: int | str,
        done: Callable[[str | None], None],
        keep: Callable[[], bool] | None = None,
    ) -> None:
        self.partition = partition
        self.entry = entry
        self.number = number
        self.ttl = ttl
        self.done = done
        self.keep = keep  # asked when Redis did not answer: does the sender still want it to go again?


class Heartbeats:
    """One batch per tick for the whole node."""

    def __init__(self, scripts: Scripts, keys: Keys, count: Callable[[int], None] = lambda number: None) -> None:
        self._scripts = scripts
        self._keys = keys
        self._count = count
        self._waiting: dict[int, list[Touch]] = defaultdict(list)
        self._total = 0  # of those that wait
        self._asked: dict[int, set[asyncio.Future[list[bytes]]]] = defaultdict(set)
        self._unanswered: set[int] = set()  # partitions that rest before they are asked again
        self._task: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None

    def put(self, touch: Touch) -> None:
        """Send with the next tick."""
        if self._total >= MAX_WAITING:
            touch.done("dropped")
            return
        if touch.keep is None and touch.partition in self._unanswered:
            touch.done(None)  # who waits for an answer shall not wait for one that does not come
            return
        self._total += 1
        self._waiting[touch.partition].append(touch)
        if self._task is None and touch.partition not in self._asked:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def show_life(self, channel: str, user: str, session: str) -> None:
        """Refresh one session under whatever number it has; nobody waits for the answer."""
        self.put(Touch(self._keys.partition(channel), entry(channel, user, session), "", "", lambda word: None))

    async def refresh(self, items: Iterable[tuple[int, str, str, int | str]]) -> list[str]:
        """Send (partition, entry, number, ttl) and return each one's word; raises Unavailable."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[str | None]] = []
        for partition, name, number, ttl in items:
            future: asyncio.Future[str | None] = loop.create_future()
            futures.append(future)
            self.put(Touch(partition, name, number, ttl, partial(_settle, future)))
        words = [await future for future in futures]
        if None in words or "dropped" in words:
            raise Unavailable("Redis cannot be asked right now; send the heartbeat again")
        return [word for word in words if word is not None]

    async def close(self) -> None:
        """Send what is waiting, and wait until all is answered."""
        while self._task is not None or self._asked:
            calls = [call for calls in self._asked.values() for call in calls]
            tasks = [task for task in (self._task, self._resting) if task is not None]
            under_way: list[asyncio.Future[Any]] = [*calls, *tasks]
            await asyncio.wait(under_way)

    async def _run(self) -> None:
        """One batch per tick and partition. No partition waits for another's answer, so that the servers that live
        are told in time, whichever others stand still."""
        try:
            while self._ready():
                await asyncio.sleep(TICK_S)
                for partition in self._ready():
                    self._send(partition, self._waiting.pop(partition))
        finally:
            self._task = None

    def _ready(self) -> list[int]:
        return [partition for partition in self._waiting if partition not in self._asked]

    def _send(self, partition: int, touches: list[Touch]) -> None:
        self._total -= len(touches)
        parts = [touches[at : at + BATCH] for at in range(0, len(touches), BATCH)]
        calls = []
        for part in parts:
            arguments = [value for t in part for value in (t.entry, t.number, t.ttl)]
            reply = self._scripts.call("touch", self._keys.script(partition), arguments)
            calls.append(asyncio.ensure_future(reply))
        self._asked[partition].update(calls)
        for part, call in zip(parts, calls, strict=True):
            call.add_done_callback(partial(self._answered, partition, part))

    def _answered(self, partition: int, part: list[Touch], reply: asyncio.Future[list[bytes]]) -> None:
        try:
            self._tell(partition, part, reply)
        finally:
            self._asked[partition].discard(reply)
            if not self._asked[partition]:
                self._go_on(partition)

    def _tell(self, partition: int, part: list[Touch], reply: asyncio.Future[list[bytes]]) -> None:
        if reply.cancelled() or isinstance(reply.exception(), Unavailable):
            self._unanswered.add(partition)
            for touch in part:
                touch.done(None)
                if touch.keep is not None and touch.keep():
                    self.put(touch)
        else:
            self._count(len(part))
            for touch, word in zip(part, reply.result(), strict=True):
                try:
                    touch.done(word.decode())
                except Exception as error:  # one session's fault must not cost the others their heartbeat
                    log.error("heartbeat_failed", error=type(error).__name__)

    def _go_on(self, partition: int) -> None:
        if partition in self._unanswered:
            self._resting = self._resting or asyncio.get_running_loop().create_task(self._rest())
            return
        del self._asked[partition]
        if partition in self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _rest(self) -> None:
        try:
            while resting := {partition for partition in self._unanswered if not self._asked[partition]}:
                await asyncio.sleep(RETRY_S)
                self._unanswered -= resting
                for partition in resting:
                    self._go_on(partition)
        finally:
            self._resting = None


def _settle(future: asyncio.Future[str | None], word: str | None) -> None:
    if not future.done():
        future.set_result(word and word.partition(" ")[0])
