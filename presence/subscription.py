"""One connection that listens to one primary: the buses of its partitions, its expiries, a canary through both.

The client library reconnects silently and what was published meanwhile is lost, so it is not allowed to: a
connection that fails is given up, a new one subscribes, and then everything is read again from the log. A canary
through the subscription proves that it still delivers; what does not sing for 5 s is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from presence.addresses import Address
from presence.keys import Keys
from presence.logs import get
from presence.topology import Topology

log = get(__name__)

CANARY_S = 1.0
SILENT_S = 5.0
SUBSCRIBE_S = 2.0
RETRY_S = 0.2

Take = Callable[[str, bytes], None]  # channel, message


class Subscription:
    """Listens to the primary at one address until `stop`."""

    def __init__(
        self,
        *,
        topology: Topology,
        address: Address,
        partitions: frozenset[int],
        keys: Keys,
        node: str,
        take: Take,
        subscribed: Callable[[frozenset[int]], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        """`take` gets every message, `subscribed` is awaited after each subscribing, `lost` called after each loss."""
        self.address = address
        self.partitions = partitions
        self.canary = keys.canary(min(partitions), node)
        self._topology = topology
        self._keys = keys
        self._take = take
        self._subscribed = subscribed
        self._lost = lost
        self._heard_bus = self._heard_expiry = -SILENT_S
        self._listening_since = 0.0
        self._told = False
        self._recovering: asyncio.Task[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._listen_for_ever())

    @property
    def delivering(self) -> bool:
        """Whether the subscription delivered its canary within the last 5 s."""
        return time.monotonic() - self._heard_bus < SILENT_S

    @property
    def hears_expiries(self) -> bool:
        """Whether this server's own notifications arrive; without them the sweep alone does the work."""
        return time.monotonic() - self._heard_expiry < SILENT_S

    async def stop(self) -> None:
        """End the connection and what it started."""
        tasks = [self._task, *([self._recovering] if self._recovering else [])]
        while any(not task.done() for task in tasks):
            for task in tasks:
                task.cancel()  # again until it is done: Python 3.11 may swallow one that meets a reply
            await asyncio.wait(tasks, timeout=0.1)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # whatever it is, nobody else listens to this server
                if not self._told:  # once for each loss, not for each attempt
                    log.warning("subscription_lost", error=type(error).__name__, server=str(self.address))
                self._told = True
            self._heard_bus = self._heard_expiry = -SILENT_S
            self._topology.suspect()
            self._lost()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        client = self._topology.client(self.address, None)  # it may be silent; its canary tells if it is dead
        pubsub = client.pubsub()
        reading = None
        try:
            buses = [self._keys.bus(number) for number in self.partitions]
            async with asyncio.timeout(SUBSCRIBE_S):
                if self._keys.sharded:
                    await pubsub.subscribe(self._keys.expired_channel())
                    for name in (*buses, self.canary):  # one each: several slots in one command are CROSSSLOT
                        await pubsub.ssubscribe(name)
                else:
                    await pubsub.subscribe(*buses, self._keys.expired_channel(), self.canary)
            self._listening_since = time.monotonic()
            reading = asyncio.get_running_loop().create_task(self._read(pubsub, len(buses) + 2))
            while not reading.done():
                await asyncio.wait([reading], timeout=CANARY_S)
                newest = max(self._heard_bus, self._listening_since)
                if time.monotonic() - newest > SILENT_S:
                    raise RedisError("the canary did not come back")
            reading.result()
        finally:
            if reading is not None:
                while not reading.done():
                    reading.cancel()
                    await asyncio.wait([reading], timeout=0.1)
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(pubsub.aclose(), 1)  # type: ignore[no-untyped-call]
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(client.aclose(), 1)

    async def _read(self, pubsub: Any, expected: int) -> None:
        confirmed = 0
        async for message in pubsub.listen():
            kind = message["type"]
            if kind in ("message", "smessage"):
                try:
                    self._hear(message["channel"].decode(), message["data"])
                except Exception as error:  # one message, maybe of a newer node, must not end the subscription
                    log.error("bus_message_failed", error=type(error).__name__)
            elif kind in ("subscribe", "ssubscribe"):
                confirmed += 1
                if confirmed > expected:  # only a reconnect behind our back confirms again
                    raise RedisError("the library reconnected")
                if confirmed == expected:
                    self._listening_since = time.monotonic()
                    # A task of its own: whoever reads again must not keep the reader from reading.
                    self._recovering = asyncio.get_running_loop().create_task(self._recover(self._recovering))
                    self._told = False
                    log.info("subscribed", server=str(self.address), partitions=len(self.partitions))
            else:
                raise RedisError("the server took a subscription away: the slot has another primary")
        raise RedisError("the subscription ended")

    async def _recover(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            earlier.cancel()
            await asyncio.wait([earlier])
        await self._subscribed(self.partitions)

    def _hear(self, channel: str, data: bytes) -> None:
        if channel == self.canary:
            self._heard_bus = time.monotonic()
        elif channel.startswith("__keyevent@") and data == self.canary.encode():
            self._heard_expiry = time.monotonic()
        else:
            self._take(channel, data)
