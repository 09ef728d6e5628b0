"""Many large events that wait: nobody is handed more of them at a time than Redis and the node can bear."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from presence import queues
from presence.errors import Unavailable
from presence.node import Node
from presence.queues import MOST_BYTES, Queue
from presence.webhooks import FILLING
from presence.webhooks.course import TAKEN_BYTES, Course
from tests.chaos.deliveries import GROUP, node_with_hook
from tests.support.hooks import write_targets
from tests.support.parts import Brake, Loss, Parts
from tests.support.patches import changed
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

LARGE = 15_000


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


async def publish(node: Node, amount: int, first: int = 0) -> list[str]:
    """Large messages; their names, in order."""
    names = [f"m{number}" for number in range(first, first + amount)]
    for at in range(0, amount, 50):
        data = f'"{"x" * LARGE}"'
        await asyncio.gather(*(node.tracker.publish(f"hook-{name}", name, data) for name in names[at : at + 50]))
    return names


def course_of(node: Node) -> Course:
    return Course(node.webhooks._scripts, node.keys, node.webhooks._queues, GROUP, node.name, 500)


def held(course: Course) -> list[str]:
    """The names of what is here."""
    return [item.text.partition('"name":"')[2].partition('"')[0] for item in course._sorted()]


def size(course: Course) -> int:
    return sum(shelf.size for shelf in course._shelves)


async def filled(course: Course) -> Course:
    """With all that is out."""
    await course.fill()
    while course.anew:
        await course.fill()
    return course


@run_async
async def test_a_take_ends_where_it_has_enough_bytes_and_says_that_there_is_more(parts: Parts) -> None:
    node = await parts.node(partitions=2)
    await node.queues.put("work", Queue(), from_start=True)
    names = await publish(node, 320)

    taken, more = await node.queues.take("work", "one", 500, 1_000)
    assert 0.9 * MOST_BYTES < LARGE * len(taken) < 1.1 * MOST_BYTES
    assert more == {0, 1}
    rest, more = await node.queues.take("work", "two", 500, 60_000)
    assert sorted(event["name"] for event in taken + rest) == sorted(names)
    assert not more

    await parts.past(await parts.now_ms() + 1_000)
    again, more = await node.queues.take("work", "two", 500, 60_000)  # what the first held too long
    assert 0.9 * MOST_BYTES < LARGE * len(again) < 1.1 * MOST_BYTES
    assert more
    assert {event["deliveries"] for event in again} == {2}


@run_async
async def test_who_looks_at_a_queue_counts_large_events_only_up_to_some_bytes(parts: Parts) -> None:
    node = await parts.node(partitions=2)
    for group, pattern in (("all", "*"), ("some", "hook-m2*")):
        await node.queues.put(group, Queue(pattern=pattern), from_start=True)
    await publish(node, 320)

    with changed(queues, "LOOKED_AT_BYTES", 1 << 20):
        counts = [(await node.queues.look(group))[0].waiting for group in ("all", "some")]
    assert counts[0] == 320
    assert 0 < counts[1] < 100  # of 111 eleven are among those that it looks at


@run_async
async def test_a_target_far_behind_holds_no_more_than_some_bytes_and_comes_to_the_end(parts: Parts) -> None:
    node = await node_with_hook(parts, partitions=2)
    names = await publish(node, 250)
    course = await filled(course_of(node))

    told: list[str] = []
    while course.unripe or course.oldest_ms:
        await course.fill()
        assert size(course) < 1.1 * TAKEN_BYTES
        batch = course.first(50, 1 << 20)
        told += [item.text.partition('"name":"')[2].partition('"')[0] for item in batch]
        assert await course.hold(batch)
        await course.done(batch)
    assert sorted(told) == sorted(names)
    assert set(told[:50]) < set(names[:150])


@run_async
async def test_who_takes_over_gets_what_is_out_in_parts_and_then_goes_on(parts: Parts) -> None:
    node = await node_with_hook(parts, partitions=2)
    await publish(node, 200)
    before = await filled(course_of(node))
    for shelf in before._shelves:  # as if its answers had been lost: more is out than it knows
        shelf.items.clear()
    await before.fill()

    course = course_of(node)
    await course.fill()
    assert course.anew
    assert size(course) < 1.1 * TAKEN_BYTES
    await filled(course)
    assert len(held(course)) == 200
    assert set(held(before)) < set(held(course))


@run_async
async def test_after_a_lost_answer_what_was_got_is_kept_and_only_the_rest_is_asked_for(parts: Parts) -> None:
    node = await node_with_hook(parts, partitions=2)
    names = await publish(node, 10)
    course = await filled(course_of(node))
    names += await publish(node, 10, 10)
    Loss(node.webhooks._scripts, "queue_next")

    with pytest.raises(Unavailable):
        await course.fill()
    assert set(names[:10]) <= set(held(course)) < set(names)
    assert course.anew
    kept = {item.id: item for item in course._sorted()}
    await filled(course)
    assert sorted(held(course)) == sorted(names)
    assert [item for item in course._sorted() if item.id in kept] == list(kept.values())


@run_async
async def test_few_targets_ask_at_a_time_by_connections_of_their_own(parts: Parts, tmp_path: Path) -> None:
    file = write_targets(tmp_path / "webhooks.toml", {f"t{n}": {"url": "http://127.0.0.1:1/"} for n in range(6)})
    node = await parts.node(webhooks_file=file, partitions=2)
    brake = Brake(node.webhooks._scripts, "queue_next")
    await node.webhooks.start()

    async def led() -> bool:
        return all(report.node for report in await node.webhooks.reports())

    await eventually(led, 5)
    assert brake.held == 2 * FILLING
    brake.release()
    await eventually(lambda: not any(d._course.anew for d in node.webhooks._deliverers.values()), 5)
    assert node.webhooks._scripts._lanes not in (node.queues._scripts._lanes, node.scripts._lanes)
    await node.webhooks.stop()
