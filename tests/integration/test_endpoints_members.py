"""A back end's members and heartbeats (contract §7): exact shapes, and what never creates or ends anybody."""

from __future__ import annotations

import asyncio
import re
import time

from tests.support.stage import Stage
from tests.support.waiting import run_async

CURSOR = re.compile(r"^[^:\s]+:\d+$")


@run_async
async def test_put_makes_a_member_once_and_delete_ends_it_once(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    watcher = await stage.watcher()

    first = await stage.ask("PUT", *where, json={"info": {"kind": "probe"}, "state": {"on": True}})
    again = await stage.ask("PUT", *where, json={})
    (member,) = (await stage.roster()).values()
    gone = await stage.ask("DELETE", *where)
    gone_again = await stage.ask("DELETE", *where)

    assert first.keys() == again.keys() == {"joined", "cursor"}
    assert (first["joined"], again["joined"]) == (True, False)
    assert CURSOR.match(first["cursor"])
    assert member == {
        "user": "sensor",
        "info": {"kind": "probe"},
        "state": {"on": True},
        "sessions": 1,
        "since": member["since"],
    }
    assert abs(member["since"] - time.time() * 1000) < 10_000
    assert (gone, gone_again) == ({"left": True}, {"left": False})
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "sensor") == ["join", "leave:left"]
    join = watcher.events(stage.channel, "join")[0]
    assert join == {
        "type": "join",
        "user": "sensor",
        "info": {"kind": "probe"},
        "state": {"on": True},
        "seq": join["seq"],
        "at": join["at"],
    }
    leave = watcher.events(stage.channel, "leave")[0]
    assert leave.keys() == {"type", "user", "reason", "last_seen", "seq", "at"}


@run_async
async def test_delete_with_a_session_ends_only_that_one(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    for session in ("probe-one", "probe-two"):
        await stage.ask("PUT", *where, json={"session": session})
    assert (await stage.roster())["sensor"]["sessions"] == 2

    one = await stage.ask("DELETE", *where, query={"session": "probe-one"})
    other = await stage.ask("DELETE", *where, query={"session": "back-end"})
    last = await stage.ask("DELETE", *where, query={"session": "probe-two"})

    assert (one, other, last) == ({"left": False}, {"left": False}, {"left": True})


@run_async
async def test_delete_without_a_session_ends_all_of_them(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    for session in ("probe-one", "probe-two"):
        await stage.ask("PUT", *where, json={"session": session})

    assert await stage.ask("DELETE", *where) == {"left": True}
    assert await stage.roster() == {}


@run_async
async def test_a_delete_by_the_back_end_tells_the_connected_client(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.b, "alice")

    assert await stage.ask("DELETE", "channels", stage.channel, "members", "alice") == {"left": True}

    await alice.expect("error", code="not_joined", channel=stage.channel)
    assert alice.closed is None
    assert (await alice.beat())["not_joined"] == [stage.channel]


@run_async
async def test_heartbeats_keep_their_order_and_never_create(stage: Stage) -> None:
    room = stage.channel
    for number in (1, 3):
        await stage.ask("PUT", "channels", room, "members", f"user-{number}", json={})
    await stage.ask("PUT", "channels", room, "members", "user-1", json={"session": "second-one"})
    beats = [
        {"channel": room, "user": "user-3"},
        {"channel": room, "user": "user-2"},
        {"channel": room, "user": "user-1", "session": "second-one"},
        {"channel": room, "user": "user-1", "session": "third-one"},
        {"channel": stage.name("never"), "user": "user-1"},
        {"channel": "@server", "user": "user-1"},
        {"channel": room, "user": " padded"},
        {"channel": room, "user": "user-1"},
    ]

    answer = await stage.ask("POST", "heartbeats", json={"members": beats})

    assert answer == {
        "results": [
            "refreshed",
            "not_joined",
            "refreshed",
            "not_joined",
            "not_joined",
            "forbidden",
            "bad_name",
            "refreshed",
        ]
    }
    assert sorted(await stage.roster()) == ["user-1", "user-3"]


@run_async
async def test_heartbeats_keep_members_of_a_back_end_online(stage: Stage) -> None:
    watcher = await stage.watcher()
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={"ttl_ms": 1000})

    for _ in range(6):
        await asyncio.sleep(0.3)
        beat = {"members": [{"channel": stage.channel, "user": "sensor"}]}
        assert await stage.ask("POST", "heartbeats", json=beat) == {"results": ["refreshed"]}

    await stage.fence(watcher)
    assert watcher.story(stage.channel, "sensor") == ["join"]


@run_async
async def test_a_heartbeat_after_a_leave_does_not_bring_the_member_back(stage: Stage) -> None:
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={})
    await stage.ask("DELETE", "channels", stage.channel, "members", "sensor")

    answer = await stage.ask("POST", "heartbeats", json={"members": [{"channel": stage.channel, "user": "sensor"}]})

    assert answer == {"results": ["not_joined"]}
    assert await stage.roster() == {}


@run_async
async def test_a_thousand_heartbeats_are_one_call_and_one_more_is_refused(stage: Stage) -> None:
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={})
    beat = {"channel": stage.channel, "user": "sensor"}

    full = await stage.ask("POST", "heartbeats", json={"members": [beat] * 1000})
    over = await stage.api("POST", "heartbeats", json={"members": [beat] * 1001})

    assert full == {"results": ["refreshed"] * 1000}
    assert over.problem() == (400, "bad_request")
