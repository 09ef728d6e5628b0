"""A Redis without memory refuses joins and claims alike; who is connected stays, who is gone is announced later, once."""

from __future__ import annotations

import asyncio

from tests.support.stage import StageMaker
from tests.support.waiting import eventually, run_async


@run_async
async def test_a_redis_out_of_memory_refuses_joins_keeps_the_connected_and_announces_the_gone_later(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=1, ttl_ms=2000)
    watcher = await stage.watcher()
    alice = await stage.member("websocket", stage.a, "alice")
    members = ("channels", stage.channel, "members")
    assert (await stage.api("PUT", *members, "bob", json={"ttl_ms": 1000})).status == 200
    redis = stage.redis.client()

    redis.config_set("maxmemory", 1)
    refused = await stage.api("PUT", *members, "carol", json={})
    beat = await alice.beat()
    await asyncio.sleep(3)  # longer than bob's ttl and than alice's
    during = list(watcher.events(stage.channel, "leave"))
    redis.config_set("maxmemory", 0)

    assert refused.problem() == (503, "unavailable")
    assert beat["type"] == "ok"
    assert during == []
    await eventually(lambda: watcher.events(stage.channel, "leave"))
    await stage.fence(watcher, alice)
    assert [event["user"] for event in watcher.events(stage.channel, "leave")] == ["bob"]
    assert sorted(await stage.roster()) == ["alice"]
    assert alice.closed is None
