"""A process that keeps many sessions alive, as the heartbeat part of a node does: joined by the real script, then
refreshed at a third of their ttl in batches of 100. The benchmark's own process stays free to take the time.

Prints `joined N` and `refreshed N lost M` again and again, and ends when its standard input does: so it cannot
outlive whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator

from presence.addresses import parse_redis_url
from presence.keys import Keys, entry
from presence.lanes import Lanes
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings
from presence.topology import make_topology
from presence.tracker import Tracker

JOINS_AT_ONCE = 500
SLICE_S = 0.1
PATIENCE_S = 10.0
ROOM = 100  # members of a channel


def channel_of(number: int) -> str:
    """Channel of a live session."""
    return f"room-{number // ROOM}"


class Crowd:
    """The sessions `first` to `first + count`; each is in one channel, under a user of its own."""

    def __init__(self, tracker: Tracker, first: int, count: int, ttl_ms: int) -> None:
        self._tracker = tracker
        self._first = first
        self._count = count
        self._ttl_ms = ttl_ms
        self._number = str(time.time_ns() // 1000)  # as a connection's would be; one for all of them
        self.joined = 0
        self.refreshed = 0
        self.lost = 0

    async def join(self) -> None:
        """Join all of them, many to a pipeline."""
        while self.joined < self._count:
            numbers = range(self._first + self.joined, self._first + min(self._count, self.joined + JOINS_AT_ONCE))
            await asyncio.gather(*(self._join(number) for number in numbers))
            self.joined += len(numbers)

    async def refresh_for_ever(self) -> None:
        """Touch each session every third of its ttl, those joined so far, a slice at a time."""
        slices = max(1, int(self._ttl_ms / 3000 / SLICE_S))
        due_s = time.monotonic()
        while True:
            for at in range(slices):
                due_s += SLICE_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await self._touch(range(self._count * at // slices, self._count * (at + 1) // slices))

    async def _join(self, number: int) -> None:
        user, session = f"user-{number}", f"session-{number}"
        await self._tracker.join(
            *(channel_of(number), user, session, self._number), ttl_ms=self._ttl_ms, show=False
        )  # no roster is wanted, so Redis need not have been swept by a node yet

    async def _touch(self, numbers: range) -> None:
        words = await self._tracker.heartbeats.refresh(self._touches(numbers))
        self.refreshed += len(words)
        self.lost += sum(word != "ok" for word in words)

    def _touches(self, numbers: range) -> Iterator[tuple[int, str, str, int | str]]:
        for number in (self._first + at for at in numbers if at < self.joined):
            channel = channel_of(number)
            name = entry(channel, f"user-{number}", f"session-{number}")
            yield self._tracker.keys.partition(channel), name, self._number, self._ttl_ms


async def run(options: argparse.Namespace) -> None:
    """Join, refresh, and say how far we are."""
    keys, settings = Keys(options.prefix, options.partitions), Settings()
    guards = [keys.script(number)[0] for number in range(options.partitions)]
    topology = make_topology(parse_redis_url(options.redis), guards)
    await topology.start()
    keys.sharded = topology.sharded
    lanes = Lanes(topology, timeout_s=PATIENCE_S)
    tracker = Tracker(Scripts(lanes), keys, settings, "crowd", Metrics())
    crowd = Crowd(tracker, options.first, options.count, options.ttl_ms)
    await asyncio.gather(crowd.join(), crowd.refresh_for_ever(), _report(crowd, options.count))


async def _report(crowd: Crowd, count: int) -> None:
    while True:
        print(f"joined {crowd.joined}\nrefreshed {crowd.refreshed} lost {crowd.lost}", flush=True)
        await asyncio.sleep(0.2 if crowd.joined < count else 1)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep sessions alive")
    parser.add_argument("--redis", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--ttl-ms", type=int, required=True)
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
