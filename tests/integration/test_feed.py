"""The feed: kept until every queue has acknowledged it, never longer than its bound, and what goes is counted."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from presence.feedkeeping import _level
from presence.keys import Keys
from tests.support.http import Response
from tests.support.queues import WorkQueue, come_and_go
from tests.support.redis_server import RedisServer
from tests.support.stage import OwnStage, Stage, StageMaker
from tests.support.waiting import eventually, run_async

PREFIX = "feed"


def keys_of(stage: OwnStage) -> Keys:
    return Keys(PREFIX, int(stage._settings["partitions"]))


def feeds(stage: OwnStage) -> list[int]:
    """Length of each partition's feed."""
    redis: RedisServer = stage.redis
    return [
        redis.client().xlen(key.replace(":guard", ":feed"))
        for key, _ in map(keys_of(stage).script, range(keys_of(stage).partitions))
    ]


async def publish_many(stage: Stage, count: int, channel: str = "", start: int = 0) -> None:
    """Numbered messages, in order within one channel."""
    for number in range(start, start + count):
        await stage.message("n", number, channel=channel)


async def drain(queue: WorkQueue, **more: Any) -> list[Any]:
    """The data of all that waits, acknowledged."""
    seen: list[Any] = []
    while events := await queue.take(count=500, **more):
        seen += [event["data"] for event in events]
        await queue.say("ack", [event["id"] for event in events])
    return seen


@run_async
async def test_nothing_is_forgotten_before_it_is_acknowledged_and_everything_after(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=100)
    idle, busy = await WorkQueue(stage).open(), await WorkQueue(stage).open()
    await publish_many(stage, 300)  # of which 100 are kept in any case

    assert await drain(busy) == list(range(300))
    assert sum(feeds(stage)) == 300
    assert await drain(idle) == list(range(300))
    await eventually(lambda: sum(feeds(stage)) == 100)


@run_async
async def test_what_has_to_go_is_counted_for_every_queue_that_wanted_it_and_warned_of(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=1, feed_max=100)
    held = await WorkQueue(stage, types=["message"]).open()
    narrow = await WorkQueue(stage, types=["leave"]).open()
    await come_and_go(stage, "ann")
    await publish_many(stage, 60)
    taken = await held.take(count=20)
    await eventually(lambda: re.search(r"warning feed_fills entries=\d+ most=100", stage.a.log.read_text()))
    await publish_many(stage, 90, start=60)

    standing = await held.look()
    assert standing["lost"] == 50
    assert standing["waiting"] + standing["in_flight"] == 100
    assert await held.say("ack", [event["id"] for event in taken]) == ([], [event["id"] for event in taken])
    assert await drain(held) == list(range(50, 150))
    assert (await narrow.look())["lost"] == 1
    assert feeds(stage) == [100]
    await eventually(lambda: _metric(stage, "presence_queue_lost", 51))


async def _metric(stage: OwnStage, name: str, value: float) -> bool:
    page: Response = await stage.probe("/metrics")
    return bool(re.search(rf"^{name} {value:.1f}$", page.body.decode(), re.MULTILINE))


@run_async
async def test_the_bound_holds_over_all_partitions_and_the_longest_give_way(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=4, feed_max=400)
    queue = await WorkQueue(stage, channels="*").open()
    keys = keys_of(stage)
    rooms = {keys.partition(f"room-{n}"): f"room-{n}" for n in range(40)}
    lengths = {0: 320, 1: 40, 2: 10, 3: 150}
    await asyncio.gather(*(publish_many(stage, count, rooms[p]) for p, count in lengths.items()))

    await eventually(lambda: sum(feeds(stage)) <= 400)

    assert feeds(stage) == [200, 40, 10, 150]
    assert (await queue.look())["lost"] == 120


@pytest.mark.parametrize(
    ("lengths", "level"), [([], 100), ([10, 20], 100), ([60, 60], 50), ([90, 5, 20], 75), ([100, 100, 1], 49)]
)
def test_the_level_is_where_the_longest_are_cut(lengths: list[int], level: int) -> None:
    assert _level(lengths, 100) == level
    assert sum(min(length, level) for length in lengths) <= 100


