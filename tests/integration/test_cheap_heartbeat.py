"""What a heartbeat and an event cost Redis, by its own count: the price must not grow with people or channels."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio

from presence.addresses import parse_redis_url
from presence.keys import Keys, entry
from presence.lanes import Lanes
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings
from presence.topology import make_topology
from presence.tracker import Tracker
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

MANY = 10_000
BATCH = 100
JOINS_AT_ONCE = 500
DAY_MS = 86_400_000
LATE_MS = 1000
PROMISED_MS = 250
READS = {"get", "time", "ping", "info", "hello", "client|setinfo", "select", "config|resetstat", "command"}


@run_async
async def test_heartbeats_of_one_tick_cost_a_script_call_per_hundred_and_write_two_things_each(
    fresh_redis: RedisServer,
) -> None:
    async with _tracker(fresh_redis) as tracker:
        numbers = [str(at) for at in range(MANY)]
        for start in range(0, MANY, JOINS_AT_ONCE):
            part = numbers[start : start + JOINS_AT_ONCE]
            joins = (tracker.join(f"room-{at}", "alice", f"session-{at}", "7", show=False) for at in part)
            await asyncio.gather(*joins)
        touches = [
            (tracker.keys.partition(f"room-{at}"), entry(f"room-{at}", "alice", f"session-{at}"), "7", 30_000)
            for at in numbers
        ]
        await tracker.heartbeats.refresh(touches[:1])  # from here on Redis knows the script
        fresh_redis.client().config_resetstat()

        words = await tracker.heartbeats.refresh(touches)

    assert words == ["ok"] * MANY
    calls = _calls(fresh_redis)
    assert calls.pop("evalsha") <= MANY // BATCH + tracker.keys.partitions
    writes = {name: number for name, number in calls.items() if name not in READS}
    assert writes == {"pexpireat": MANY, "zadd": MANY}


@run_async
async def test_besides_the_deadlines_heartbeats_write_only_the_record_and_that_once_per_ttl(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=1)
    members = [await stage.member("websocket", stage.a, f"user-{at}") for at in range(5)]
    async with _monitor(stage.redis) as writes:
        for _ in range(25):
            await asyncio.gather(*(member.beat() for member in members))
            await asyncio.sleep(0.1)  # a quarter more than one ttl in all

    beats = [key for command, key in writes if (command, key) in {("PEXPIREAT", "alive"), ("ZADD", "due")}]
    assert len(beats) >= 2 * 5 * 20
    kept = Counter(pair for pair in writes if pair[1] not in ("guard", "canary", "nodes", "alive", "due"))
    assert {key for _, key in kept} <= {"session", "user"}, kept
    records = sum(number for (command, key), number in kept.items() if (command, key) == ("PEXPIRE", "session"))
    assert len(members) <= records <= 2 * len(members), kept


@run_async
async def test_a_shortened_deadline_is_noticed_as_punctually_as_any(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    plain, rejoined, closed = ([f"{kind}-{at}" for at in range(8)] for kind in ("plain", "rejoined", "closed"))
    clients = [await stage.member("websocket", stage.a, user, ttl_ms=DAY_MS) for user in closed]
    for user in rejoined:
        await stage.ask("PUT", "channels", stage.channel, "members", user, json={"ttl_ms": DAY_MS})

    for user in plain + rejoined:
        await stage.ask("PUT", "channels", stage.channel, "members", user, json={"ttl_ms": 1000})
    await asyncio.gather(*(client.close() for client in clients))

    lags: dict[str, float] = {}
    for _ in plain + rejoined + closed:
        leave = await watcher.event(stage.channel, "leave", reason="timeout")
        life_ms = 500 if leave["user"] in closed else 1000
        lags[leave["user"]] = leave["at"] - leave["last_seen"] - life_ms
    assert all(0 < lag <= LATE_MS for lag in lags.values()), lags
    for group in (plain, rejoined, closed):
        assert statistics.median(lags[user] for user in group) <= PROMISED_MS, lags


@run_async
async def test_nodes_follow_one_bus_per_partition_however_many_channels_there_are(own_stage: StageMaker) -> None:
    partitions = 4
    stage = own_stage(nodes=2, partitions=partitions)
    clients = [await stage.connect("websocket", node, f"user-{at}") for at, node in enumerate(stage.nodes)]

    for number in range(60):
        await asyncio.gather(*(client.join(f"{stage.channel}-{number}") for client in clients))

    redis_client = stage.redis.client()
    subscribed = [name.decode() for name in redis_client.pubsub_channels("*")]
    buses = [name for name in subscribed if ":bus:" in name]
    others = [name for name in subscribed if name not in buses]
    assert len(buses) == partitions
    assert [number for _, number in redis_client.pubsub_numsub(*buses)] == [len(stage.nodes)] * partitions
    # Redis's own notifications, and each node's canary.
    assert len(others) == 1 + len(stage.nodes), others
    assert redis_client.pubsub_numpat() == 0


@run_async
async def test_one_event_is_one_bus_message_whatever_the_number_of_members(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    alice = await stage.member("websocket", stage.a, "alice")
    async with _bus(stage) as heard:
        await alice.set(stage.channel, {"alone": True})
        await eventually(lambda: len(heard) >= 1)
        alone = len(heard)

    crowd = [await stage.member("websocket", stage.nodes[at % 2], f"user-{at}") for at in range(30)]
    for at in range(30):
        await stage.ask("PUT", "channels", stage.channel, "members", f"sensor-{at}", json={"ttl_ms": DAY_MS})
    async with _bus(stage) as heard:
        await alice.set(stage.channel, {"alone": False})
        await stage.fence(alice, *crowd)
        await eventually(lambda: len(heard) >= 2)

    assert alone == 1
    assert len(heard) == 2, heard  # the update, and the fence's own message
    for member in crowd:
        assert len(member.events(stage.channel, "update")) == 1


@asynccontextmanager
async def _tracker(server: RedisServer) -> AsyncIterator[Tracker]:
    """The node's own way to Redis, without the node's sweeps."""
    settings = Settings()
    lanes = Lanes(make_topology(parse_redis_url(server.url), ()))
    try:
        yield Tracker(Scripts(lanes), Keys("cheap", settings.partitions), settings, "test", Metrics())
    finally:
        await lanes.close()


def _calls(server: RedisServer) -> dict[str, int]:
    """How often each command ran since the last reset, those of scripts included."""
    stats = server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


@asynccontextmanager
async def _monitor(server: RedisServer) -> AsyncIterator[list[tuple[str, str]]]:
    """(command, kind of key) of all writes that scripts make meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    writes: list[tuple[str, str]] = []
    reading = asyncio.create_task(_read_writes(reader, writes))
    writer.write(b"MONITOR\r\n")
    await eventually(lambda: writes, what="the sweeps show that MONITOR has begun")
    writes.clear()
    try:
        yield writes
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()


async def _read_writes(reader: asyncio.StreamReader, writes: list[tuple[str, str]]) -> None:
    pattern = re.compile(r'\[\d+ lua\] "(HSET|HDEL|SET|DEL|ZADD|ZREM|XADD|PEXPIRE|PEXPIREAT|PUBLISH)" "[^"}]*\}:(\w+)')
    async for line in reader:
        if found := pattern.search(line.decode()):
            writes.append((found[1], found[2]))


@asynccontextmanager
async def _bus(stage: Stage) -> AsyncIterator[list[bytes]]:
    """Everything published on any bus meanwhile."""
    client = redis.asyncio.from_url(stage.redis.url, protocol=2)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.psubscribe("*:bus:*")
    await pubsub.get_message(timeout=5)
    heard: list[bytes] = []
    reading = asyncio.create_task(_read_bus(pubsub, heard))
    try:
        yield heard
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await pubsub.aclose()
        await client.aclose()


async def _read_bus(pubsub: redis.asyncio.client.PubSub, heard: list[bytes]) -> None:
    async for message in pubsub.listen():
        heard.append(message["data"])
