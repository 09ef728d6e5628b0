"""What somebody sees who sets a key with a ttl for each user and merely subscribes to Redis's `expired`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import redis
import redis.asyncio

PIPELINE = 1000
LIVE_MS = 24 * 3600 * 1000  # nobody need refresh them: how long a key lives does not change how Redis finds the dead
EXPIRED = "__keyevent@0__:expired"


def fill(url: str, count: int) -> None:
    """As many live keys as the other Redis has live sessions."""
    with redis.Redis.from_url(url) as client:
        for start in range(0, count, PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(count, start + PIPELINE)):
                pipeline.set(f"live:{number}", "1", px=LIVE_MS)
            pipeline.execute()


class Subscriber:
    """Notes when it is told that a key expired."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.from_url(url)
        self._pubsub = self._client.pubsub()
        self._reader: asyncio.Task[None] | None = None
        self._deadlines_ms: dict[str, int] = {}
        self._heard_ms: dict[str, float] = {}

    async def start(self) -> None:
        """Listen from now on."""
        await self._pubsub.subscribe(EXPIRED)
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def set(self, name: str, deadline_ms: int) -> None:
        """A key that nobody will refresh."""
        key = f"silent:{name}"
        self._deadlines_ms[key] = deadline_ms
        await self._client.set(key, "1", pxat=deadline_ms)

    async def lags_ms(self, cut_ms: float) -> list[float]:
        """Wait until `cut_ms` after the last deadline; how late each was told, infinite where it was not."""
        last_ms = max(self._deadlines_ms.values())
        while time.time() * 1000 < last_ms + cut_ms and len(self._heard_ms) < len(self._deadlines_ms):
            await asyncio.sleep(0.1)
        lags = [self._heard_ms.get(key, float("inf")) - due for key, due in self._deadlines_ms.items()]
        return [lag if lag <= cut_ms else float("inf") for lag in lags]

    async def stop(self) -> None:
        """End the subscription."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._pubsub.aclose()
        await self._client.aclose()

    async def _read(self) -> None:
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                key = message["data"].decode()
                if key in self._deadlines_ms:
                    self._heard_ms.setdefault(key, time.time() * 1000)
