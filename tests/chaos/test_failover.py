"""Whatever happens to the servers under a steady load: nobody who stayed is announced as gone, who went is, once."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable

import pytest

from tests.chaos.steady_load import HEAL_S, SETTINGS, SteadyLoad
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinels import RedisSentinels
from tests.support.redis_server import RedisServer
from tests.support.stage import EngineStageMaker, OwnStage
from tests.support.waiting import eventually, limited, run_async

pytestmark = pytest.mark.engines

BACK_S = 10.0  # measured: see docs/guarantees.md


class Scene:
    """The load and the engine under it."""

    def __init__(self, stage: OwnStage) -> None:
        self.stage = stage
        self.engine = stage.redis
        self.load = SteadyLoad(stage)
        self.hit: list[str] = []

    async def changed(self, old: RedisServer) -> None:
        """Wait until most Sentinels name another primary than this."""
        await eventually(lambda: self.engine.primary() is not old, HEAL_S, 0.02, what="another primary")
        await self.back(self.load.rooms)

    def victim(self) -> RedisServer:
        """The primary of one of the partitions in use, while it is one."""
        server = self.engine.holder("{p0}")
        self.hit = [room for room in self.load.rooms if self.engine.holder(_tag(room)) is server]
        assert server is not None and self.hit
        return server

    async def taken_over(self, old: RedisServer) -> None:
        """Wait until another server says that it has the victim's slots now."""
        await eventually(
            lambda: self.engine.holder("{p0}") not in (None, old), HEAL_S, 0.02, what="the replica to take over"
        )
        await self.back(self.hit)

    async def back(self, rooms: list[str]) -> None:
        """Wait until every node takes commands for these rooms; says how long it took."""
        began = time.monotonic()

        async def taken() -> bool:
            calls = [
                self.stage.api("POST", "channels", room, "messages", json={"name": "back", "data": None}, node=node)
                for node in self.load.nodes
                for room in rooms
            ]
            return all(answer.status == 200 for answer in await asyncio.gather(*calls))

        await eventually(taken, BACK_S, 0.02, what="commands to work on the new primary")
        print(f"commands work {1000 * (time.monotonic() - began):.0f} ms after the new primary was seen")

    async def deserted(self, old: RedisServer) -> None:
        """Nobody writes to this server any more."""
        before = await eventually(lambda: _scripts(old), HEAL_S)
        await asyncio.sleep(2.0)
        assert _scripts(old) == before, "a node goes on writing to the old primary"


def _tag(room: str) -> str:
    return f"{{p{zlib.crc32(room.encode()) % 16}}}"


def _scripts(server: RedisServer) -> int:
    stats = server.client().info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha")) + 1


def cut_replication(server: RedisServer) -> None:
    """No replica may follow this server from now on; its clients notice nothing."""
    server.client().execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
    server.client().execute_command("CLIENT", "KILL", "TYPE", "replica")


async def the_primary_is_killed(scene: Scene) -> None:
    old = scene.engine.primary()
    old.kill()
    await scene.load.ready(False)
    await scene.changed(old)


async def the_primary_stands_still_shortly(scene: Scene) -> None:
    old = scene.engine.primary()
    old.pause()
    await asyncio.sleep(0.6)
    old.resume()


async def the_primary_stands_still_and_returns(scene: Scene) -> None:
    old = scene.engine.primary()
    old.pause()
    await scene.changed(old)
    await scene.load.ready()
    old.resume()
    await asyncio.sleep(1.0)
    await scene.deserted(old)


async def an_operator_asks_for_a_failover(scene: Scene) -> None:
    old = scene.engine.primary()
    scene.engine.fail_over()
    await scene.changed(old)
    await asyncio.sleep(1.5)
    await scene.deserted(old)


async def announced_history_is_lost_with_the_primary(scene: Scene) -> None:
    old = scene.engine.primary()
    cut_replication(old)
    await asyncio.sleep(1.0)
    old.kill()
    await scene.changed(old)


