"""Awkward orders at work queues: who holds an event, and what may be forgotten."""

from __future__ import annotations

from presence.feedkeeping import FeedKeeping
from presence.node import Node
from presence.queues import Queue
from tests.chaos.workbench import ROOM, Workbench

GROUP = "work"


async def _queue(bench: Workbench, messages: int, most_tries: int = 5, **settings: int) -> Node:
    node = await bench.node(**settings)
    await node.queues.put(GROUP, Queue(max_deliveries=most_tries), from_start=False)
    for number in range(messages):
        await node.tracker.publish(ROOM, "n", str(number))
    return node


async def _take(node: Node, consumer: str, lease_ms: int = 60_000, count: int = 100) -> list[str]:
    return [event["id"] for event in (await node.queues.take(GROUP, consumer, count, lease_ms))[0]]


async def a_late_worker_cannot_settle_what_another_holds(bench: Workbench) -> None:
    node = await _queue(bench, 1)
    held = await _take(node, "slow", lease_ms=1)
    await bench.past(await bench.now_ms() + 2)
    assert await _take(node, "next") == held

    for what in ("ack", "release", "extend"):
        assert await node.queues.settle(GROUP, "slow", what, held, 1) == ([], held)
    assert (await node.queues.look(GROUP))[0].in_flight == 1
    assert await node.queues.settle(GROUP, "next", "ack", held) == (held, [])


async def nobody_else_gets_an_event_while_its_lease_lasts(bench: Workbench) -> None:
    node = await _queue(bench, 3)

    first = await _take(node, "one", count=2)
    second = await _take(node, "two")

    assert len(first) == 2
    assert len(second) == 1
    assert not set(first) & set(second)


async def a_lease_that_is_kept_longer_lasts_longer(bench: Workbench) -> None:
    node = await _queue(bench, 1)
    held = await _take(node, "one", lease_ms=100)
    await node.queues.settle(GROUP, "one", "extend", held, 60_000)
    await bench.past(await bench.now_ms() + 100)

    assert await _take(node, "two") == []


async def an_event_that_nobody_can_deal_with_is_set_aside(bench: Workbench) -> None:
    node = await _queue(bench, 1, most_tries=2)

    for _ in range(2):
        assert await _take(node, "one", lease_ms=1)
        await bench.past(await bench.now_ms() + 2)

    assert await _take(node, "one") == []
    assert (await node.queues.look(GROUP))[0].dead == 1


async def what_a_worker_holds_is_not_forgotten(bench: Workbench) -> None:
    node = await _queue(bench, 150)
    held = await _take(node, "one", count=1)
    settled = await _take(node, "two", count=149)
    await node.queues.settle(GROUP, "two", "ack", settled)
    keeping = FeedKeeping(node.scripts, node.queues, node.keys, node.settings, node.metrics)
    keeping._kept = 100  # as with more partitions

    await keeping.tidy()

    assert await node.queues.settle(GROUP, "one", "release", held) == (held, [])
    assert await _take(node, "three") == held


async def what_a_worker_holds_when_it_has_to_go_is_counted(bench: Workbench) -> None:
    node = await _queue(bench, 100, feed_max=100)
    held = await _take(node, "one", count=30)

    for number in range(50):
        await node.tracker.publish(ROOM, "n", str(number))

    standing, _ = await node.queues.look(GROUP)
    assert standing.lost == 50
    assert (standing.waiting, standing.in_flight) == (100, 0)
    assert await node.queues.settle(GROUP, "one", "ack", held) == ([], held)


async def a_clock_that_steps_back_makes_no_lease_longer(bench: Workbench) -> None:
    node = await _queue(bench, 1)
    held = await _take(node, "one", lease_ms=200)
    base = node.keys.script(0)[0].removesuffix("guard")
    await bench.redis.zincrby(base + "lease:" + GROUP, 3_600_000, "f" + held[0].partition("-")[2])
    await bench.redis.zincrby(base + "there:" + GROUP, 3_600_000, "one")  # as if all this was an hour ahead

    await _take(node, "two")
    await bench.past(await bench.now_ms() + 200)

    assert await _take(node, "two") == held
