"""Subscribing, unsubscribing, erasing and fetching that cross: a channel keeps its events for a user if, and only if,
there is a position."""

from __future__ import annotations

import asyncio

import pytest

from presence.node import Node
from tests.chaos.workbench import ROOM, Gate
from tests.support.mailboxes import ANN, LONG_MS, data, fetch, key, publish
from tests.support.parts import Brake, Parts
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


async def _agreed(parts: Parts, node: Node) -> bool:
    """Whether Ann is subscribed; what the channel and her own partition say must be the same."""
    known = await parts.redis.smembers(key(node, "subscribers")) == {ANN.encode()}
    there = bool(await parts.redis.hexists(key(node, "subs", ANN), ROOM))
    kept = await parts.redis.pttl(key(node, "meta")) == -1
    assert known == there == kept
    return there


@pytest.mark.parametrize("end", ["unsubscribe", "erase"])
@run_async
async def test_a_fetch_does_not_bring_back_a_subscription_that_ends_meanwhile(parts: Parts, end: str) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=1000)
    await node.inboxes.subscribe(ROOM, ANN)
    await publish(node, ROOM, 1)
    brake = Brake(node.inboxes._scripts, "inbox_look")

    fetching = asyncio.create_task(node.inboxes.fetch(ANN, 10))
    await brake.holds()
    await (node.inboxes.unsubscribe(ROOM, ANN) if end == "unsubscribe" else node.inboxes.erase(ANN))
    brake.release()
    await fetching

    assert not await _agreed(parts, node)


@run_async
async def test_an_unsubscription_within_a_subscription_does_not_take_its_events(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=100)
    other = await parts.node(inbox_ms=LONG_MS, history_ms=100)
    gate = Gate(node.inboxes._scripts, "inbox_subscribe", first=1)

    putting = asyncio.create_task(node.inboxes.subscribe(ROOM, ANN))
    await gate.holds()
    await other.inboxes.unsubscribe(ROOM, ANN)
    gate.release()
    await putting
    await publish(node, ROOM, 1)
    await parts.past(await parts.now_ms() + 150)

    assert await _agreed(parts, node)
    assert data(await fetch(node)) == [1]


@run_async
async def test_an_unsubscription_that_ends_late_does_not_take_the_events_of_the_next_one(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=1000)
    other = await parts.node(inbox_ms=LONG_MS, history_ms=1000)
    await node.inboxes.subscribe(ROOM, ANN)
    brake = Brake(node.inboxes._scripts, "inbox_subscribe")

    ending = asyncio.create_task(node.inboxes.unsubscribe(ROOM, ANN))
    await brake.holds()
    await other.inboxes.subscribe(ROOM, ANN)
    brake.release()
    await ending

    assert await _agreed(parts, node)


@run_async
async def test_a_subscription_that_ends_late_pins_nothing_after_an_unsubscription(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=1000)
    other = await parts.node(inbox_ms=LONG_MS, history_ms=1000)
    gate = Gate(node.inboxes._scripts, "inbox_places", first=1)

    putting = asyncio.create_task(node.inboxes.subscribe(ROOM, ANN))
    await gate.holds()
    await other.inboxes.unsubscribe(ROOM, ANN)
    gate.release()
    await putting

    assert not await _agreed(parts, node)
