"""Brings the announcements of all partitions to this node, and knows whether it really hears them.

Events, control messages and expiries come in here and nowhere else: over one subscription for each primary, as
notifications never leave the server on which a key expires.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress

from presence.addresses import Address
from presence.events import Event, parse_event
from presence.keys import Keys
from presence.lanes import Lanes
from presence.metrics import Metrics
from presence.subscription import CANARY_S, Subscription
from presence.topology import Topology

CANARY_KEY_MS = 200

ControlHandler = Callable[[list[str]], None]


class Broker:
    """One subscription for each primary, following the topology."""

    def __init__(self, topology: Topology, singer: Lanes, keys: Keys, node: str, metrics: Metrics) -> None:
        self._topology = topology
        self._singer = singer
        self._keys = keys
        self._node = node
        self._metrics = metrics
        self._subscriptions: dict[tuple[Address, frozenset[int]], Subscription] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._arrange_again = asyncio.Event()
        self._sing_now = asyncio.Event()
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_control: ControlHandler = lambda parts: None
        self.on_lapse: Callable[[int, str], None] = lambda partition, entry: None
        self.on_subscribed: Callable[[frozenset[int]], Awaitable[None]] = _nothing
        topology.on_change.append(self._arrange_again.set)

    @property
    def delivering(self) -> bool:
        """Whether every partition has a subscription that delivered its canary within the last 5 s."""
        living = [sub.partitions for sub in self._subscriptions.values() if sub.delivering]
        return sum(map(len, living)) == self._keys.partitions

    @property
    def hears_expiries(self) -> bool:
        """Whether the notifications of every primary arrive; without them the sweep alone does the work."""
        subscriptions = self._subscriptions.values()
        return bool(subscriptions) and all(sub.hears_expiries for sub in subscriptions)

    def hears(self, partition: int) -> bool:
        """Whether the notifications of this partition's primary arrive."""
        return any(sub.hears_expiries for sub in self._subscriptions.values() if partition in sub.partitions)

    def start(self) -> None:
        """Listen and sing until `stop`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow_topology()), loop.create_task(self._sing_for_ever())]

    async def stop(self) -> None:
        """End the loops and the subscriptions."""
        while any(not task.done() for task in self._tasks):
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.1)
        await asyncio.gather(*(sub.stop() for sub in self._subscriptions.values()))

    async def _follow_topology(self) -> None:
        while True:
            self._arrange_again.clear()
            wanted = self._wanted()
            gone = [self._subscriptions.pop(place) for place in self._subscriptions.keys() - wanted]
            for address, partitions in wanted - self._subscriptions.keys():
                self._subscriptions[address, partitions] = Subscription(
                    topology=self._topology,
                    address=address,
                    partitions=partitions,
                    keys=self._keys,
                    node=self._node,
                    take=self._take,
                    subscribed=self._subscribed,
                    lost=self._metrics.subscription_gaps.inc,
                )
            await asyncio.gather(*(sub.stop() for sub in gone))
            await self._arrange_again.wait()

    async def _subscribed(self, partitions: frozenset[int]) -> None:
        self._sing_now.set()  # it delivers as soon as it was heard once
        await self.on_subscribed(partitions)

    def _wanted(self) -> set[tuple[Address, frozenset[int]]]:
        partitions: dict[Address, set[int]] = defaultdict(set)
        for number in range(self._keys.partitions):
            home = self._topology.home(self._keys.script(number)[0])
            if home is not None:
                partitions[home].add(number)
        return {(address, frozenset(numbers)) for address, numbers in partitions.items()}

    def _take(self, channel: str, data: bytes) -> None:
        if channel.startswith("__keyevent@"):
            lapsed = self._keys.lapsed(data.decode("utf-8", "replace"))
            if lapsed is not None:
                self.on_lapse(*lapsed)
        elif data.startswith(b"event\x1f"):
            self.on_event(parse_event(data.split(b"\x1f", 10)))
        else:
            self.on_control(data.decode().split("\x1f"))

    async def _sing_for_ever(self) -> None:
        """Publish to ourselves, and let a key of ours expire, once a second on every primary."""
        publish = "SPUBLISH" if self._keys.sharded else "PUBLISH"
        while True:
            for canary in [sub.canary for sub in self._subscriptions.values()]:
                # Nobody waits for the answers: what counts is the echo.
                self._singer.send(canary, publish, canary, "1")
                self._singer.send(canary, "GET", canary)  # touched after its time: that makes Redis say `expired`
                self._singer.send(canary, "SET", canary, "1", "PX", CANARY_KEY_MS)
            self._metrics.keyspace_events_up.set(1 if self.hears_expiries else 0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sing_now.wait(), CANARY_S)
            self._sing_now.clear()


async def _nothing(partitions: frozenset[int]) -> None:
    return None
