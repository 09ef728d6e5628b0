"""Awkward orders of an end, its way to the archive and a return: the newest state comes back, or none."""

from __future__ import annotations

from presence.announcing import announcing
from presence.node import Node
from presence.queues import Queue
from tests.chaos.workbench import ROOM, Workbench
from tests.support.patches import Cut, without

OLD, NEW = '{"mood":"old"}', '{"mood":"new"}'
Asked = list[tuple[str, str, str]]


async def _with_archive(bench: Workbench, **settings: int) -> tuple[Node, Asked]:
    """A node whose questions to the database are noted, and go nowhere."""
    node, asked = await bench.node(archive_url="sqlite:///never/opened", **settings), Asked()
    node.tracker.on_unclaimed = lambda *place: asked.append(place)
    await node.queues.put("archive", Queue(types=("leave",)), from_start=False)
    return node, asked


async def _answer(node: Node, generation: str, of: int, state: str) -> None:
    """What the node does when the database has answered."""
    common = announcing(node.settings, node.keys, 0)
    await node.scripts.call("promote", node.keys.script(0), (*common, ROOM, "alice", generation, of, state))


async def _come_and_go(bench: Workbench, node: Node, state: str) -> None:
    await bench.join(state=state, revive=False)
    await node.tracker.leave(ROOM, "alice", "", "")


async def _forget_last(bench: Workbench) -> None:
    """As after an hour."""
    keys = [key async for key in bench.redis.scan_iter("*:last:*")]
    assert keys
    await bench.redis.delete(*keys)


async def a_state_that_was_set_is_not_replaced_by_an_archived_one(bench: Workbench) -> None:
    node, asked = await _with_archive(bench)
    await bench.join()
    ((_, _, generation),) = asked
    await node.tracker.set_state(ROOM, "alice", "session-1", "", NEW)

    await _answer(node, generation, 1, OLD)

    assert (await bench.roster())["alice"]["state"] == {"mood": "new"}
    assert await bench.story() == ["join", "update"]


async def an_answer_for_an_earlier_presence_changes_nothing_in_the_next(bench: Workbench) -> None:
    node, asked = await _with_archive(bench)
    await bench.join()
    await node.tracker.leave(ROOM, "alice", "", "")
    await bench.join()
    first, second = (generation for _, _, generation in asked)

    await _answer(node, first, 1, OLD)

    assert (await bench.roster())["alice"]["state"] == {}
    await _answer(node, second, 2, NEW)
    await _answer(node, second, 1, OLD)  # once is enough
    assert (await bench.roster())["alice"]["state"] == {"mood": "new"}


async def only_the_state_of_an_earlier_presence_comes_back(bench: Workbench) -> None:
    node, asked = await _with_archive(bench)
    await bench.join()
    ((_, _, generation),) = asked

    await _answer(node, generation, int(generation), OLD)

    assert (await bench.roster())["alice"]["state"] == {}


async def a_clock_that_goes_back_does_not_make_a_new_state_older(bench: Workbench) -> None:
    node, _ = await _with_archive(bench)
    read = "local clock = redis.call('TIME')"
    with without(*(Cut(f"{name}.lua", read, read + "\nclock[1] = clock[1] + 5") for name in ("join", "leave"))):
        ahead = await bench.node()
    for each, state in ((ahead, OLD), (node, NEW)):
        await each.tracker.join(ROOM, "alice", "session-1", "1000", ttl_ms=60_000, state=state, revive=False)
        await each.tracker.leave(ROOM, "alice", "", "")
    events, _ = await node.queues.take("archive", "worker", 10, 60_000)

    # What the database is asked for is the greatest, and what the script compares.
    assert max(events, key=lambda event: int(event["generation"]))["state"] == {"mood": "new"}
    await node.queues.settle("archive", "worker", "ack", [event["id"] for event in events])
    erased_until = await node.past.forget("alice", node.scripts)
    assert erased_until >= max(event["generation"] for event in events)


async def of_two_ends_that_wait_for_the_archive_the_newer_comes_back(bench: Workbench) -> None:
    node, asked = await _with_archive(bench)
    await _come_and_go(bench, node, OLD)
    await _come_and_go(bench, node, NEW)
    await _forget_last(bench)

    await bench.join()

    assert (await bench.roster())["alice"]["state"] == {"mood": "new"}
    assert not asked


async def what_is_not_archived_yet_is_known(bench: Workbench) -> None:
    node, asked = await _with_archive(bench)
    await _come_and_go(bench, node, NEW)
    left = (await bench.events())[-1]["last_seen"]

    async def known() -> bytes:
        return bytes((await node.scripts.call("recall", node.keys.script(0), ["bob", "alice"]))[2])

    assert await known() == str(left).encode()
    ((event,), _) = await node.queues.take("archive", "worker", 10, 60_000)
    assert await known() == str(left).encode()
    await node.queues.settle("archive", "worker", "ack", [event["id"]])
    assert await known() == b""  # by then it is committed
    await bench.redis.delete(*[key async for key in bench.redis.scan_iter("*:last:*")])
    await bench.join()
    assert len(asked) == 1


async def what_had_to_go_is_not_kept_for_ever(bench: Workbench) -> None:
    node, _ = await _with_archive(bench, feed_max=100)
    await _come_and_go(bench, node, NEW)

    for number in range(110):
        await node.tracker.publish(ROOM, "n", str(number))

    assert (await node.queues.look("archive"))[0].lost == 1
    assert (await node.scripts.call("recall", node.keys.script(0), ["alice"]))[1] == b""


async def what_is_not_wanted_any_more_is_not_kept_for_ever(bench: Workbench) -> None:
    node, _ = await _with_archive(bench, feed_max=100)
    await _come_and_go(bench, node, NEW)
    await node.queues.put("archive", Queue(types=("leave",), pattern="elsewhere"), from_start=False)

    for number in range(110):
        await node.tracker.publish(ROOM, "n", str(number))

    assert (await node.queues.look("archive"))[0].lost == 0
    assert (await node.scripts.call("recall", node.keys.script(0), ["alice"]))[1] == b""
