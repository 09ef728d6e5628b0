"""How commands travel to the primaries: what goes again, what does not, and who waits for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from presence.addresses import parse_redis_url
from presence.errors import Unavailable
from presence.keys import Keys
from presence.lanes import Lanes
from presence.topology import Topology, make_topology
from presence.topology.cluster import ClusterTopology
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.stage import StageMaker
from tests.support.waiting import eventually, limited, run_async

GUARDS = [Keys("lanes", 16).script(number)[0] for number in range(16)]


@asynccontextmanager
async def _lanes(url: str) -> AsyncIterator[tuple[Topology, Lanes]]:
    topology = make_topology(parse_redis_url(url), GUARDS)
    await topology.start()
    lanes = Lanes(topology)
    try:
        yield topology, lanes
    finally:
        await lanes.close()
        await topology.stop()


@run_async
async def test_a_primary_that_became_a_replica_is_unavailable_until_it_is_primary_again(
    fresh_redis: RedisServer,
) -> None:
    async with _lanes(fresh_redis.url) as (_, lanes):
        await lanes.send("key", "SET", "key", "1")
        fresh_redis.client().execute_command("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(Unavailable):
            await lanes.send("key", "SET", "key", "2")

        asked = lanes.send("key", "SET", "key", "3")
        await asyncio.sleep(0.1)
        fresh_redis.client().execute_command("REPLICAOF", "NO", "ONE")
        assert await asked, "what was refused unchanged goes again within its time"
        assert fresh_redis.client().get("key") == b"3"


@run_async
async def test_a_command_without_an_answer_is_never_sent_again(fresh_redis: RedisServer) -> None:
    async with _lanes(fresh_redis.url) as (_, lanes):
        await lanes.send("count", "INCR", "count")
        fresh_redis.pause()
        asked = [lanes.send("count", "INCR", "count") for _ in range(3)]

        for call in asked:
            with pytest.raises(Unavailable):
                await call
        fresh_redis.resume()

        assert await lanes.send("count", "INCR", "count") <= 5


@pytest.mark.engines
@run_async
@limited(90)
async def test_in_a_cluster_each_server_has_a_lane_of_its_own_and_redirections_are_followed(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, replicas=0) as cluster:
        async with _lanes(cluster.url) as (topology, lanes):
            assert isinstance(topology, ClusterTopology)
            mine, theirs = GUARDS[0], GUARDS[3]
            still, well = cluster.holder(mine), cluster.holder(theirs)
            assert still is not None and well is not None and still is not well

            still.pause()
            stuck = lanes.send(mine, "HSET", mine, "a", "1")
            for number in range(20):
                assert await lanes.send(theirs, "HSET", theirs, str(number), "1") == 1
            assert not stuck.done(), "a server that lives waits for none that stands still"
            with pytest.raises(Unavailable):
                await stuck
            assert lanes.away(mine) and not lanes.away(theirs)
            still.resume()

            right = topology._homes[key_slot(mine.encode())]
            topology._homes[key_slot(mine.encode())] = (right[0], topology._homes[key_slot(theirs.encode())][1])
            assert await lanes.send(mine, "HSET", mine, "b", "1") == 1, "MOVED"
            await eventually(lambda: topology.home(mine) == right[1], what="the topology to be as it is")

            finish = await asyncio.to_thread(cluster.begin_migration, mine, still, well)
            assert await lanes.send(mine, "HGET", mine, "a") in (b"1", None), "ASK, or still at home"
            script = "return redis.call('HGET', KEYS[1], 'b')"
            asked = lanes.send(mine, "EVAL", script, 2, mine, mine.replace("guard", "never"))
            await asyncio.sleep(0.2)
            assert not asked.done(), "TRYAGAIN is asked again"
            await asyncio.to_thread(finish)
            assert await asked == b"1"
            await eventually(lambda: str(topology.home(mine)) == f"127.0.0.1:{well.port}")


@run_async
async def test_who_sends_while_the_lanes_are_closed_is_refused_and_the_closing_ends(fresh_redis: RedisServer) -> None:
    topology = make_topology(parse_redis_url(fresh_redis.url), GUARDS)
    lanes = Lanes(topology)
    await lanes.send("key", "PING")
    refused = []

    async def send_too_late() -> None:
        try:
            await lanes.send("key", "PING")
        except Unavailable as error:
            refused.append(error)

    async with asyncio.timeout(5):
        await asyncio.gather(lanes.close(), send_too_late())
        await lanes.close()
        await send_too_late()

    assert refused


@run_async
async def test_a_server_that_goes_on_refusing_is_asked_by_the_sweep_alone(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    alice = await stage.member("sse", stage.a, "alice")
    fresh = stage.redis.client()
    fresh.config_set("min-replicas-to-write", "1")

    async def is_red() -> bool:
        return (await stage.probe("/readyz")).status == 503

    await eventually(is_red, what="readiness to be red")
    before = int(fresh.info("stats")["total_connections_received"])
    commands = [{"type": "publish", "channel": stage.channel, "name": "n", "data": 1, "id": at} for at in range(20)]
    began = time.monotonic()
    answer = await stage.command(stage.a, "alice", alice.session, commands)
    took_s = time.monotonic() - began
    assert {reply["code"] for reply in answer.json()} <= {"unavailable", "forbidden"}
    assert took_s < len(commands) * 0.5, "each command waited for a refusal of its own"
    await asyncio.sleep(1.0)
    assert int(fresh.info("stats")["total_connections_received"]) - before < 40, (
        "connections are opened again and again"
    )

    fresh.config_set("min-replicas-to-write", "0")

    async def is_green() -> bool:
        return not await is_red()

    await eventually(is_green, what="readiness to be green again")
    await stage.member("websocket", stage.a, "bob")
    assert sorted(await stage.roster()) == ["alice", "bob"]


@pytest.mark.engines
@run_async
@limited(90)
async def test_a_cluster_that_announces_names_is_reached_by_the_addresses_that_were_given(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, replicas=0) as cluster:
        for number, server in enumerate(cluster.servers):
            server.client().config_set("cluster-announce-hostname", f"server-{number}.invalid")

        async with _lanes(cluster.url) as (topology, lanes):
            assert {home.host for home in topology.homes()} == {"127.0.0.1"}
            for guard in GUARDS:
                assert await lanes.send(guard, "HSET", guard, "a", "1") == 1
