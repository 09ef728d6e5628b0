"""P6: who comes back with a cursor gets every missed event once and in order, or a fresh snapshot; nothing between."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients import Client
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async


@run_async
async def test_a_return_on_the_other_node_brings_every_missed_event_once_and_in_order(
    stage: Stage, transport: str
) -> None:
    alice = await stage.member(transport, stage.a, "alice")
    await stage.fence(alice)
    joined_before = len(alice.rooms[stage.channel].joined)

    await alice.abort()
    for number in range(5):
        await stage.message("news", {"number": number})
    bob = await stage.member("websocket", stage.a, "bob")
    await bob.set(stage.channel, {"mood": "ready"})
    await bob.leave(stage.channel)
    await alice.reconnect(stage.b)

    await stage.fence(alice)
    assert [e["data"]["number"] for e in alice.events(stage.channel) if e.get("name") == "news"] == list(range(5))
    assert alice.story(stage.channel, "bob") == ["join", "update", "leave:left"]
    assert alice.events(stage.channel) == (await stage.log())[-len(alice.events(stage.channel)) :]
    assert all(frame["recovered"] for frame in alice.rooms[stage.channel].joined[joined_before:])


@run_async
async def test_a_recovered_join_holds_exactly_the_events_after_the_cursor(stage: Stage, transport: str) -> None:
    first = await stage.message("news", 1)
    await stage.message("news", 2)
    await stage.message("news", None)
    alice = await stage.connect(transport, stage.b, "alice", grants={"*": ["see"]})

    joined = await alice.join(stage.channel, "observer", cursor=first)

    assert joined["recovered"] is True
    assert "members" not in joined
    assert [event["data"] for event in joined["events"]] == [2, None]
    assert joined["events"] == (await stage.log())[-2:]


@pytest.mark.parametrize("wrong", ["foreign-epoch:1", "ahead", "behind-a-hole"])
@run_async
async def test_a_cursor_that_leads_nowhere_brings_a_fresh_snapshot(stage: Stage, transport: str, wrong: str) -> None:
    bob = await stage.member("websocket", stage.a, "bob", state={"n": 1})
    epoch = bob.rooms[stage.channel].epoch
    if wrong == "behind-a-hole":
        cursor = await stage.message("first")
        for _ in range(40):
            await stage.message("large", "x" * 15_000)  # 40 of them are more than a joined frame may hold
    else:
        cursor = f"{epoch}:999" if wrong == "ahead" else wrong
    alice = await stage.connect(transport, stage.b, "alice")

    joined = await alice.join(stage.channel, "observer", cursor=cursor)

    assert joined["recovered"] is False
    assert "events" not in joined
    assert [member["user"] for member in joined["members"]] == ["bob"]
    assert joined["epoch"] == epoch


@pytest.mark.parametrize("cursor", ["", "nonsense", "epoch:-1", "epoch:x", 7])
@run_async
async def test_a_text_that_is_no_cursor_never_replays_anything(stage: Stage, cursor: object) -> None:
    alice = await stage.connect("websocket", stage.a, "alice")
    command = {"type": "join", "channel": stage.channel, "as": "member", "cursor": cursor, "id": 1}

    reply = await alice.send(command)

    assert reply["type"] == "error" or reply["recovered"] is False
    assert reply["type"] == "joined" or reply["code"] == "bad_request"


@run_async
async def test_the_next_event_after_a_snapshot_has_the_next_number_also_while_much_happens(
    stage: Stage, transport: str
) -> None:
    done = asyncio.Event()
    noise = [asyncio.create_task(_noise(stage, i, done)) for i in range(2)]
    try:
        watchers = [await stage.watcher(transport, stage.nodes[i % 2]) for i in range(6)]
    finally:
        done.set()
        await asyncio.gather(*noise)

    await stage.fence(*watchers)
    for watcher in watchers:
        snapshot = watcher.rooms[stage.channel].joined[0]
        seqs = [event["seq"] for event in watcher.events(stage.channel)]
        assert seqs[0] == int(snapshot["cursor"].rpartition(":")[2]) + 1
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


@run_async
async def test_states_folded_from_events_are_the_roster(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice", state={"n": 0}, info={"name": "Alice"})
    for number in (1, 2, 2):
        await alice.set(stage.channel, {"n": number, "empty": [], "nothing": {}})
    await stage.ask("PUT", "channels", stage.channel, "members", "bob", json={"info": {"x": []}})
    await stage.ask("PUT", "channels", stage.channel, "members", "bob", json={"info": {"x": [1]}, "state": {"y": 2}})
    await alice.join(stage.channel)

    await stage.fence(watcher, alice)

    assert watcher.story(stage.channel, "alice") == ["join", "update", "update"], "an unchanged state is no event"
    assert watcher.story(stage.channel, "bob") == ["join", "update"]
    roster = {user: {k: m[k] for k in ("info", "state")} for user, m in (await stage.roster()).items()}
    assert watcher.members(stage.channel) == roster == alice.members(stage.channel)
    assert roster["alice"] == {"info": {"name": "Alice"}, "state": {"n": 2, "empty": [], "nothing": {}}}
    assert roster["bob"] == {"info": {"x": [1]}, "state": {"y": 2}}
    updates = watcher.events(stage.channel, "update")
    assert [("info" in event) for event in updates] == [False, False, True]


@run_async
async def test_an_observer_is_seen_by_nobody(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.a, "alice")

    ghost = await stage.member(transport, stage.b, "ghost", as_="observer")

    assert sorted(ghost.members(stage.channel)) == ["alice"]
    await stage.fence(alice, ghost)
    await ghost.leave(stage.channel)
    await stage.fence(alice)
    assert alice.story(stage.channel, "ghost") == []
    assert sorted(await stage.roster()) == ["alice"]
    assert await ghost.refused({"type": "leave", "channel": stage.channel}) == "not_joined"


@run_async
async def test_a_member_without_see_is_listed_and_receives_neither_roster_nor_events(
    stage: Stage, transport: str
) -> None:
    watcher = await stage.watcher(transport)
    blind = await stage.connect(transport, stage.a, "blind", grants={"*": ["join"]})

    joined = await blind.join(stage.channel)

    assert not joined.get("members")
    assert not joined.get("events")
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "blind") == ["join"]
    assert blind.events(stage.channel) == []
    assert await blind.refused({"type": "who", "channel": stage.channel}) == "forbidden"
    assert await blind.refused({"type": "join", "channel": stage.channel, "as": "observer"}) == "forbidden"
    assert sorted(await stage.roster()) == ["blind"]


@run_async
async def test_a_channel_born_again_after_its_history_ended_has_a_new_epoch(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, history_ms=1000)
    cursor = await stage.message("old")
    await eventually(lambda: _gone(stage), within_s=6, every_s=0.2)

    await stage.message("new")

    alice: Client = await stage.connect("websocket", stage.a, "alice")
    joined = await alice.join(stage.channel, "observer", cursor=cursor)
    assert joined["recovered"] is False
    assert joined["epoch"] != cursor.rpartition(":")[0]


async def _gone(stage: Stage) -> bool:
    return not await stage.log()


async def _noise(stage: Stage, number: int, done: asyncio.Event) -> None:
    client = await stage.connect("websocket", stage.nodes[number], f"noise-{number}")
    while not done.is_set():
        await client.join(stage.channel)
        await stage.message("noise", number)
        await client.leave(stage.channel)
        await asyncio.sleep(0.05)
