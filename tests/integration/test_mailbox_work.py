"""How much Redis reads for one `fetch`: what fits into the answer, however much waits. Counted in rows, not in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import presence.lua
from presence.inboxes import FRAME_BYTES, Pending
from presence.node import Node
from tests.support.mailboxes import ANN, LONG_MS, ack
from tests.support.parts import Parts
from tests.support.patches import changed
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

EVENT_BYTES = 16_500
COUNTING = """
local server, tally = redis, string.sub(KEYS[1], 1, string.find(KEYS[1], '{', 1, true) - 1) .. 'tally'
local redis = setmetatable({call = function(command, ...)
  local rows = server.call(command, ...)
  if command == 'XRANGE' or command == 'XREVRANGE' then
    for _, row in ipairs(rows) do
      server.call('HINCRBY', tally, 'rows', 1)
      server.call('HINCRBY', tally, 'bytes', #row[2][2])
    end
  end
  return rows
end}, {__index = server})
"""
FILL = """
local base, channel, count, text = ARGV[1], ARGV[2], tonumber(ARGV[3]), string.rep('x', ARGV[4])
for seq = 1, count do
  local at = seq <= tonumber(ARGV[5]) and 1 or ARGV[6]
  redis.call('XADD', base .. 'log:' .. channel, seq .. '-0', 'e', '{"seq":' .. seq .. ',"at":' .. at .. ',"x":"' .. text .. '"}')
end
redis.call('HSET', base .. 'meta:' .. channel, 'epoch', 'abc', 'seq', count, 'base', 0, 'born', 'abc', 'keep', ARGV[7])
"""


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


@dataclass(frozen=True)
class Work:
    """What Redis read for an answer, and the answer."""

    rows: int
    bytes: int
    pending: Pending


async def _counting_node(parts: Parts, partitions: int = 1) -> Node:
    read = presence.lua.read_script

    def counted(name: str) -> str:
        return COUNTING + read(name) if name == "inbox_pending" else read(name)

    with changed(presence.lua, "read_script", counted):
        return await parts.node(inbox_ms=LONG_MS, partitions=partitions)


async def _fill(parts: Parts, node: Node, channels: int, events: int, size: int, expired: int = 0) -> None:
    """Subscribe Ann to so many channels, and let so many events wait in each of them."""
    now_ms = await parts.now_ms()
    for number in range(channels):
        name = f"room-{number:04}"
        base = node.keys.script(node.keys.partition(name))[0].removesuffix("guard")
        await parts.redis.eval(FILL, 0, base, name, events, size, expired, now_ms, LONG_MS)
        subs = node.keys.user(ANN).replace("user:", "subs:")
        await parts.redis.hset(subs, name, "\x1f".join(("abc", "0", "0", "abc")))


async def _fetch(parts: Parts, node: Node, limit: int) -> Work:
    tally = node.keys.script(0)[0].partition("{")[0] + "tally"
    await parts.redis.delete(tally)
    pending = await node.inboxes.fetch(ANN, limit)
    counted: Any = await parts.redis.hgetall(tally)
    return Work(int(counted.get(b"rows", 0)), int(counted.get(b"bytes", 0)), pending)


def _events(pending: Pending) -> int:
    return sum(len(entry.events) for entry in pending.channels)


@pytest.mark.parametrize("limit", [1, 100])
@run_async
async def test_many_channels_with_much_to_tell_cost_no_more_than_what_is_told(parts: Parts, limit: int) -> None:
    node = await _counting_node(parts, partitions=4)
    await _fill(parts, node, channels=300, events=40, size=100)

    work = await _fetch(parts, node, limit)

    assert _events(work.pending) == len(work.pending.channels) == limit
    assert work.pending.more
    assert work.rows <= 2 * limit


@run_async
async def test_large_events_cost_no_more_than_an_answer_can_hold(parts: Parts) -> None:
    node = await _counting_node(parts, partitions=4)
    await _fill(parts, node, channels=40, events=20, size=15_000)

    work = await _fetch(parts, node, 1000)

    assert _events(work.pending) >= 15
    assert work.pending.more
    assert work.bytes <= 2 * (FRAME_BYTES + 4 * EVENT_BYTES), "twice: each first one is looked at, and read"


@run_async
async def test_all_that_waits_in_many_channels_comes_when_it_is_acknowledged(parts: Parts) -> None:
    node = await _counting_node(parts, partitions=4)
    await _fill(parts, node, channels=150, events=7, size=10)
    counts: dict[str, int] = {}

    answers = 0
    while (pending := await node.inboxes.fetch(ANN, 100)).channels:
        answers += 1
        assert pending.more == (answers < 11)
        for entry in pending.channels:
            assert entry.missed == 0
            counts[entry.channel] = counts.get(entry.channel, 0) + len(entry.events)
            await ack(node, entry.cursor, entry.channel)

    assert (len(counts), set(counts.values())) == (150, {7})


@run_async
async def test_a_backlog_of_expired_events_is_not_read_one_by_one(parts: Parts) -> None:
    node = await _counting_node(parts)
    await _fill(parts, node, channels=60, events=1000, size=10, expired=1000)

    work = await _fetch(parts, node, 100)

    assert work.rows <= 110
    told = work.pending.channels
    assert len(told) > 20
    assert {(entry.cursor, entry.missed, len(entry.events)) for entry in told} == {("abc:1000", 1000, 0)}
    assert work.pending.more
    for entry in told:
        await ack(node, entry.cursor, entry.channel)
    following = (await _fetch(parts, node, 100)).pending.channels
    assert following and not {entry.channel for entry in told} & {entry.channel for entry in following}


@pytest.mark.parametrize("expired", [1, 2, 499, 777, 998, 999])
@run_async
async def test_of_a_backlog_that_is_partly_expired_the_rest_is_told(parts: Parts, expired: int) -> None:
    node = await _counting_node(parts)
    await _fill(parts, node, channels=1, events=1000, size=10, expired=expired)

    work = await _fetch(parts, node, 10)

    (entry,) = work.pending.channels
    assert work.rows <= 10 + 15
    assert (entry.missed, len(entry.events)) == (expired, min(10, 1000 - expired))
    assert entry.events[0].startswith(f'{{"seq":{expired + 1},')


@run_async
async def test_a_fetch_travels_beside_joins_and_heartbeats(parts: Parts) -> None:
    node = await parts.node()
    went: list[str] = []
    send = node._commands.send

    def noted(*arguments: Any, **options: Any) -> Any:
        went.append(arguments[0])
        return send(*arguments, **options)

    node._commands.send = noted  # type: ignore[method-assign]
    await node.inboxes.fetch(ANN, 10)
    assert not went
    await node.tracker.publish("room", "m", "1")
    assert went