async def a_node_sleeps_through_a_failover(scene: Scene) -> None:
    """It must ask who is primary before it says a word to the old one, which still takes what it is told."""
    old, sleeper = scene.engine.primary(), scene.stage.b
    scene.load.leaving.add(sleeper)
    sleeper.pause()
    old.pause()
    await scene.changed(old)
    for sentinel in scene.engine.sentinels:
        sentinel.pause()  # so that nobody tells the old one that it has lost its role
    old.resume()
    await asyncio.sleep(0.5)
    before = _scripts(old)
    for sentinel in scene.engine.sentinels:
        sentinel.resume()
    sleeper.resume()
    scene.load.leaving.clear()
    await scene.load.ready()
    assert _scripts(old) == before, "the node wrote to the old primary when it woke"


SENTINEL = [
    the_primary_is_killed,
    pytest.param(an_operator_asks_for_a_failover, marks=pytest.mark.long),
    pytest.param(announced_history_is_lost_with_the_primary, marks=pytest.mark.long),
    pytest.param(a_node_sleeps_through_a_failover, marks=pytest.mark.long),
    pytest.param(the_primary_stands_still_shortly, marks=pytest.mark.long),
    pytest.param(the_primary_stands_still_and_returns, marks=pytest.mark.long),
]


@pytest.mark.parametrize("fault", SENTINEL)
@run_async
@limited(150)
async def test_behind_sentinels(engine_stage: EngineStageMaker, fault: Callable[[Scene], asyncio.Future[None]]) -> None:
    stage = engine_stage("sentinel", nodes=2, **SETTINGS)
    assert isinstance(stage.redis, RedisSentinels)
    await _play(stage, fault)


async def a_primary_is_killed_whose_replica_lives(scene: Scene) -> None:
    old = scene.victim()
    old.kill()
    await scene.load.ready(False)
    await scene.taken_over(old)


async def a_primary_without_replica_is_killed_and_returns(scene: Scene) -> None:
    old = scene.victim()
    scene.engine.replica_of(old).kill()
    await asyncio.sleep(1.2)  # the append-only file is written once a second: everybody shall be in it
    old.kill()
    await scene.load.ready(False)
    await asyncio.sleep(2.0)
    old.start()


async def a_primary_stands_still_and_returns_as_replica(scene: Scene) -> None:
    old = scene.victim()
    old.pause()
    await scene.taken_over(old)
    await scene.load.ready()
    old.resume()


async def busy_slots_move_to_another_primary(scene: Scene) -> None:
    cluster = scene.engine
    source, target = cluster.holder("{p0}"), cluster.holder("{p3}")
    assert source is not target
    for number in (0, 4, 8):
        await asyncio.to_thread(cluster.migrate, f"{{p{number}}}", source, target)
    assert cluster.holder("{p4}") is target


async def an_operator_asks_a_replica_to_take_over(scene: Scene) -> None:
    old = scene.victim()
    scene.engine.replica_of(old).client().execute_command("CLUSTER", "FAILOVER")
    await scene.taken_over(old)


async def announced_history_is_lost_with_a_primary(scene: Scene) -> None:
    old = scene.victim()
    cut_replication(old)
    await asyncio.sleep(1.0)
    old.kill()
    await scene.taken_over(old)


CLUSTER = [
    a_primary_is_killed_whose_replica_lives,
    pytest.param(busy_slots_move_to_another_primary, marks=pytest.mark.long),
    pytest.param(an_operator_asks_a_replica_to_take_over, marks=pytest.mark.long),
    pytest.param(announced_history_is_lost_with_a_primary, marks=pytest.mark.long),
    pytest.param(a_primary_without_replica_is_killed_and_returns, marks=pytest.mark.long),
    pytest.param(a_primary_stands_still_and_returns_as_replica, marks=pytest.mark.long),
]


@pytest.mark.parametrize("fault", CLUSTER)
@run_async
@limited(150)
async def test_in_a_cluster(engine_stage: EngineStageMaker, fault: Callable[[Scene], asyncio.Future[None]]) -> None:
    stage = engine_stage("cluster", nodes=2, **SETTINGS)
    assert isinstance(stage.redis, RedisCluster)
    await _play(stage, fault)


async def _play(stage: OwnStage, fault: Callable[[Scene], asyncio.Future[None]]) -> None:
    scene = Scene(stage)
    await scene.load.play(fault(scene))
