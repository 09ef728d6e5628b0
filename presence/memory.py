"""Looks into the memory of the Redis servers: whether they would evict members, and how full they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from presence.errors import Unavailable
from presence.lanes import Lanes
from presence.logs import get
from presence.metrics import Metrics
from presence.topology import Topology

log = get(__name__)


class Memory:
    """What the servers said last; `evicting`: one of them has another policy than `noeviction`."""

    def __init__(self, topology: Topology, reads: Lanes, guards: Sequence[str], metrics: Metrics) -> None:
        """`guards`: a key of each partition."""
        self._topology = topology
        self._reads = reads
        self._guards = guards
        self._metrics = metrics
        self.evicting = False

    async def look(self) -> None:
        """Ask each server once; where one does not answer, or may not be asked, everything stays as it was."""
        servers = {self._topology.home(guard): guard for guard in self._guards}
        with suppress(Unavailable):
            memories = [await self._reads.send(guard, "INFO", "memory") for guard in servers.values()]
            self._metrics.memory(memories)
            policies = {str(memory.get("maxmemory_policy", "noeviction")) for memory in memories} - {"noeviction"}
            self.evicting = bool(policies)
            if policies:
                log.error("redis_evicts", policy=",".join(policies), remedy="set maxmemory-policy noeviction")