@run_async
async def test_without_a_queue_the_feed_is_short(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=200)
    await publish_many(stage, 400)

    assert 100 <= sum(feeds(stage)) < 250  # Redis trims whole nodes of about 100 entries


@run_async
async def test_a_partition_that_lost_a_queue_gets_it_again_and_an_ended_one_stays_ended(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=2)
    queue = await WorkQueue(stage).open(max_deliveries=7)
    ended = await WorkQueue(stage).open()
    number = keys_of(stage).partition(stage.channel)
    client = stage.redis.client()
    client.hdel(f"{PREFIX}:{{p{number}}}:queues", queue.name)
    client.xgroup_destroy(f"{PREFIX}:{{p{number}}}:feed", queue.name)
    await stage.message("n", 1)
    await stage.api("DELETE", "queues", ended.name)

    async def back() -> list[Any]:
        return [event["data"] for event in await queue.take()]

    assert await eventually(back) == [1]
    assert (await queue.look())["max_deliveries"] == 7
    assert (await stage.api("GET", "queues", ended.name)).status == 404


@run_async
async def test_a_node_that_goes_lets_nobody_wait_and_takes_nothing_for_one_who_has_gone(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2, drain_ms=200)
    queue = await WorkQueue(stage).open()
    waiting = asyncio.ensure_future(queue.take(wait_ms=60_000))
    gone = asyncio.ensure_future(queue.take("gone", wait_ms=60_000))

    async def both_wait() -> bool:
        return bool((await queue.look())["consumers"] == 1)

    await eventually(both_wait)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    stage.a.terminate()

    assert await waiting == []
    await stage.message("n", 1, node=stage.b)
    events = (await stage.ask("POST", "queues", queue.name, "take", json={"consumer": "b"}, node=stage.b))["events"]
    assert [event["data"] for event in events] == [1]


@run_async
async def test_a_queue_that_one_partition_has_lost_is_there_for_the_others(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=2)
    queue = await WorkQueue(stage, channels="*").open()
    rooms = {keys_of(stage).partition(f"room-{n}"): f"room-{n}" for n in range(20)}
    for number in (0, 1):
        await stage.message("n", number, channel=rooms[number])
    held = await queue.take()
    waiting = asyncio.ensure_future(queue.take("two", wait_ms=20_000))

    stage.redis.client().hdel(f"{PREFIX}:{{p0}}:queues", queue.name)
    await stage.message("n", 2, channel=rooms[0])
    acked = await queue.say("ack", [event["id"] for event in held])

    assert acked[0] == [event["id"] for event in held if event["data"] == 1]
    assert [event["data"] for event in await waiting] == [2]  # when the queue is mended


@run_async
async def test_work_goes_on_in_a_redis_that_is_out_of_memory(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=2)
    queue = await WorkQueue(stage, max_deliveries=2).open()
    await publish_many(stage, 3)
    client = stage.redis.client()
    client.config_set("maxmemory", "1")

    refused = await stage.api("POST", "channels", stage.channel, "messages", json={"name": "n", "data": 3})
    first, second, third = [event["id"] for event in await queue.take()]

    assert refused.status == 503
    assert await queue.say("extend", [first], lease_ms=60_000) == ([first], [])
    assert await queue.say("release", [second]) == ([second], [])
    assert await queue.say("ack", [first, third]) == ([first, third], [])
    assert [event["id"] for event in await queue.take("two")] == [second]


@run_async
async def test_a_long_queue_is_estimated_by_its_beginning(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=100)
    queue = await WorkQueue(stage, types=["message"]).open()
    await publish_many(stage, 150)  # of which 100 are looked at

    assert (await queue.look())["waiting"] == 150


@run_async
async def test_a_queue_beyond_the_limit_is_in_no_partition(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, key_prefix=PREFIX, partitions=2)
    client = stage.redis.client()
    for number in range(100):  # as if another one was being created: this partition was first asked for that
        client.hset(f"{PREFIX}:{{p1}}:queues", f"other-{number}", "5\x1f\x1fnothing")

    refused = await stage.api("PUT", "queues", "mine", json={})

    assert (refused.status, refused.json()["code"]) == (429, "limit")
    assert not client.hexists(f"{PREFIX}:{{p0}}:queues", "mine")
