"""Webhooks in awkward orders: what must not overtake, and who must not send any more."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from presence import webhooks
from presence.node import Node
from presence.webhooks.course import Course
from presence.webhooks.deliverer import Deliverer
from presence.webhooks.standing import Standing
from tests.chaos.workbench import Workbench
from tests.support.hooks import write_targets
from tests.support.parts import Brake
from tests.support.patches import changed
from tests.support.receiver import Receiver, answer
from tests.support.waiting import eventually

GROUP = "@webhook:hook"


class LateAnswers:
    """Scripts of which those of one partition reach Redis only when they are let go."""

    def __init__(self, node: Node, partition: int) -> None:
        self._scripts = node.webhooks._scripts
        self._held = node.keys.script(partition)
        self.go = asyncio.Event()

    def call(self, name: str, keys: Any, arguments: Any) -> Any:
        """As `Scripts.call`."""
        return asyncio.ensure_future(self._later(name, keys, arguments))

    async def _later(self, name: str, keys: Any, arguments: Any) -> Any:
        if keys == self._held:
            await self.go.wait()
        return await self._scripts.call(name, keys, arguments)


def channel_in(node: Node, partition: int) -> str:
    return next(f"hook-{n}" for n in range(1000) if node.keys.partition(f"hook-{n}") == partition)


async def node_with_hook(bench: Workbench, url: str = "http://127.0.0.1:1/", **settings: Any) -> Node:
    with tempfile.TemporaryDirectory() as folder:
        file = write_targets(Path(folder) / "webhooks.toml", {"hook": {"url": url, "batch": 10}})
        node = await bench.node(webhooks_file=file, **settings)
    await deliverer_of(node).prepare()
    return node


def deliverer_of(node: Node) -> Deliverer:
    return node.webhooks._deliverers["hook"]


def names(course: Course, count: int = 20) -> list[str]:
    """The names of the messages that come next, taken off."""
    items = course.first(count, 1 << 20)
    course._drop(items)
    return [item.text.partition('"name":"')[2].partition('"')[0] for item in items]


async def what_happened_first_is_delivered_first_whichever_partition_answers_late(bench: Workbench) -> None:
    """Partition 0 is asked before anything happens, partition 1 afterwards."""
    node = await node_with_hook(bench, partitions=2)
    late = LateAnswers(node, 1)
    course = Course(late, node.keys, node.queues, GROUP, node.name, 10)  # type: ignore[arg-type]
    filling = asyncio.ensure_future(course.fill())
    await eventually(lambda: not course._shelves[0].anew, 5)
    await node.tracker.publish(channel_in(node, 0), "first", "null")
    await bench.past(await bench.now_ms())
    await node.tracker.publish(channel_in(node, 1), "second", "null")
    late.go.set()
    await filling

    told = names(course)
    while course.unripe:
        await course.fill()
        told += names(course)
    assert told == ["first", "second"]


async def nothing_overtakes_what_a_full_partition_has_not_shown_yet(bench: Workbench) -> None:
    """More happens in one partition than is taken at a time, and then something in the other."""
    node = await node_with_hook(bench, partitions=2)
    course = Course(node.webhooks._scripts, node.keys, node.queues, GROUP, node.name, 10)
    for number in range(15):
        await node.tracker.publish(channel_in(node, 0), f"m{number}", "null")
    await bench.past(await bench.now_ms())
    await node.tracker.publish(channel_in(node, 1), "last", "null")

    told: list[str] = []
    await course.fill()
    while course.unripe or course.oldest_ms:
        await course.fill()
        told += names(course)
    assert told == [*(f"m{number}" for number in range(15)), "last"]


async def one_node_at_a_time_delivers(bench: Workbench) -> None:
    """Two ask for the lease at once; the other gets it when the first gives it up."""
    node = await bench.node()
    standing = Standing(node.webhooks._scripts, node.keys, GROUP)

    first, second = await asyncio.gather(standing.lead("a"), standing.lead("b"))
    assert first is not None
    assert second is None
    await standing.lead("a", lease_ms=0)
    assert await standing.lead("b") is not None
    assert await standing.lead("a") is None


async def who_lost_the_lease_unawares_sends_nothing_old_behind_what_is_new(bench: Workbench) -> None:
    """The delivering node stands still right before its attempt, long enough for another to deliver that and more."""
    async with Receiver() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        old, new = await node_with_hook(bench, url), await node_with_hook(bench, url)
        still = Brake(old.webhooks._scripts, "queue_settle")
        deliverer_of(old).start()
        await old.tracker.publish("hook-1", "first", "null")
        await still.holds()
        await Standing(new.webhooks._scripts, new.keys, GROUP).lead(old.name, lease_ms=0)  # as its end would
        deliverer_of(new).start()
        await eventually(lambda: len(receiver.events) == 1, 5)
        await new.tracker.publish("hook-1", "second", "null")
        await eventually(lambda: len(receiver.events) == 2, 5)
        still.release()
        await eventually(lambda: deliverer_of(old)._note is None, 5)

        assert receiver.seen("name") == ["first", "second"]


async def a_receiver_that_takes_its_time_is_not_asked_by_another_node(bench: Workbench) -> None:
    """An attempt lasts for many leases while a second node is ready to deliver."""
    quick = (changed(webhooks.standing, "LEASE_MS", 800), changed(webhooks.deliverer, "RENEW_S", 0.05))
    async with Receiver() as receiver:
        with quick[0], quick[1]:
            url = f"http://127.0.0.1:{receiver.port}/"
            nodes = [await node_with_hook(bench, url) for _ in range(2)]
            answered = asyncio.Event()
            receiver.answers.append(answered)
            for node in nodes:
                deliverer_of(node).start()
            await nodes[0].tracker.publish("hook-1", "slow", "null")
            await eventually(lambda: receiver.calls, 5)
            await bench.past(await bench.now_ms() + 2000)
            answered.set()
            await nodes[0].tracker.publish("hook-1", "next", "null")
            await eventually(lambda: receiver.seen("name")[-1] == "next", 5)

        assert receiver.seen("name") == ["slow", "next"]


async def a_replay_does_not_send_what_is_under_way_before_what_it_begins_with(bench: Workbench) -> None:
    """The queue is moved back while its node stands still right before an attempt."""
    async with Receiver() as receiver:
        node = await node_with_hook(bench, f"http://127.0.0.1:{receiver.port}/")
        deliverer_of(node).start()
        await node.tracker.publish("hook-1", "first", "null")
        await eventually(lambda: len(receiver.events) == 1, 5)
        await eventually(lambda: (note := deliverer_of(node)._note) and not note.ids, 5)
        still = Brake(node.webhooks._scripts, "queue_settle")
        await node.tracker.publish("hook-1", "second", "null")
        await still.holds()
        await node.webhooks.replay("hook", cursor=f"0-{receiver.events[0]['at'] - 1}-0")
        still.release()
        await eventually(lambda: receiver.seen("name")[-1] == "second", 5)

        assert receiver.seen("name") == ["first", "first", "second"]


async def who_lost_the_lease_in_mid_attempt_leaves_the_note_of_its_successor_alone(bench: Workbench) -> None:
    """It stands still while its receiver takes its time; its successor has got further and dies in the midst of a batch
    that is refused. That batch goes on under its id."""
    async with Receiver() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        old, new = await node_with_hook(bench, url), await node_with_hook(bench, url)
        standing = Standing(new.webhooks._scripts, new.keys, GROUP)
        answered = asyncio.Event()
        receiver.answers.append(answered)
        deliverer_of(old).start()
        await old.tracker.publish("hook-1", "first", "null")
        await eventually(lambda: len(receiver.calls) == 1, 5)
        still = [Brake(old.webhooks._scripts, name) for name in ("lead", "queue_settle")]
        await standing.lead(old.name, lease_ms=0)  # as its end would
        deliverer_of(new).start()
        await eventually(lambda: receiver.seen("name") == ["first", "first"], 5)
        receiver.always = answer(500)
        await new.tracker.publish("hook-1", "second", "null")
        await eventually(lambda: receiver.seen("name").count("second") == 2, 5)
        task = deliverer_of(new)._task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        await standing.lead(new.name, lease_ms=0)
        under_way = receiver.calls[-1].id
        count = len(receiver.calls)
        answered.set()
        for brake in still:
            brake.release()
        await eventually(lambda: len(receiver.calls) > count, 10)

        assert [receiver.calls[-1].id, receiver.seen("name")[-1]] == [under_way, "second"]
