"""What may not grow: the pool in use, what Redis keeps of a session or a user, the wheel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import presence.session
from presence import commands, streams
from presence.answers import Ended, Held
from presence.errors import CloseCode
from presence.wheel import TICK_S
from tests.chaos.workbench import ROOM, Workbench
from tests.support.parts import Parts, identity, sketch
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

SESSION = "session-1"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


@run_async
async def test_four_hundred_reads_at_once_make_nobody_find_redis_away(parts: Parts) -> None:
    node = await parts.node(sweeping=True)
    away: list[bool] = []

    async def write() -> None:
        for _ in range(20):
            await node.tracker.publish(ROOM, "word", "1")
            guard = node.keys.script(0)[0]
            away.append(node._commands.away(guard) or node._sweeps.away(guard))

    reads = (node.directory.record("alice", f"session-{number}") for number in range(400))
    results = await asyncio.gather(write(), *reads, return_exceptions=True)

    assert not [result for result in results if isinstance(result, BaseException)]
    assert not any(away) and node.expiry.up


async def _tombstone(parts: Workbench) -> tuple[Any, str]:
    """Alice was in the room and left; her tombstone's key."""
    node = await parts.node()
    await parts.join()
    await node.tracker.leave(ROOM, "alice", SESSION, "1000")
    return node, f"{node.keys.script(0)[0].removesuffix('guard')}alive:{ROOM}\x1falice\x1f{SESSION}"


@run_async
async def test_who_goes_on_asking_for_a_channel_that_it_left_goes_on_being_told(parts: Parts) -> None:
    node, tombstone = await _tombstone(parts)
    assert await parts.redis.pexpire(tombstone, 5000)

    with pytest.raises(Ended):
        await node.tracker.join(ROOM, "alice", SESSION, "1001", revive=True)

    assert await parts.redis.pttl(tombstone) > 50_000


async def _left(parts: Workbench, node: Any) -> dict[bytes, list[bytes]]:
    """The rows of the channels that the session's record names as left."""
    record = await parts.redis.hgetall(node.keys.record("alice", SESSION))
    rows = {name: value.split(b"\x1f") for name, value in record.items() if name.startswith(b"c:")}
    return {name: row for name, row in rows.items() if row[1] == b"1"}


@run_async
async def test_a_record_remembers_two_hundred_left_channels_and_each_for_ten_minutes(parts: Parts) -> None:
    node = await parts.node(max_channels=10_000)
    note = node.tracker.note
    for number in range(500):
        channel = f"room-{number}"
        await note("alice", SESSION, "1000", None, {channel: Held(DAY_MS, False)}, limit=True)
        await note("alice", SESSION, "1000", None, {channel: Held(DAY_MS, True)}, limit=False)
    await note("alice", SESSION, "1000", None, {ROOM: Held(DAY_MS, False)}, limit=True)

    left, now_ms = await _left(parts, node), await parts.now_ms()

    assert 100 <= len(left) <= 201
    assert max(int(row[2]) for row in left.values()) <= now_ms + 600_000


@run_async
async def test_no_invented_next_leads_into_more_channels_than_a_session_may_have(stage: Stage) -> None:
    user, refused = stage.name("forger"), 0
    for group in range(7):
        rooms = [stage.name(f"room-{group}") for _ in range(20)]
        invented = streams.encode("1", dict.fromkeys(rooms, ("", 0)))
        answer = (await stage.poll(stage.a, user, *rooms, session=stage.session, since=invented, wait=0)).json()
        refused += len([frame for frame in answer["frames"] if frame.get("code") == "limit"])

    presence = await stage.ask("GET", "users", user)

    assert len(presence["channels"]) == 100
    assert refused == 40


@run_async
async def test_the_list_of_a_users_sessions_holds_a_thousand(parts: Parts) -> None:
    node = await parts.node()
    newest, listed = {}, {f"session-{number}": float(number + 1) for number in range(1500)}
    for step in ("connect", "note"):
        await parts.redis.zadd(node.keys.user(step), listed)
        if step == "connect":
            await node.tracker.connect(step, "newest", 0, False)
        else:
            await node.tracker.note(step, "newest", "1000", None, {ROOM: Held(1000, False)}, limit=False)
        newest[step] = await parts.redis.zrevrange(node.keys.user(step), 0, 0)

    assert await parts.redis.zcard(node.keys.user("connect")) == 1000
    assert await parts.redis.zcard(node.keys.user("note")) == 1000
    assert newest == {"connect": [b"newest"], "note": [b"newest"]}


@run_async
async def test_a_finished_poll_leaves_nothing_on_the_wheel_for_the_life_of_its_token(parts: Parts) -> None:
    node = await parts.node()
    for number in range(50):
        poll = sketch(node, identity(ttl_s=86_400), "longpoll", f"session-{number}")
        await poll.open()
        await poll.end(by_client=False)

    assert len(node.wheel) >= 50, "entries of the polls are still there"
    assert (max(node.wheel._places) - node.wheel._tick) * TICK_S <= 61


@run_async
async def test_a_token_is_over_at_its_time_however_often_that_is_looked_at(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence.session, "FAR_S", 0.1)
    node = await parts.node()
    session = sketch(node, identity(ttl_s=0.6))
    started_s = asyncio.get_running_loop().time()
    await session.open()

    await eventually(lambda: session.mailbox.closing, 5, what="the end of the token")

    assert session.mailbox.closing[0] == CloseCode.UNAUTHORIZED
    assert asyncio.get_running_loop().time() - started_s >= 0.5


async def _crowded(parts: Workbench) -> Any:
    """A node with a roster of nearly 256 KiB, and a client's end of a connection on it that reads by hand."""
    node = await parts.node(ttl_ms=60_000, max_commands_per_second=0)
    info = json.dumps({"about": "x" * 1000}, separators=(",", ":"))
    await asyncio.gather(*(parts.join(f"user-{number}", info=info) for number in range(240)))
    return await parts.tab(node)


@run_async
async def test_a_slow_reader_of_six_large_rosters_that_it_asked_for_at_once_gets_them_all(parts: Parts) -> None:
    tab = await _crowded(parts)
    for _ in range(6):
        tab.send(type="join", channel=ROOM)
    sizes: list[int] = []

    async def reads_one() -> bool:
        for frame in tab.session.mailbox.take(1):
            sizes.append(len(frame.json))
        return tab.closed is not None or len([size for size in sizes if size > 200_000]) == 6

    await eventually(reads_one, 8, every_s=0.1, what="six rosters")
    assert tab.closed is None


@run_async
async def test_who_never_reads_the_rosters_that_it_asked_for_is_closed_as_too_slow(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "UNREAD_S", 0.3)
    tab = await _crowded(parts)
    for _ in range(6):
        tab.send(type="join", channel=ROOM)

    await eventually(lambda: tab.closed, 5, what="the end of the connection")

    assert tab.closed == CloseCode.TOO_SLOW
    assert tab.session.ended and tab.session.mailbox._bytes <= 1 << 20
