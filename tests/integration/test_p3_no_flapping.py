"""P3: who is back before the deadline causes no event; nor does a page reload, nor a rolling restart."""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.clients import TRANSPORTS
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import run_async

BEYOND_GRACE_S = 0.75


@run_async
async def test_a_page_reload_within_the_grace_is_no_event_even_on_another_node(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice", state={"page": 1})

    await alice.close()
    await alice.reconnect(stage.b, resume=False)

    await asyncio.sleep(BEYOND_GRACE_S)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert alice.members(stage.channel)["alice"]["state"] == {"page": 1}


@run_async
async def test_a_lost_connection_that_comes_back_within_the_grace_is_no_event(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    await alice.abort()
    await alice.reconnect(stage.b)

    await asyncio.sleep(BEYOND_GRACE_S)
    await stage.fence(watcher, alice)
    assert watcher.story(stage.channel, "alice") == ["join"]


@run_async
async def test_a_silence_shorter_than_the_ttl_is_no_event(stage: Stage) -> None:
    watcher = await stage.watcher()
    members = [await stage.member(kind, stage.a, kind) for kind in TRANSPORTS]

    for member in members:
        member.freeze()
    await asyncio.sleep(0.5)
    for member in members:
        member.thaw()

    await asyncio.sleep(1.8)
    await stage.fence(watcher, *members)
    assert watcher.events(stage.channel, "leave") == []


@run_async
async def test_a_sign_of_life_after_bye_cancels_the_grace(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    await alice.bye()
    await alice.beat()

    await asyncio.sleep(BEYOND_GRACE_S)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]


@run_async
async def test_a_session_that_moves_while_its_old_connection_lives_is_no_event(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    old = await stage.member(transport, stage.a, "alice", session="moving-session-" + transport)
    await old.parked()

    new = await stage.member(transport, stage.b, "alice", session=old.session)

    assert await old.until_closed() == 4009
    await asyncio.sleep(BEYOND_GRACE_S)
    await stage.fence(watcher, new)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert (await stage.roster())["alice"]["sessions"] == 1


@run_async
async def test_a_node_that_stood_still_excuses_a_silent_stream_once(own_stage: StageMaker) -> None:
    """Its node cannot know whether the silence was its own fault: one join more, not one for every ttl."""
    stage = own_stage(nodes=2, ttl_ms=1000)
    watcher = await stage.watcher("websocket", node=stage.b)
    await stage.member("sse", stage.a, "silent", beats=False)

    stage.a.pause()
    await watcher.event(stage.channel, "leave", user="silent")
    stage.a.resume()

    await asyncio.sleep(5)
    await stage.fence(watcher)
    story = watcher.story(stage.channel, "silent")
    assert story == ["join", "leave:timeout"] * (len(story) // 2)
    assert len(story) in (4, 6)  # a busy machine may let it stand still once more


@run_async
async def test_restarting_nodes_one_by_one_is_no_event(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    watcher = await stage.watcher()
    members = [await stage.member(kind, stage.a, kind) for kind in TRANSPORTS]

    for old in list(stage.nodes):
        new = await stage.start_node()
        old.terminate()
        for client in [watcher, *members]:
            if client.node is old:
                await client.until_closed()
                await client.reconnect(new)
        assert await asyncio.to_thread(old.wait) == 0

    await asyncio.sleep(BEYOND_GRACE_S)
    await stage.fence(watcher, *members)
    for member in members:
        assert watcher.story(stage.channel, member.user) == ["join"]
    assert sorted(await stage.roster(node=stage.nodes[-1])) == sorted(TRANSPORTS)


@run_async
async def test_a_draining_node_says_so_closes_with_4200_and_exits_with_0(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2, drain_ms=1000)
    watcher = await stage.watcher()
    members = {kind: await stage.member(kind, stage.a, kind) for kind in TRANSPORTS}

    stage.a.terminate()

    for kind in ("websocket", "sse"):
        frame = await members[kind].expect("reconnect")
        assert frame["reason"] == "drain"
        assert frame["in_ms"] >= 0
    assert [await member.until_closed() for member in members.values()] == [4200] * 3
    assert not [frame for frame in members["longpoll"].frames if frame["type"] == "reconnect"]
    assert await asyncio.to_thread(stage.a.wait, 5) == 0
    await stage.fence(watcher)
    assert watcher.events(stage.channel, "leave") == []


@run_async
async def test_a_draining_node_is_not_ready_at_once(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, drain_ms=3000)
    alice = await stage.member("websocket", stage.a, "alice")
    assert (await stage.probe("/readyz")).status == 200

    stage.a.terminate()
    await alice.expect("reconnect")

    # A closed listening socket says "not ready" to a balancer as well.
    with contextlib.suppress(OSError):
        assert (await stage.probe("/readyz")).status == 503
