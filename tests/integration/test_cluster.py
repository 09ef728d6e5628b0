"""What is special in a Cluster: where the subscriptions are, slots that move, and lapses on all servers at once."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter

import pytest
from redis.crc import key_slot

from tests.support.clients import TRANSPORTS
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.stage import EngineStageMaker, OwnStage
from tests.support.waiting import eventually, limited, run_async

pytestmark = pytest.mark.engines

PARTITIONS = 16
MANY = 300


def _held(cluster: RedisCluster) -> dict[int, set[int]]:
    """The partitions of each primary, by its port."""
    held: dict[int, set[int]] = {}
    for number in range(PARTITIONS):
        server = cluster.holder(f"{{p{number}}}")
        assert server is not None
        held.setdefault(server.port, set()).add(number)
    return held


def _listeners(server: RedisServer) -> int:
    clients = server.client().execute_command("CLIENT", "LIST", "TYPE", "pubsub")
    return len(clients if isinstance(clients, list) else clients.decode().splitlines())


def _buses(server: RedisServer) -> set[int]:
    names = server.client().execute_command("PUBSUB", "SHARDCHANNELS", "*:bus:0")
    return {int(name.decode().partition("{p")[2].partition("}")[0]) for name in names}


@run_async
@limited(90)
async def test_each_node_listens_once_to_each_primary_and_follows_the_slots(engine_stage: EngineStageMaker) -> None:
    stage = engine_stage("cluster", nodes=2)
    cluster = stage.redis
    held = _held(cluster)
    assert len(held) == 3, "the partitions are spread over all primaries"
    by_port = {server.port: server for server in cluster.servers}
    for port, numbers in held.items():
        assert (_listeners(by_port[port]), _buses(by_port[port])) == (len(stage.nodes), numbers)

    source, target = cluster.holder("{p0}"), cluster.holder("{p3}")
    await asyncio.to_thread(cluster.migrate, "{p0}", source, target)

    await eventually(lambda: 0 in _buses(target) and 0 not in _buses(source), what="the bus at the new primary")
    await eventually(lambda: [_listeners(server) for server in (source, target)] == [2, 2])
    alice = await stage.member("websocket", stage.a, "alice")
    assert sorted(await stage.roster(node=stage.b)) == ["alice"]
    assert alice.closed is None


@run_async
@limited(90)
async def test_three_hundred_timeouts_at_once_on_all_servers_are_three_hundred_leaves(
    engine_stage: EngineStageMaker,
) -> None:
    stage = engine_stage("cluster", nodes=2, grace_ms=300)
    rooms = [f"room-{number}" for number in range(60)]
    observers = [await stage.connect("websocket", node, "observer") for node in stage.nodes]
    for observer in observers:
        for room in rooms:
            await observer.join(room, "observer")
    members = [(rooms[number % len(rooms)], f"user-{number}") for number in range(MANY)]
    body = {"ttl_ms": 3000}
    await asyncio.gather(*(stage.ask("PUT", "channels", room, "members", user, json=body) for room, user in members))
    touched = {key_slot(f"{{p{_partition(room)}}}".encode()) for room in rooms}
    assert len(touched) == PARTITIONS, "there are members on every slot in use"

    def left(observer: object) -> Counter[str]:
        return Counter(event["user"] for room in rooms for event in observer.events(room, "leave"))  # type: ignore[attr-defined]

    def all_left(observer: object) -> bool:
        missing = {user for _, user in members} - set(left(observer))
        assert not missing, f"{len(missing)} are missing, such as {min(missing)}"
        return True

    for observer in observers:
        await eventually(lambda observer=observer: all_left(observer), 30, 0.1, what="300 leaves")
        await stage.fence(observer, channel=rooms[0])
        assert set(left(observer).values()) == {1}


@run_async
@limited(90)
async def test_a_slot_that_is_half_moved_is_unavailable_and_never_offline(engine_stage: EngineStageMaker) -> None:
    stage = engine_stage("cluster", nodes=2, ttl_ms=8000)
    cluster = stage.redis
    room = next(name for name in (f"room-{number}" for number in range(200)) if _partition(name) == 0)
    other = next(name for name in (f"room-{number}" for number in range(200)) if _partition(name) == 3)
    observer = await stage.member("websocket", stage.b, "observer", channel=room, as_="observer")
    alice = await stage.member("websocket", stage.a, "alice", channel=room)
    await stage.ask("PUT", "channels", room, "members", "bob", json={"ttl_ms": 8000})
    source, target = cluster.holder("{p0}"), cluster.holder("{p3}")

    finish = await asyncio.to_thread(cluster.begin_migration, "{p0}", source, target)
    beat = {"members": [{"channel": room, "user": "bob"}]}
    for node in stage.nodes:
        answers = [await stage.api("POST", "heartbeats", json=beat, node=node)]
        answers.append(await stage.api("GET", "channels", room, "members", node=node))
        assert [answer.problem() for answer in answers] == [(503, "unavailable")] * 2
        assert await stage.roster(other, node) == {}
    await asyncio.to_thread(finish)

    async def refreshed() -> bool:
        answer = await stage.api("POST", "heartbeats", json=beat)
        return answer.status == 200 and answer.json() == {"results": ["refreshed"]}

    await eventually(refreshed, 5, 0.1)
    assert sorted(await stage.roster(room)) == ["alice", "bob"]
    await stage.fence(observer, channel=room)
    assert observer.events(room, "leave") == []
    assert alice.closed is None


def _partition(channel: str) -> int:
    return zlib.crc32(channel.encode()) % PARTITIONS


def _named(partition: int, word: str) -> str:
    """A name that lies in this partition."""
    return next(name for name in (f"{word}-{number}" for number in range(1000)) if _partition(name) == partition)


@run_async
@limited(90)
async def test_a_primary_that_stands_still_costs_nobody_of_another_primary_a_sign_of_life(
    engine_stage: EngineStageMaker,
) -> None:
    stage = engine_stage("cluster", nodes=2, ttl_ms=1500, grace_ms=1500)
    cluster = stage.redis
    still, well = cluster.holder("{p0}"), cluster.holder("{p3}")
    room = _named(3, "room")
    observer = await stage.member("websocket", stage.b, _named(3, "observer"), channel=room, as_="observer")
    for at, kind in enumerate(TRANSPORTS):
        # Of some the record lies with the server that stands still, of others it does not.
        for partition in (0, 3):
            client = stage.sketch(kind, stage.nodes[at % 2], _named(partition, kind))
            client.ttl_ms = 1500
            await client.connect()
            await client.join(room)
    members = set(await stage.roster(room))

    still.pause()
    await asyncio.sleep(1.9)  # more than their ttl, less than the Cluster's patience with a primary
    still.resume()

    async def served() -> bool:
        return (await stage.api("GET", "channels", _named(0, "room"), "members")).status == 200

    await eventually(served)
    await stage.fence(observer, channel=room)
    assert observer.events(room, "leave") == []
    assert set(await stage.roster(room)) == members
    keys = [f"*:{{p{number}}}:guard" for number in range(PARTITIONS)]
    guards = [name for pattern in keys for name in well.client().scan_iter(pattern)]
    assert [well.client().hget(name, "hold_start") for name in guards] == [None] * len(guards)


@run_async
@limited(90)
async def test_a_dead_primary_makes_nobody_of_another_primary_come_and_go(engine_stage: EngineStageMaker) -> None:
    """A stream without signs of life is gone once; that another server is away is no excuse for it."""
    stage = engine_stage("cluster", nodes=2, ttl_ms=1500)
    dead = stage.redis.holder("{p0}")
    room = _named(3, "room")
    observer = await stage.member("websocket", stage.b, _named(3, "observer"), channel=room, as_="observer")
    silent = _named(3, "silent")
    stage.redis.replica_of(dead).kill()
    dead.kill()
    await eventually(lambda: _is_red(stage), what="the nodes to notice")

    await stage.member("sse", stage.a, silent, channel=room, beats=False)
    await observer.event(room, "leave", user=silent)
    await asyncio.sleep(4 * 1.5)

    await stage.fence(observer, channel=room)
    story = observer.story(room, silent)
    assert story == ["join", "leave:timeout"] * (len(story) // 2)
    assert len(story) <= 6  # a node that itself stood still excuses a silence once; a dead server would go on to


async def _is_red(stage: OwnStage) -> bool:
    return all([(await stage.probe("/readyz", node)).status == 503 for node in stage.nodes])
