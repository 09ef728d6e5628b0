"""A queue lies on all primaries: one that is away keeps back what it has, and nothing else."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from presence.client import AsyncClient, Event
from tests.support import tokens
from tests.support.queues import WorkQueue
from tests.support.stage import EngineStageMaker
from tests.support.waiting import eventually, run_async

pytestmark = pytest.mark.engines


def _room(word: str, partition: int) -> str:
    """A channel in that partition."""
    return next(name for name in (f"{word}-{n}" for n in range(10_000)) if zlib.crc32(name.encode()) % 16 == partition)


@run_async
async def test_while_a_primary_is_away_the_others_hand_out_what_they_have(engine_stage: EngineStageMaker) -> None:
    stage = engine_stage("cluster", nodes=1)
    engine = stage.redis
    away = engine.holder("{p0}")
    other = next(number for number in range(16) if engine.holder(f"{{p{number}}}") is not away)
    queue = await WorkQueue(stage, channels=f"{stage.channel}*").open()
    here, there = _room(stage.channel, other), _room(stage.channel, 0)
    for room in (here, there):
        await stage.message("n", room, channel=room)

    away.pause()
    taken = await queue.take()
    nothing = await stage.api("POST", "queues", queue.name, "take", json={"consumer": "two"})
    acked = await queue.say("ack", [event["id"] for event in taken])
    waiting = asyncio.ensure_future(queue.take("three", wait_ms=20_000))
    await eventually(lambda: not waiting.done())
    await stage.message("n", "later", channel=here)
    later = await waiting
    away.resume()

    assert [event["data"] for event in taken] == [here]
    assert (nothing.status, nothing.json()["code"]) == (503, "unavailable")
    assert acked == ([taken[0]["id"]], [])
    assert [event["data"] for event in later] == ["later"]

    async def rest() -> list[str]:
        response = await stage.api("POST", "queues", queue.name, "take", json={"consumer": "two"})
        return [event["data"] for event in response.json().get("events", [])]

    assert await eventually(rest) == [there]


@run_async
async def test_a_worker_goes_on_with_the_others_while_a_primary_is_away(engine_stage: EngineStageMaker) -> None:
    stage = engine_stage("cluster", nodes=1)
    engine = stage.redis
    away = engine.holder("{p0}")
    other = next(number for number in range(16) if engine.holder(f"{{p{number}}}") is not away)
    queue = await WorkQueue(stage, channels=f"{stage.channel}*").open()
    here, there = _room(stage.channel, other), _room(stage.channel, 0)
    handled: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: Event) -> None:
        handled.append(event.data)
        if len(handled) == 4:
            begun.set()
        await go_on.wait()

    async def publish(room: str, *names: str) -> None:
        for name in names:
            await stage.message("n", name, channel=room)

    first = ["there 1", "there 2", "there 3"]
    await publish(there, *first)
    await publish(here, "here 0")
    async with (
        AsyncClient(stage.a.url, tokens.API_KEY) as client,
        client.queue(queue.name).worker(handle, concurrency=4, most_held=4, lease_ms=60_000),
    ):
        await asyncio.wait_for(begun.wait(), 10)
        away.pause()
        await publish(here, *(f"here {number}" for number in range(1, 13)))
        go_on.set()
        await eventually(lambda: len(handled) == 16, 30)  # three that it cannot acknowledge hold up nobody
        away.resume()

        async def settled() -> bool:
            standing = await queue.look()
            return (standing["waiting"], standing["in_flight"]) == (0, 0)

        await eventually(settled, 20)
    assert sorted(handled) == sorted(first + [f"here {number}" for number in range(13)])
