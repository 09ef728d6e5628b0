"""P4: sessions of dead nodes end, once, announced by whoever survives or comes next."""

from __future__ import annotations

import asyncio

from tests.support.clients import TRANSPORTS
from tests.support.stage import StageMaker
from tests.support.waiting import eventually, run_async


@run_async
async def test_members_of_a_killed_node_leave_once_through_the_other(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    for kind in TRANSPORTS:
        await stage.member(kind, stage.a, kind)
    survivor = await stage.member("websocket", stage.b, "survivor")

    await asyncio.to_thread(stage.a.kill)

    for _ in TRANSPORTS:
        leave = await watcher.event(stage.channel, "leave")
        assert leave["reason"] == "timeout"
        assert 0 <= leave["at"] - leave["last_seen"] - 2000 <= 1000, leave
    await stage.fence(watcher, survivor)
    for kind in TRANSPORTS:
        assert watcher.story(stage.channel, kind) == ["join", "leave:timeout"]
    assert list(await stage.roster(node=stage.b)) == ["survivor"]


@run_async
async def test_members_of_a_killed_node_that_come_back_in_time_cause_no_event(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = [await stage.member(kind, stage.a, kind) for kind in TRANSPORTS]

    await asyncio.to_thread(stage.a.kill)
    for member in members:
        await member.until_closed()
        await member.reconnect(stage.b)

    await asyncio.sleep(2.5)
    await stage.fence(watcher, *members)
    assert watcher.events(stage.channel, "leave") == []


@run_async
async def test_when_all_nodes_died_the_next_one_announces_who_is_gone_and_keeps_who_is_back(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=2)
    gone = await stage.member("websocket", stage.a, "gone")
    back = await stage.member("websocket", stage.b, "back")

    for node in stage.nodes:
        await asyncio.to_thread(node.kill)
    await gone.until_closed()
    await back.until_closed()
    node = await stage.start_node()
    await back.reconnect(node)

    await eventually(lambda: _left(stage.log(node=node)), what="the leave of who is gone", within_s=8)
    story = [(e["type"], e["user"]) for e in await stage.log(node=node) if e["type"] in ("join", "leave")]
    assert story == [("join", "gone"), ("join", "back"), ("leave", "gone")]
    assert list(await stage.roster(node=node)) == ["back"]


async def _left(log: object) -> bool:
    events = await log  # type: ignore[misc]
    return any(event["type"] == "leave" for event in events)
