"""The node's one subscription: events, control messages and expiries come in here and nowhere else.

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

import redis.asyncio
from redis.exceptions import RedisError

from presence.events import Event, parse_event
from presence.keys import Keys
from presence.logs import get
from presence.metrics import Metrics

log = get(__name__)

CANARY_S = 1.0
SILENT_S = 5.0
SUBSCRIBE_S = 2.0
CANARY_KEY_MS = 200
RETRY_S = 0.2

ControlHandler = Callable[[list[str]], None]


class Broker:
    """Reads the buses of all partitions and Redis' expiries, and knows whether it really hears them."""

    def __init__(
        self, client: redis.asyncio.Redis, singer: redis.asyncio.Redis, keys: Keys, node: str, metrics: Metrics
    ) -> None:
        self._client = client
        self._singer = singer  # with a timeout: a half-open connection must not silence the canary for good
        self._keys = keys
        self._canary = keys.canary(0, node)
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._recovering: asyncio.Task[None] | None = None
        self._heard_bus = -SILENT_S
        self._heard_expiry = -SILENT_S
        self._listening_since = 0.0
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_control: ControlHandler = lambda parts: None
        self.on_lapse: Callable[[int, str], None] = lambda partition, entry: None
        self.on_subscribed: Callable[[], Awaitable[None]] = _nothing

    @property
    def delivering(self) -> bool:
        """Whether the subscription delivered its canary within the last 5 s."""
        return time.monotonic() - self._heard_bus < SILENT_S

    @property
    def hears_expiries(self) -> bool:
        """Whether Redis' own notifications arrive; without them the sweep alone does the work."""
        return time.monotonic() - self._heard_expiry < SILENT_S

    def start(self) -> None:
        """Listen and sing until `stop`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._listen_for_ever()), loop.create_task(self._sing_for_ever())]

    async def stop(self) -> None:
        """End both loops."""
        tasks = [*self._tasks, *([self._recovering] if self._recovering else [])]
        while any(not task.done() for task in tasks):
            for task in tasks:
                task.cancel()  # again until it is done: Python 3.11 may swallow one that meets a reply
            await asyncio.wait(tasks, timeout=0.1)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except (TimeoutError, RedisError, OSError) as error:
                log.warning("subscription_lost", error=type(error).__name__)
            self._heard_bus = self._heard_expiry = -SILENT_S
            self._metrics.subscription_gaps.inc()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        pubsub = self._client.pubsub()
        reading = None
        try:
            names = [self._keys.bus(number) for number in range(self._keys.partitions)]
            await asyncio.wait_for(pubsub.subscribe(*names, self._keys.expired_channel(), self._canary), SUBSCRIBE_S)
            self._listening_since = time.monotonic()
            reading = asyncio.get_running_loop().create_task(self._read(pubsub, len(names) + 2))
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

    async def _read(self, pubsub: Any, expected: int) -> None:
        confirmed = 0
        async for message in pubsub.listen():
            kind = message["type"]
            if kind == "message":
                try:
                    self._take(message["channel"].decode(), message["data"])
                except Exception as error:  # one message, maybe of a newer node, must not end the subscription
                    log.error("bus_message_failed", error=type(error).__name__)
            elif kind == "subscribe":
                confirmed += 1
                if confirmed > expected:  # only a reconnect behind our back confirms again
                    raise RedisError("the library reconnected")
                if confirmed == expected:
                    self._listening_since = time.monotonic()
                    self._recovering = asyncio.get_running_loop().create_task(self._recover())
                    log.info("subscribed", partitions=self._keys.partitions)
        raise RedisError("the subscription ended")

    async def _recover(self) -> None:
        # A task of its own: whoever reads again must not keep the reader from reading.
        await self.on_subscribed()

    def _take(self, channel: str, data: bytes) -> None:
        if channel.startswith("__keyevent@"):
            key = data.decode("utf-8", "replace")
            if key == self._canary:
                self._heard_expiry = time.monotonic()
                return
            lapsed = self._keys.lapsed(key)
            if lapsed is not None:
                self.on_lapse(*lapsed)
        elif channel == self._canary:
            self._heard_bus = time.monotonic()
        elif data.startswith(b"event\x1f"):
            self.on_event(parse_event(data.split(b"\x1f", 10)))
        else:
            self.on_control(data.decode().split("\x1f"))

    async def _sing_for_ever(self) -> None:
        """Publish to ourselves, and let a key of ours expire, once a second."""
        while True:
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                pipeline = self._singer.pipeline(transaction=False)
                pipeline.publish(self._canary, "1")
                pipeline.get(self._canary)  # touched after its time: that makes Redis say `expired`
                pipeline.set(self._canary, "1", px=CANARY_KEY_MS)
                await pipeline.execute()
            self._metrics.keyspace_events_up.set(1 if self.hears_expiries else 0)
            await asyncio.sleep(CANARY_S)


async def _nothing() -> None:
    return None
