"""The calls to one server: one pipeline at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from presence.addresses import Address
from presence.errors import Unavailable
from presence.refusals import is_read_only
from presence.topology import Topology

RENEW_S = 1.0  # how often connections to a server that turned out to be a replica are opened anew
MAX_PIPELINE = 500
MAX_WAITING = 20_000
WAIT_MS = 500  # for replicas; with the time to write it stays below the time-out
MARK_MS = 60_000

Reply = Any  # nested lists of bytes and integers
Words = Sequence[str | bytes | int]


class Call:
    """One command on its way; `fallback` is sent instead if the server does not know the script."""

    __slots__ = ("asking", "born", "fallback", "future", "key", "moved", "words")

    def __init__(self, key: str, words: Words, fallback: Words | None, future: asyncio.Future[Reply]) -> None:
        self.key = key
        self.words = words
        self.fallback = fallback
        self.future = future
        self.born = time.monotonic()
        self.asking = False
        self.moved = False


class NotConfirmed(Exception):
    """It was written, and too few replicas have said in time that they have it."""


class Lane:
    """The calls to one server."""

    def __init__(
        self,
        address: Address,
        client: redis.asyncio.Redis,
        topology: Topology,
        settle: Callable[[Lane, Call, Reply], None],
        replicas: int,
    ) -> None:
        self.address = address
        self._client = client
        self._topology = topology
        self._settle = settle
        self._replicas = replicas
        self._waiting: list[Call] = []
        self._ended = False
        self._renewed_at = -RENEW_S
        self.sender: asyncio.Task[None] | None = None
        self.away = False

    def put(self, call: Call) -> None:
        """Send with the next pipeline."""
        if self._ended:
            refuse(call.future, "this node is going, or Redis has another primary")
            return
        if len(self._waiting) >= MAX_WAITING:
            refuse(call.future, "too many requests are waiting for Redis")
            return
        self._waiting.append(call)
        if self.sender is None:
            self.sender = asyncio.get_running_loop().create_task(self._send())

    def end(self) -> list[Call]:
        """Send no more; returns what was not sent yet. What is under way has an unknown outcome."""
        self._ended = True
        waiting, self._waiting = self._waiting, []
        return waiting

    async def closed(self) -> None:
        """Cut the connections, and end the pipeline under way."""
        while self.sender is not None and not self.sender.done():
            self.sender.cancel()
            await asyncio.wait([self.sender], timeout=0.1)
        with suppress(RedisError, OSError, TimeoutError):
            await asyncio.wait_for(self._client.aclose(), 1)

    async def _send(self) -> None:
        batch: list[Call] = []
        try:
            while self._waiting:
                await self._topology.confirm()
                if self._ended:
                    break
                batch, self._waiting = self._waiting[:MAX_PIPELINE], self._waiting[MAX_PIPELINE:]
                replies: list[Reply]
                try:
                    replies = await self._execute(batch)
                    self.away = False
                except Exception as error:  # whatever it is: who waits must get an answer
                    self.away = True
                    self._topology.suspect()
                    # Whoever waits behind a server that does not answer has waited long enough, too.
                    batch, self._waiting = batch + self._waiting, []
                    replies = [error] * len(batch)
                if any(is_read_only(reply) for reply in replies) and time.monotonic() - self._renewed_at > RENEW_S:
                    self._renewed_at = time.monotonic()
                    await self._client.connection_pool.disconnect()  # its name may lead to another server by now
                answered, batch = zip(batch, replies, strict=True), []
                unknown = []
                for call, reply in answered:
                    if isinstance(reply, NoScriptError) and call.fallback is not None:
                        unknown.append(call)
                    else:
                        self._settle(self, call, reply)
                for call in unknown:  # it did not run: sending its text cannot run it twice
                    call.words, call.fallback = call.fallback or (), None
                self._waiting[:0] = unknown
        finally:
            self.sender = None
            for call in [*batch, *(self._waiting if self._ended else [])]:
                refuse(call.future, "Redis has another primary now; try again")

    async def _execute(self, batch: list[Call]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for call in batch:
            if call.asking:
                pipeline.execute_command("ASKING")
            pipeline.execute_command(*call.words)
        if self._replicas:
            # A write of our own comes first: in some engines WAIT speaks of what this connection wrote, and what was
            # asked for may have been written before, by a request whose answer was lost.
            pipeline.execute_command("SET", part_of(batch[-1].key) + "}:durable", "1", "PX", MARK_MS)
            pipeline.execute_command("WAIT", self._replicas, WAIT_MS)
        replies = iter(await pipeline.execute(raise_on_error=False))
        found = []
        for call in batch:
            if call.asking:
                next(replies)
            found.append(next(replies))
        if self._replicas:
            mark, confirmed = replies
            if isinstance(mark, Exception) or isinstance(confirmed, Exception) or confirmed < self._replicas:
                return [reply if isinstance(reply, Exception) else NotConfirmed() for reply in found]
        return found


def part_of(key: str) -> str:
    """The part of the data that a key belongs to: up to the end of its hash tag."""
    return key.partition("}")[0]


def refuse(future: asyncio.Future[Reply], why: str) -> None:
    """Answer that it could not be asked, or that nobody knows."""
    if not future.done():
        future.set_exception(Unavailable(why))
        future.exception()  # an abandoned request is no unhandled error
