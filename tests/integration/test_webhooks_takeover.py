"""Webhooks while nodes are killed, frozen and replaced: nothing is lost, and the order of each user holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.clients import Frame
from tests.support.hooks import come_and_go, leader, report, write_targets
from tests.support.ports import free_ports
from tests.support.receiver import Receiver
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import eventually, run_async

USERS = [f"user-{number}" for number in range(6)]


@pytest.fixture
def port(tmp_path: Path) -> int:
    """Where the receiver of the only target, `hook`, will be."""
    (number,) = free_ports(1)
    target: Frame = {"url": f"http://127.0.0.1:{number}/", "batch": 5, "timeout_ms": 60_000}
    write_targets(tmp_path / "webhooks.toml", {"hook": target})
    return number


def start(own_stage: StageMaker, tmp_path: Path, nodes: int = 2) -> OwnStage:
    return own_stage(nodes, webhooks_file=tmp_path / "webhooks.toml", partitions=4)


@pytest.mark.long
@run_async
async def test_a_batch_under_way_goes_on_under_its_id_when_its_node_is_killed_frozen_or_stopped(
    own_stage: StageMaker, tmp_path: Path, port: int
) -> None:
    stage = start(own_stage, tmp_path)
    channel = stage.name("hook")
    async with Receiver(port) as receiver:
        frozen_hold = asyncio.Event()
        receiver.answers += [asyncio.Event(), frozen_hold, asyncio.Event()]
        await leader(stage, "hook")
        await come_and_go(stage, channel, "ann")
        await eventually(lambda: len(receiver.calls) == 1)
        await stage.start_node()
        first = await leader(stage, "hook")
        first.kill()
        stage.nodes.remove(first)
        await eventually(lambda: len(receiver.calls) == 2, 15, what="the batch from another node")
        frozen = await leader(stage, "hook")
        frozen.pause()
        stage.nodes = [node for node in stage.nodes if node is not frozen]
        await eventually(lambda: len(receiver.calls) == 3, 15, what="the batch from a third")
        frozen.resume()
        frozen_hold.set()
        await come_and_go(stage, channel, "ben")
        last = await leader(stage, "hook")
        assert await asyncio.to_thread(last.stop) == 0
        stage.nodes = [frozen]
        await eventually(lambda: receiver.events[-1]["user"] == "ben")

    same = receiver.calls[:4]
    assert len({call.id for call in same}) == len({call.body for call in same}) == 1
    assert [(event["type"], event["user"]) for event in receiver.fresh] == [
        *[("join", "ann"), ("leave", "ann"), ("join", "ben"), ("leave", "ben")]
    ]


@run_async
async def test_all_nodes_may_stop_and_the_next_one_goes_on_where_they_were(
    own_stage: StageMaker, tmp_path: Path, port: int
) -> None:
    stage = start(own_stage, tmp_path, nodes=1)
    channel = stage.name("hook")
    await leader(stage, "hook")
    await come_and_go(stage, channel, "ann", "ben", "cid")
    failing = await eventually(lambda: tried(stage))
    assert await asyncio.to_thread(stage.a.stop) == 0
    stage.nodes.clear()
    await stage.start_node()
    async with Receiver(port) as receiver:
        await eventually(lambda: len(receiver.events) == 6)
        standing = await eventually(lambda: delivered(stage))

    assert failing["error"] == "connection failed: ECONNREFUSED"
    assert [event["user"] for event in receiver.events] == ["ann", "ann", "ben", "ben", "cid", "cid"]
    assert (standing["lost"], standing["waiting"], standing["in_flight"]) == (0, 0, 0)


async def tried(stage: OwnStage) -> Frame | None:
    standing = await report(stage, "hook")
    return standing if standing["attempts"] > 1 else None


async def delivered(stage: OwnStage) -> Frame | None:
    standing = await report(stage, "hook")
    return standing if standing["delivered_at"] and not standing["attempts"] and not standing["in_flight"] else None


@run_async
async def test_each_user_s_events_arrive_in_order_though_the_delivering_node_is_killed(
    own_stage: StageMaker, tmp_path: Path, port: int
) -> None:
    stage = start(own_stage, tmp_path)
    rooms = [stage.name("hook") for _ in range(5)]
    steady = stage.nodes[-1]

    async def live(user: str) -> None:
        for room in rooms:
            where = ("channels", room, "members", user)
            await stage.ask("PUT", *where, json={}, node=steady)
            await stage.ask("DELETE", *where, node=steady)

    async with Receiver(port) as receiver:
        await leader(stage, "hook")
        lives = [asyncio.create_task(live(user)) for user in USERS]
        await eventually(lambda: len(receiver.calls) > 3)
        victim = await leader(stage, "hook")
        steady = next(node for node in stage.nodes if node is not victim)
        await asyncio.gather(*lives, return_exceptions=True)
        lives = [asyncio.create_task(live(user)) for user in USERS]
        receiver.answers.append(None)  # an attempt that comes to nothing
        await eventually(lambda: not receiver.answers)
        victim.kill()
        stage.nodes.remove(victim)
        await asyncio.gather(*lives)
        await eventually(lambda: len(receiver.fresh) == 2 * 2 * len(rooms) * len(USERS), 30)

    lived = [(kind, room) for room in rooms for kind in ("join", "leave")] * 2
    for user in USERS:
        assert [(e["type"], e["channel"]) for e in receiver.fresh if e["user"] == user] == lived
    under: dict[str, set[str]] = {}
    for call in receiver.calls:
        for event in call.events:
            under.setdefault(event["id"], set()).add(call.id)
    assert max(map(len, under.values())) == 1, "an event came again under another webhook-id"


@run_async
async def test_a_redis_that_lost_everything_is_delivered_from_its_beginning(
    own_stage: StageMaker, tmp_path: Path, port: int
) -> None:
    stage = start(own_stage, tmp_path)
    channel = stage.name("hook")
    async with Receiver(port) as receiver:
        await come_and_go(stage, channel, "ann")
        await eventually(lambda: len(receiver.events) == 2)
        stage.redis.restart(empty=True)
        await eventually(lambda: serves(stage))
        await come_and_go(stage, channel, "ben")
        await eventually(lambda: len(receiver.events) == 4, 20)

    assert [event["user"] for event in receiver.events] == ["ann", "ann", "ben", "ben"]


async def serves(stage: OwnStage) -> bool:
    return (await stage.api("PUT", "channels", stage.name("other"), "members", "x", json={})).status == 200
