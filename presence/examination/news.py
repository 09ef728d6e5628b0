"""Whether what is published, and what expires, is told to those who listen."""

from __future__ import annotations

import time

from redis.asyncio.client import PubSub

from presence.examination.asking import TIMEOUT_S

NEWS_S = 1.0


async def subscribe(pubsub: PubSub, channel: str, *, sharded: bool = False) -> None:
    """Return when the server has confirmed it."""
    await (pubsub.ssubscribe(channel) if sharded else pubsub.subscribe(channel))
    ends = time.monotonic() + TIMEOUT_S
    while time.monotonic() < ends:
        message = await pubsub.get_message(timeout=0.1)
        if message and message["type"] in ("subscribe", "ssubscribe"):
            return
    raise TimeoutError


async def heard(pubsub: PubSub, text: str) -> bool:
    """Whether this key, or a message on this channel, is told in time; others' news are passed over."""
    ends = time.monotonic() + NEWS_S
    while time.monotonic() < ends:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
        if message and text in (message["channel"], message["data"]):
            return True
    return False


def with_expired(flags: str) -> str:
    """The flags with what they lack of E (events by key name) and x (expired; A contains it)."""
    return flags + ("" if "E" in flags else "E") + ("" if {"x", "A"} & set(flags) else "x")
