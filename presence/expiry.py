"""Notices silence: one loop for all sessions of all nodes, and no timer for any of them.

Redis' `expired` notification triggers a claim; the sweep of the deadline index guarantees it. Every node sweeps,
and the script returns at once when another has just done so. What a sweep finds due it only touches, so that
Redis notifies; what is overdue by more than the patience it claims itself. Without notifications the patience
is zero.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from presence.announcing import announcing
from presence.errors import Unavailable
from presence.keys import SCHEMA, Keys
from presence.lane import Reply
from presence.logs import get
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings

log = get(__name__)

SWEEP_S = 0.050
ROUND_S = 0.050  # how long a round waits for the servers that have not answered
PATIENCE_MS = 100
BATCH = 100
UNBORN_S = 0.2  # a node that knows no birth waits this long for another's before it makes one
UP_S = 2.0


@dataclass
class Partition:
    """What this node knows of one partition."""

    number: int
    birth: str = ""
    replication: str = ""
    first_asked: float | None = None
    settling: bool = False
    asked: bool = False
    asked_at: float = 0.0
    full: bool = False
    left: int = 0
    swept_at: float = field(default=-UP_S)


class Expiry:
    """Sweeps and claims; tells `on_lost_data` of partitions that Redis may have rolled back, `on_trouble` of
    stalls, `on_ended` who was announced as gone."""

    def __init__(
        self, scripts: Scripts, keys: Keys, settings: Settings, metrics: Metrics, hears: Callable[[int], bool]
    ) -> None:
        """`hears`: whether the notifications of a partition's server arrive."""
        self._scripts = scripts
        self._keys = keys
        self._settings = settings
        self._metrics = metrics
        self._hears = hears
        self._partitions = [Partition(number) for number in range(keys.partitions)]
        self._noticed: dict[int, dict[str, None]] = defaultdict(dict)
        self._claiming: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.on_lost_data: Callable[[int], None] = lambda partition: None
        self.on_trouble: Callable[[int], None] = lambda partition: None
        self.on_ended: Callable[[str, str, int], None] = lambda user, session, last_seen: None

    @property
    def up(self) -> bool:
        """Whether every partition answered a sweep within the last 2 s."""
        return all(time.monotonic() - partition.swept_at < UP_S for partition in self._partitions)

    @property
    def born(self) -> bool:
        """Whether every partition has a birth, so that joins and reads are served."""
        return all(partition.birth for partition in self._partitions)

    def start(self) -> None:
        """Sweep until `stop`."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        """End the loop and the claims under way."""
        for task in (self._sweeping, self._claiming):
            while task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)

    def notice(self, partition: int, entry: str) -> None:
        """Redis said that this session's key expired: claim it with the next turn of the loop."""
        self._noticed[partition][entry] = None
        if self._claiming is None or self._claiming.done():
            self._claiming = asyncio.get_running_loop().create_task(self._claim())

    async def _sweep_for_ever(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self._sweep()
            except Exception as error:  # whatever it is, nobody else notices silence here
                log.error("sweep_failed", error=type(error).__name__)
            self._metrics.redis_up.set(1 if self.up else 0)
            await asyncio.sleep(max(0.005, SWEEP_S - (time.monotonic() - started)))

    async def _sweep(self) -> None:
        await self._round("sweep", self._partitions)
        # Behind a full batch comes the next one at once, but in a round with every other partition that is due: one
        # drained alone would make the others look as if nobody swept them.
        while any(partition.full for partition in self._partitions):
            await self._round("repeat", self._partitions)
            await asyncio.sleep(0)

    async def _round(self, mode: str, partitions: list[Partition]) -> None:
        """Ask for each partition and wait for the answers, but not for a server that stands still: the others must
        not look as if nobody swept them."""
        asked = []
        for partition in partitions:
            if not partition.asked:
                again = mode == "repeat" and partition.full
                call = self._call(partition, "repeat" if again else "sweep", partition.left if again else 0)
                partition.asked, partition.full, partition.left = True, False, 0
                partition.asked_at = time.monotonic()
                call.add_done_callback(partial(self._answered, partition))
                asked.append(call)
        if asked:
            await asyncio.wait(asked, timeout=ROUND_S)

    def _answered(self, partition: Partition, call: asyncio.Future[Reply]) -> None:
        partition.asked = False
        self._metrics.redis_seconds.observe(time.monotonic() - partition.asked_at)
        if call.cancelled() or isinstance(call.exception(), Unavailable):
            self.on_trouble(partition.number)
            return
        try:
            self._learn(partition, call.result())
            partition.swept_at = time.monotonic()
        except Exception as error:  # one partition's fault must not end the sweeps of the others
            log.error("sweep_failed", error=type(error).__name__)

    def _call(
        self, partition: Partition, mode: str, skip: int, entries: list[str] | None = None
    ) -> asyncio.Future[Reply]:
        may_make = False
        if not partition.birth and mode != "claim":
            now = time.monotonic()
            partition.first_asked = partition.first_asked or now
            may_make = now - partition.first_asked >= UNBORN_S
        arguments: list[str | int] = [
            *(
                *announcing(self._settings, self._keys, partition.number),
                mode,
                partition.birth,
                int(may_make),
            ),
            *(secrets.token_hex(8), SCHEMA, self._keys.partitions, PATIENCE_MS if self._hears(partition.number) else 0),
            *(self._settings.ttl_ms, skip, BATCH, *(entries or ())),
        ]
        return self._scripts.call("expire", self._keys.script(partition.number), arguments)

    def _learn(self, partition: Partition, reply: Reply, source: str = "sweep") -> int:
        """Take in one reply; returns how many sessions this call ended."""
        if reply[0] != b"ok":
            return 0
        birth, replication = reply[1].decode(), reply[2].decode()
        partition.settling = reply[3] == 1
        if source == "sweep":
            partition.full, partition.left = reply[4] == 1, int(reply[5])
        if reply[6] == 1:
            self._metrics.holds.inc()
            self.on_trouble(partition.number)
            log.warning("hold_started", partition=partition.number, why="nobody swept, or Redis changed")
        if (partition.birth and birth != partition.birth) or (
            partition.replication and replication != partition.replication
        ):
            if birth != partition.birth:
                log.warning("data_lost", partition=partition.number)
            else:
                log.info("another_server", partition=partition.number, why="restarted, failed over or moved")
            self.on_lost_data(partition.number)
        partition.birth, partition.replication = birth, replication
        won = 0
        for at in range(7, len(reply), 5):
            lag_ms, left, user, session, last_seen = reply[at : at + 5]
            won += 1
            self._metrics.offline_lag.observe(int(lag_ms) / 1000)
            self._metrics.events["leave", "timeout"].inc(left)
            self.on_ended(user.decode(), session.decode(), int(last_seen))
        if won:
            self._metrics.claims[source, "won"].inc(won)
        return won

    async def _claim(self) -> None:
        while self._noticed:
            noticed, self._noticed = self._noticed, defaultdict(dict)
            calls = []
            for number, entries in noticed.items():
                names = list(entries)
                for at in range(0, len(names), BATCH):
                    part = names[at : at + BATCH]
                    calls.append(
                        (
                            self._partitions[number],
                            len(part),
                            self._call(self._partitions[number], "claim", 0, part),
                        )
                    )
            for partition, asked, call in calls:
                try:
                    won = self._learn(partition, await call, "notification")
                except Unavailable:
                    continue  # the sweep guarantees
                if asked > won:
                    self._metrics.claims["notification", "lost"].inc(asked - won)
