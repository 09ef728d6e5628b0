"""P1: one join from the first live session, one leave from the end of the last, strictly in turns."""

from __future__ import annotations

import asyncio

from tests.support.stage import Stage
from tests.support.waiting import run_async

TRANSPORT_OF_TABS = ("websocket", "sse", "longpoll")


@run_async
async def test_two_tabs_on_two_nodes_are_one_join_and_one_leave(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    first = await stage.member(transport, stage.a, "alice")
    second = await stage.member(transport, stage.b, "alice")

    assert (await stage.roster())["alice"]["sessions"] == 2
    await first.leave(stage.channel)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert (await stage.roster())["alice"]["sessions"] == 1

    await second.leave(stage.channel)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:left"]
    assert await stage.roster() == {}


@run_async
async def test_sessions_of_different_transports_are_one_member(stage: Stage) -> None:
    watcher = await stage.watcher()
    tabs = [await stage.member(kind, stage.a, "alice") for kind in TRANSPORT_OF_TABS]

    assert (await stage.roster())["alice"]["sessions"] == 3
    for tab in tabs:
        await tab.leave(stage.channel)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:left"]


@run_async
async def test_ten_sessions_that_come_and_go_at_once_are_one_join_and_one_leave(stage: Stage) -> None:
    watcher = await stage.watcher()
    tabs = [await stage.connect("websocket", stage.nodes[i % 2], "alice") for i in range(10)]

    await asyncio.gather(*(tab.join(stage.channel) for tab in tabs))
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]

    await asyncio.gather(*(tab.leave(stage.channel) for tab in tabs))
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:left"]


@run_async
async def test_repeated_joins_are_refreshes_without_an_event(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    replies = [await alice.join(stage.channel) for _ in range(3)]

    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert [list(_users(reply)) for reply in replies] == [["alice"]] * 3
    assert (await stage.roster())["alice"]["sessions"] == 1


@run_async
async def test_coming_and_going_alternates_strictly(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    for _ in range(3):
        await alice.leave(stage.channel)
        await alice.join(stage.channel)

    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"] + ["leave:left", "join"] * 3
    assert [event["seq"] for event in watcher.events(stage.channel)] == list(
        range(watcher.events(stage.channel)[0]["seq"], watcher.rooms[stage.channel].seq + 1)
    )


@run_async
async def test_who_joins_finds_themselves_in_the_snapshot_and_not_in_a_later_event(
    stage: Stage, transport: str
) -> None:
    alice = await stage.connect(transport, stage.a, "alice", info={"name": "Alice"})

    joined = await alice.join(stage.channel, state={"mood": "ready"})

    assert joined["as"] == "member"
    assert joined["recovered"] is False
    assert joined["count"] == 1
    assert "events" not in joined
    (member,) = joined["members"]
    assert member == {
        "user": "alice",
        "info": {"name": "Alice"},
        "state": {"mood": "ready"},
        "sessions": 1,
        "since": member["since"],
    }
    await stage.fence(alice)
    assert alice.story(stage.channel, "alice") == []


@run_async
async def test_the_same_session_text_under_another_user_is_another_session(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.a, "alice", session="shared-session-text")
    bob = await stage.member(transport, stage.a, "bob", session="shared-session-text")

    await bob.leave(stage.channel)

    await stage.fence(alice)
    assert alice.story(stage.channel, "bob") == ["join", "leave:left"]
    assert alice.closed is None
    assert list(await stage.roster()) == ["alice"]


@run_async
async def test_a_disconnect_by_the_back_end_is_one_leave_and_closes_all_connections_with_4003(
    stage: Stage, transport: str
) -> None:
    user = stage.name("alice")
    watcher = await stage.watcher(transport)
    tabs = [await stage.member(transport, node, user) for node in stage.nodes]

    answer = await stage.ask("POST", "users", user, "disconnect", json={})

    assert answer == {"sessions": 2}
    assert [await tab.until_closed() for tab in tabs] == [4003, 4003]
    leave = await watcher.event(stage.channel, "leave", user=user)
    assert leave["reason"] == "disconnected"
    await stage.fence(watcher)
    assert watcher.story(stage.channel, user) == ["join", "leave:disconnected"]


@run_async
async def test_a_disconnect_from_one_channel_leaves_the_connection_and_other_channels_alone(
    stage: Stage, transport: str
) -> None:
    user, other = stage.name("alice"), stage.name("other-room")
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.b, user)
    await alice.join(other)

    answer = await stage.ask("POST", "users", user, "disconnect", json={"channel": stage.channel})

    assert answer == {"sessions": 1}
    assert (await watcher.event(stage.channel, "leave", user=user))["reason"] == "disconnected"
    await alice.expect("error", code="not_joined", channel=stage.channel)
    assert (await alice.beat())["not_joined"] == [stage.channel]
    assert alice.closed is None
    assert list(await stage.roster(other)) == [user]
    assert await stage.roster() == {}
    await stage.fence(watcher)
    seen = len(alice.events(stage.channel))
    await stage.fence(alice, channel=other)
    assert len(alice.events(stage.channel)) == seen, "nothing more of a channel one was taken out of"


def _users(joined: dict[str, list[dict[str, str]]]) -> list[str]:
    return [member["user"] for member in joined["members"]]
