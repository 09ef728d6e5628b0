"""What tests of mailboxes do on parts of a node: publish, fetch and acknowledge as one user, Ann."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from presence.events import parse_cursor
from presence.inboxes import Waiting
from presence.keys import inbox_of
from presence.node import Node
from tests.chaos.workbench import ROOM
from tests.support.parts import Parts
from tests.support.stage import Stage

ANN = "ann"
OWN = inbox_of(ANN)
LONG_MS = 3_600_000
AT_ONCE = 50  # a pipeline that is answered in time on a busy machine, too


async def publish(node: Node, channel: str, *values: Any) -> list[str]:
    """Messages in this order; their cursors."""
    cursors: list[str] = []
    for at in range(0, len(values), AT_ONCE):
        calls = (node.tracker.publish(channel, "m", json.dumps(value)) for value in values[at : at + AT_ONCE])
        cursors += await asyncio.gather(*calls)
    return cursors


async def fetch(node: Node, channel: str = ROOM, limit: int = 1000) -> Waiting | None:
    """What waits for Ann in one channel."""
    pending = await node.inboxes.fetch(ANN, limit)
    return next((entry for entry in pending.channels if entry.channel == channel), None)


async def ack(node: Node, cursor: str, channel: str = ROOM) -> None:
    """Ann has dealt with everything up to the cursor."""
    parsed = parse_cursor(cursor)
    assert parsed is not None
    await node.inboxes.ack(ANN, channel, parsed)


async def drain(node: Node, channel: str, limit: int = 1000) -> tuple[list[Any], int]:
    """Fetch and acknowledge until nothing waits: the data of all events, and how many were missed."""
    seen: list[Any] = []
    missed = 0
    while (entry := await fetch(node, channel, limit)) is not None:
        assert len(entry.events) <= limit
        seen += data(entry)
        missed += entry.missed
        await ack(node, entry.cursor, channel)
    return seen, missed


async def drain_all(stage: Stage, user: str) -> dict[str, list[Any]]:
    """The same over HTTP, in all channels: the data of their messages; nothing may be missed."""
    seen: dict[str, list[Any]] = {}
    while entries := (await stage.ask("GET", "users", user, "inbox", query={"limit": 1000}))["channels"]:
        for entry in entries:
            assert "missed" not in entry and "recovered" not in entry
            seen.setdefault(entry["channel"], []).extend(
                event["data"] for event in entry["events"] if event["type"] == "message"
            )
            place = {"channel": entry["channel"], "cursor": entry["cursor"]}
            assert (await stage.api("POST", "users", user, "inbox", "ack", json=place)).status == 204
    return seen


def data(entry: Waiting | None) -> list[Any]:
    """The data of an entry's messages."""
    return [json.loads(text).get("data") for text in entry.events] if entry else []


def key(node: Node, kind: str, name: str = ROOM) -> str:
    """A key in the one partition of these nodes."""
    return node.keys.script(0)[0].removesuffix("guard") + f"{kind}:{name}"


async def fail_over(parts: Parts, node: Node, channel: str = ROOM) -> None:
    """Let the channel look as after a failover: its next event begins an epoch."""
    await parts.redis.hset(key(node, "meta", channel), "replid", "of another")
