"""The primary that holds the first partition, and losing it."""

from __future__ import annotations

import asyncio

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinels import RedisSentinels
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

HEAL_S = 60.0


def primary(engine: RedisSentinels | RedisCluster) -> RedisServer | None:
    """The one that the first partition has now; none while nobody has its slot."""
    return engine.holder("{p0}") if isinstance(engine, RedisCluster) else engine.primary()


def kill_primary(engine: RedisSentinels | RedisCluster) -> RedisServer:
    """End it at once; returns it."""
    victim = primary(engine)
    assert victim is not None
    victim.kill()
    return victim


async def give_replica(engine: RedisSentinels | RedisCluster, victim: RedisServer) -> None:
    """Start the killed one again as the replica of who took over: in a Cluster that one has no other."""
    if isinstance(engine, RedisCluster):
        await eventually(lambda: engine.holder("{p0}") not in (None, victim), HEAL_S)
        await asyncio.to_thread(victim.start)
