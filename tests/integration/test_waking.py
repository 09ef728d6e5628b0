"""Who is woken by what a node hears: only those to whom the feed may have something new."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from presence.events import Event
from presence.keys import inbox_of
from presence.queues import Queue
from tests.chaos.deliveries import deliverer_of
from tests.support.hooks import write_targets
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

HEARD = Event("lobby", "e", 1, 1, "message", "", "", "", "", b"{}")


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


@run_async
async def test_messages_to_users_wake_neither_takers_nor_webhooks(parts: Parts, tmp_path: Path) -> None:
    targets = {"hook": {"url": "http://127.0.0.1:1/", "channels": "*"}}
    node = await parts.node(webhooks_file=write_targets(tmp_path / "webhooks.toml", targets))
    await node.queues.put("work", Queue(), from_start=False)
    await node.webhooks.start()
    taking = asyncio.ensure_future(node.takers.take("work", "one", 1, 20_000, 1_000))
    bell = await eventually(lambda: (line := node.takers._lines.get("work")) and line.waiting[0], 5)
    await eventually(lambda: deliverer_of(node)._note, 5)

    for event, wakes in ((replace(HEARD, channel=inbox_of("ann")), False), (HEARD, True)):
        node.takers.heard_event(event)
        node.webhooks.heard_event(event)
        assert (bell.is_set(), deliverer_of(node)._bell.is_set()) == (wakes, wakes)
    taking.cancel()
    await node.webhooks.stop()
