"""Collects signs of life and sends them to Redis once per tick, up to 100 in one script call.

A heartbeat that Redis refused or did not answer stays here and goes again, unless its sender asked for an
answer only: a stall must not cost a connected member its place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

from presence.errors import Unavailable
from presence.keys import Keys
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
        self._waiting: list[Touch] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, touch: Touch) -> None:
        """Send with the next tick."""
        if len(self._waiting) >= MAX_WAITING:
            touch.done("dropped")
            return
        self._waiting.append(touch)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def refresh(self, items: Iterable[tuple[int, str, str, int | str]]) -> list[str]:
        """Send (partition, entry, number, ttl) and return each one's word; raises Unavailable."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[str | None]] = []
        for partition, entry, number, ttl in items:
            future: asyncio.Future[str | None] = loop.create_future()
            futures.append(future)
            self.put(Touch(partition, entry, number, ttl, partial(_settle, future)))
        words = [await future for future in futures]
        if None in words or "dropped" in words:
            raise Unavailable("Redis cannot be asked right now; send the heartbeat again")
        return [word for word in words if word is not None]

    async def close(self) -> None:
        """Send what is waiting, once."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failed = False
        try:
            while self._waiting:
                await asyncio.sleep(RETRY_S if failed else TICK_S)
                batch, self._waiting = self._waiting, []
                failed = not await self._send(batch)
        finally:
            self._task = None

    async def _send(self, batch: list[Touch]) -> bool:
        partitions: dict[int, list[Touch]] = defaultdict(list)
        for touch in batch:
            partitions[touch.partition].append(touch)
        calls = []
        for partition, touches in partitions.items():
            for at in range(0, len(touches), BATCH):
                part = touches[at : at + BATCH]
                arguments = [value for t in part for value in (t.entry, t.number, t.ttl)]
                calls.append((part, self._scripts.call("touch", self._keys.script(partition), arguments)))
        answered = True
        for part, reply in calls:
            answered = await self._answer(part, reply) and answered
        return answered

    async def _answer(self, part: list[Touch], reply: asyncio.Future[list[bytes]]) -> bool:
        try:
            words = await reply
        except Unavailable:
            for touch in part:
                touch.done(None)
                if touch.keep is not None and touch.keep():
                    self._waiting.append(touch)
            return False
        self._count(len(part))
        for touch, word in zip(part, words, strict=True):
            try:
                touch.done(word.decode())
            except Exception as error:  # one session's fault must not cost the others their heartbeat
                log.error("heartbeat_failed", error=type(error).__name__)
        return True


def _settle(future: asyncio.Future[str | None], word: str | None) -> None:
    if not future.done():
        future.set_result(word)
