"""P5: a frozen, emptied or restarted Redis, or frozen nodes, take nobody offline who is still connected."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.clients import TRANSPORTS, Client
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import eventually, limited, run_async

TTL_S = 2.0


def _long(value: object) -> object:
    """A parameter that only the long run takes."""
    return pytest.param(value, marks=[pytest.mark.long, pytest.mark.sample])


@pytest.mark.parametrize("ttls", [_long(0.5), 1.5, _long(5)])
@run_async
@limited(120)
async def test_a_frozen_redis_takes_nobody_offline_who_is_connected(own_stage: StageMaker, ttls: float) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = await _one_of_each(stage)
    gone = await stage.member("websocket", stage.a, "gone")

    gone.freeze()
    stage.redis.pause()
    await asyncio.sleep(ttls * TTL_S)
    stage.redis.resume()
    resumed_ms = int(time.time() * 1000)

    leave = await watcher.event(stage.channel, "leave", within_s=10)
    assert leave["user"] == "gone"
    assert leave["at"] <= resumed_ms + TTL_S * 1000 + 1000
    await asyncio.sleep(0.5)  # the hold is over for everybody: a false leave would come now
    await stage.fence(watcher, *members)
    assert [event["user"] for event in watcher.events(stage.channel, "leave")] == ["gone"]
    assert sorted(await stage.roster()) == sorted(TRANSPORTS)


@pytest.mark.parametrize("loss", ["restart", _long("flush")])
@run_async
async def test_an_emptied_redis_is_a_new_epoch_that_the_connected_join_and_the_gone_are_absent_from(
    own_stage: StageMaker, loss: str
) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = await _one_of_each(stage)
    gone = await stage.member("sse", stage.b, "gone", beats=False)
    epoch = watcher.rooms[stage.channel].epoch

    gone.freeze()
    await gone.drop()
    await _lose_everything(stage, loss)

    for client in [watcher, *members]:
        await eventually(lambda client=client: _in_new_epoch(client, stage.channel, epoch), within_s=8)
    await eventually(lambda: sorted(watcher.members(stage.channel)) == sorted(TRANSPORTS), within_s=8)
    await asyncio.sleep(TTL_S)
    await stage.fence(watcher, *members)
    assert watcher.events(stage.channel, "leave") == []
    assert sorted(await stage.roster()) == sorted(TRANSPORTS)


@run_async
async def test_a_redis_killed_and_restarted_with_its_log_takes_nobody_offline_who_is_connected(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = await _one_of_each(stage)
    gone = await stage.member("websocket", stage.a, "gone")
    await asyncio.sleep(1.2)  # the append-only file is written once a second: everybody shall be in it

    gone.freeze()
    await asyncio.to_thread(stage.redis.restart)

    # The restart may begin a new epoch; then the leave stands in its log, and clients find it in a snapshot.
    await eventually(lambda: sorted(watcher.members(stage.channel)) == sorted(TRANSPORTS), within_s=10)
    await asyncio.sleep(0.5)
    await stage.fence(watcher, *members)
    leaves = [event for event in await stage.log() if event["type"] == "leave"]
    assert [(event["user"], event["reason"]) for event in leaves] == [("gone", "timeout")]
    assert sorted(await stage.roster()) == sorted(TRANSPORTS)


@run_async
async def test_states_survive_an_emptied_redis(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    watcher = await stage.watcher()
    await stage.member("websocket", stage.a, "alice", state={"mood": "calm"}, info={"name": "Alice"})
    epoch = watcher.rooms[stage.channel].epoch

    await _lose_everything(stage, "flush")

    await eventually(lambda: _in_new_epoch(watcher, stage.channel, epoch), within_s=8)
    face = {"info": {"name": "Alice"}, "state": {"mood": "calm"}}
    await eventually(lambda: watcher.members(stage.channel) == {"alice": face}, within_s=8)


@run_async
async def test_an_empty_start_answers_unavailable_instead_of_a_half_filled_roster(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    members = [await stage.member(kind, stage.a, kind) for kind in ("websocket", "sse")]

    await _lose_everything(stage, "flush")

    ends = time.monotonic() + 4
    answers = []
    while time.monotonic() < ends:
        answer = await stage.api("GET", "channels", stage.channel, "members")
        answers.append((answer.status, sorted(m["user"] for m in answer.json().get("members", []))))
        await asyncio.sleep(0.05)
    full = (200, sorted(member.user for member in members))
    assert answers[-1] == full
    assert all(answer in ((503, []), full) for answer in answers), answers
    assert (503, []) in answers


@run_async
async def test_frozen_nodes_take_nobody_offline_who_is_connected(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = await _one_of_each(stage)

    for node in stage.nodes:
        node.pause()
    await asyncio.sleep(1.5 * TTL_S)
    for node in stage.nodes:
        node.resume()

    await asyncio.sleep(1.2 * TTL_S)
    await stage.fence(watcher, *members)
    assert watcher.events(stage.channel, "leave") == []
    assert [client.closed for client in [watcher, *members]] == [None] * 4


@pytest.mark.parametrize("kind", ["websocket", "sse"])
@run_async
async def test_a_node_that_slept_too_long_joins_its_members_again_with_their_state(
    own_stage: StageMaker, kind: str
) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    alice = await stage.member(kind, stage.a, "alice", state={"mood": "calm"})

    stage.a.pause()
    leave = await watcher.event(stage.channel, "leave", user="alice", within_s=8)
    stage.a.resume()

    assert leave["reason"] == "timeout"
    again = await watcher.event(stage.channel, "join", user="alice")
    assert again["state"] == {"mood": "calm"}
    await alice.expect("joined", channel=stage.channel, recovered=False)
    await stage.fence(watcher, alice)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:timeout", "join"]
    assert alice.closed is None


async def _one_of_each(stage: OwnStage) -> list[Client]:
    return [await stage.member(kind, stage.nodes[i % len(stage.nodes)], kind) for i, kind in enumerate(TRANSPORTS)]


async def _lose_everything(stage: OwnStage, how: str) -> None:
    if how == "restart":
        await asyncio.to_thread(stage.redis.restart, empty=True)
    else:
        stage.redis.client().flushall()


def _in_new_epoch(client: Client, channel: str, old: str) -> bool:
    return client.rooms[channel].epoch != old
