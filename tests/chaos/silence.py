"""Scenarios: noticing silence, and not mistaking a stall for it."""

from __future__ import annotations

import asyncio
from typing import Any

import presence.expiry
from presence.node import Node
from tests.chaos.workbench import NUMBERS, ROOM, Workbench
from tests.support.patches import changed
from tests.support.waiting import eventually


async def a_late_claim_leaves_a_session_that_lives_again_alone(bench: Workbench) -> None:
    """Redis said that the key expired; before anybody acts on it, a heartbeat revives the session."""
    await bench.node()
    await bench.join(ttl_ms=40)
    await bench.past_deadlines()

    assert await bench.touch() == "ok"
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def a_claim_that_comes_second_still_ends_the_others_of_its_batch(bench: Workbench) -> None:
    """Every node hears every notification: most entries of a batch were claimed by another node already."""
    await bench.node()
    await bench.join("alice", ttl_ms=40)
    await bench.join("bob", ttl_ms=40)
    await bench.past_deadlines()

    await bench.claim("alice")
    await bench.claim("alice", "bob")

    assert await bench.story("alice") == ["join", "leave:timeout"]
    assert await bench.story("bob") == ["join", "leave:timeout"]


async def an_entry_without_a_session_stops_nobody_behind_it(bench: Workbench) -> None:
    """A deadline whose session is not registered (an evicted or deleted hash) must not end every sweep."""
    node = await bench.node()
    await bench.join("alice", ttl_ms=40)
    await bench.redis.hdel(node.keys.sessions(ROOM), "alice\x1fsession-1")
    await bench.join("bob", ttl_ms=40)
    await bench.past_deadlines()

    await bench.stamp()
    await bench.sweep()

    assert await bench.story("bob") == ["join", "leave:timeout"]


async def silence_is_noticed_without_any_notification(bench: Workbench) -> None:
    """The notification triggers, the sweep guarantees: here nobody hears notifications."""
    await bench.node(sweeping=True)
    joined_ms = await bench.now_ms()
    await bench.join(ttl_ms=100)

    async def left() -> bool:
        return await bench.story() == ["join", "leave:timeout"]

    await eventually(left, 1.5)
    (leave,) = [event for event in await bench.events() if event["type"] == "leave"]
    assert joined_ms + 100 < leave["at"] < joined_ms + 100 + 1000


async def a_mass_departure_in_one_partition_delays_no_other(bench: Workbench) -> None:
    """2,500 people of one partition go at once, on a Redis that takes its time; bob is of another partition."""
    node = await bench.node(sweeping=True, partitions=2, grace_ms=500)
    names = [f"room-{number}" for number in range(10)]
    crowded = next(name for name in names if node.keys.partition(name) == 0)
    quiet = next(name for name in names if node.keys.partition(name) == 1)
    crowd = [f"user-{number}" for number in range(2500)]
    for at in range(0, len(crowd), 100):  # so that the sweep has its turn
        await asyncio.gather(*(bench.join(user, channel=crowded, show=False) for user in crowd[at : at + 100]))
    for at in range(0, len(crowd), 100):
        part = crowd[at : at + 100]
        await asyncio.gather(*(node.tracker.close(crowded, user, "session-1", NUMBERS[0]) for user in part))
    _slow_down(node, 0.03)
    with changed(presence.expiry, "ROUND_S", 5.0):  # however slow this machine is, no round is given up
        await eventually(lambda: _some_left(bench, crowded), 3)
        await bench.join("bob", channel=quiet, ttl_ms=300)
        deadline_ms = await bench.now_ms() + 300

        async def bob_left() -> bool:
            return await bench.story("bob", quiet) == ["join", "leave:timeout"]

        await eventually(bob_left, 3)
    (_, leave) = await bench.events(quiet)
    assert leave["at"] - deadline_ms < 400
    starts = [await bench.redis.hget(node.keys.script(partition)[0], "hold_start") for partition in (0, 1)]
    assert starts == [None, None], "a partition that nobody swept looked like a stall"


def _slow_down(node: Node, delay_s: float) -> None:
    send = node._sweeps.send

    async def later(future: asyncio.Future[object]) -> object:
        reply = await future
        await asyncio.sleep(delay_s)
        return reply

    def slowly(*words: Any, **more: Any) -> Any:
        return asyncio.ensure_future(later(send(*words, **more)))

    node._sweeps.send = slowly  # type: ignore[method-assign]


async def _some_left(bench: Workbench, channel: str) -> bool:
    return await bench.last_event(channel) == "leave"


async def a_stall_takes_nobody_offline_who_is_still_there(bench: Workbench) -> None:
    """Nothing moved for five seconds; alice shows life as soon as things move again."""
    await bench.node()
    await bench.join(ttl_ms=300)
    await bench.past_deadlines()
    await bench.stamp(age_ms=5000)

    await bench.sweep()
    assert await bench.touch() == "ok"
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def a_short_stall_delays_no_long_ttl(bench: Workbench) -> None:
    """Whoever beats every third of 60 s had its chances, stall or not: its end is announced on time."""
    node = await bench.node()
    await bench.join(ttl_ms=60_000)
    await node.tracker.close(ROOM, "alice", "session-1", NUMBERS[0])
    await bench.past_deadlines()
    await bench.stamp(age_ms=600)

    await bench.sweep()

    assert await bench.story() == ["join", "leave:timeout"]


async def stalls_without_end_hold_nobody_back_for_ever(bench: Workbench) -> None:
    """One stall after the other; who shows no life between them is let go after three."""
    await bench.node()
    await bench.join(ttl_ms=50)

    for _ in range(4):
        assert await bench.story() == ["join"]
        await bench.past_deadlines()
        await bench.stamp(age_ms=5000)
        await bench.sweep(hold_ms=50)

    assert await bench.story() == ["join", "leave:timeout"]
