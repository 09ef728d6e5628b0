"""What each command costs Redis in processor time, and what a member fills: the second half of walls.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from presence.answers import Held
from presence.keys import entry
from presence.tracker import Tracker
from tests.bench.growth_engine import Engine, engine, tracker

AT_ONCE = 500
ROOM = 100  # members of a channel
TTL_MS = 3_600_000
BATCHES = (1, 3, 10, 100)
INFO = '{"name":"' + "n" * 89 + '"}'  # 100 bytes
NUMBER = "1"
LISTENERS = 20
FAN_OUT_RATES = (500, 5000)
FAN_OUT_S = 4
TICK_S = 0.005

Item = TypeVar("Item")


@dataclass(frozen=True)
class Command:
    """What one costs Redis."""

    name: str
    redis_us: float  # with reading the call and writing the answer
    script_us: float


@dataclass(frozen=True)
class _Member:
    channel: str
    user: str
    session: str


def _members(count: int) -> list[_Member]:
    return [_Member(f"room-{at // ROOM}", f"user-{at}", f"session-{at}") for at in range(count)]


async def commands(count: int) -> list[Command]:
    """Each command once for every member; heartbeats in batches of several sizes, as they depend on it."""
    members = _members(count)
    with engine("standalone") as place:
        async with tracker(place) as by:

            async def cost(name: str, work: Callable[[_Member], Awaitable[object]]) -> Command:
                before = place.usage()
                await _each(members, work)
                used = place.usage() - before
                return Command(name, 1e6 * used.total_s / count, 1e6 * used.script_s / count)

            found = [await cost("connection: connect + record", lambda one: _connect(by, one))]
            found.append(await cost("join", lambda one: _join(by, one)))
            for batch in BATCHES:
                found.append(await _heartbeats(place, by, members, batch))
            found.append(await cost("message", lambda one: by.publish(one.channel, "hello", '{"text":"hello"}')))
            found.append(await cost("leave", lambda one: by.leave(one.channel, one.user, one.session, NUMBER)))
            return found


async def member_bytes(count: int) -> list[tuple[str, float]]:
    """Bytes in Redis, a member: as a connected client with 100 bytes of `info`, and with a full history."""
    members = _members(count)
    with engine("standalone") as place:
        async with tracker(place) as by:
            sizes = [place.memory()]
            await _each(members, lambda one: _join(by, one))
            sizes.append(place.memory())
            await _each(members, lambda one: _connect(by, one))
            sizes.append(place.memory())
            for _ in range(9):  # ten events a member make the thousand that a channel keeps
                await _each(members, lambda one: by.publish(one.channel, "hello", '{"text":"hello"}'))
            sizes.append(place.memory())
    names = "in a channel of 100, with 100 bytes of info and its join event", "record of its session"
    steps = [(after - before) / count for before, after in pairwise(sizes)]
    return list(zip((*names, "nine more events of its channel"), steps, strict=True))


async def fan_out() -> list[Command]:
    """What an event of 300 bytes costs Redis for each connection that listens, at several rates."""
    with engine("standalone") as place:
        found = []
        for per_s in FAN_OUT_RATES:
            alone, heard = [await _published(place, per_s, listeners) for listeners in (0, LISTENERS)]
            each_us = 1e6 * (heard - alone) / (per_s * FAN_OUT_S) / LISTENERS
            found.append(Command(f"event to a node, at {per_s:,}/s", each_us, 0.0))
        return found


async def _published(place: Engine, per_s: int, listeners: int) -> float:
    """Processor time that Redis used for publishing evenly."""
    port = place.servers[0].port
    writers, drains = [], []
    for _ in range(listeners):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"SUBSCRIBE bench-fan-out\r\n")
        drains.append(asyncio.create_task(_drain(reader)))
        writers.append(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    drains.append(asyncio.create_task(_drain(reader)))
    await asyncio.sleep(0.2)
    before, started_s, sent = place.usage(), time.monotonic(), 0
    while sent < per_s * FAN_OUT_S:
        await asyncio.sleep(TICK_S)
        due = min(int(per_s * FAN_OUT_S), int((time.monotonic() - started_s) * per_s)) - sent
        writer.write(b"PUBLISH bench-fan-out %s\r\n" % (b"x" * 300) * due)
        sent += due
    await asyncio.sleep(0.2)
    used = place.usage() - before
    for open_one in (*writers, writer):
        open_one.close()
    await asyncio.gather(*drains)
    return used.total_s


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def _heartbeats(place: Engine, by: Tracker, members: list[_Member], batch: int) -> Command:
    """Script calls with that many signs of life each."""
    parts: dict[int, list[_Member]] = {}
    for one in members:
        parts.setdefault(by.keys.partition(one.channel), []).append(one)
    calls = [(part, own[at : at + batch]) for part, own in parts.items() for at in range(0, len(own), batch)]

    async def touch(call: tuple[int, list[_Member]]) -> None:
        words = [word for one in call[1] for word in (entry(one.channel, one.user, one.session), NUMBER, TTL_MS)]
        reply = await by._scripts.call("touch", by.keys.script(call[0]), words)
        assert set(reply) == {b"ok"}, reply

    before = place.usage()
    await _each(calls, touch)
    used = place.usage() - before
    name = f"heartbeat, {batch} in a call"
    return Command(name, 1e6 * used.total_s / len(members), 1e6 * used.script_s / len(members))


async def _connect(by: Tracker, one: _Member) -> None:
    await by.connect(one.user, one.session, 0, True)
    await by.note(one.user, one.session, "", None, {one.channel: Held(TTL_MS, False)}, limit=True)


async def _join(by: Tracker, one: _Member) -> None:
    await by.join(one.channel, one.user, one.session, NUMBER, ttl_ms=TTL_MS, info=INFO, show=False)


async def _each(items: list[Item], work: Callable[[Item], Awaitable[object]]) -> None:
    for part in _parts(items):
        await asyncio.gather(*(work(item) for item in part))


def _parts(items: list[Item]) -> Iterator[list[Item]]:
    for at in range(0, len(items), AT_ONCE):
        yield items[at : at + AT_ONCE]
