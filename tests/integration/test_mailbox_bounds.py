"""What a mailbox or a subscription may pin, for how long, and what is told of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import presence.inboxes
from presence.errors import LimitExceeded, NotFound, Unavailable
from presence.events import parse_cursor
from presence.inboxes import FRAME_BYTES, Inboxes, Waiting
from presence.keys import INBOX, inbox_of
from tests.chaos.workbench import ROOM
from tests.support.mailboxes import ANN, LONG_MS, OWN, ack, data, drain, fail_over, fetch, key, publish
from tests.support.parts import Parts
from tests.support.patches import changed
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


@run_async
async def test_who_never_reads_a_busy_channel_is_told_how_many_events_are_gone(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    await publish(node, ROOM, *range(1500))

    kept = await parts.redis.xlen(key(node, "log"))
    seen, missed = await drain(node, ROOM, limit=300)

    assert 1000 <= kept < 1200
    assert (seen, missed) == (list(range(1500))[-kept:], 1500 - kept)
    assert await fetch(node) is None


@run_async
async def test_a_mailbox_keeps_the_last_thousand_messages(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await publish(node, OWN, *range(1007))

    assert await drain(node, INBOX, limit=400) == (list(range(7, 1007)), 7)


@run_async
async def test_a_mailbox_keeps_the_last_mebibyte_of_messages(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    texts = [f"{number:03}" + "x" * 15_000 for number in range(150)]

    most = 0
    for at in range(0, 150, 5):
        await publish(node, OWN, *texts[at : at + 5])
        rows = await parts.redis.xrange(key(node, "log", OWN))
        most = max(most, sum(len(fields[b"e"]) for _, fields in rows))
    seen, missed = await drain(node, INBOX)

    assert 850_000 < most <= 1 << 20
    assert seen == texts[-len(seen) :]
    assert missed == 150 - len(seen)
    assert 55 < len(seen) < 71


@run_async
async def test_the_bound_of_bytes_holds_over_epochs(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    texts = [f"{number:03}" + "x" * 15_000 for number in range(110)]
    for at in range(0, 110, 11):
        if at % 22:
            await fail_over(parts, node, OWN)
        await publish(node, OWN, *texts[at : at + 11])

    logs = [name async for name in parts.redis.scan_iter(key(node, "past", OWN) + "*")] + [key(node, "log", OWN)]
    rows = [fields[b"e"] for log in logs for _, fields in await parts.redis.xrange(log)]
    seen, missed = await drain(node, INBOX)

    assert sum(map(len, rows)) <= 1 << 20
    assert (seen, missed) == (texts[-len(rows) :], 110 - len(rows))


@run_async
async def test_what_is_older_than_the_retention_is_gone_and_counted(parts: Parts) -> None:
    node = await parts.node(inbox_ms=1000, history_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    await publish(node, ROOM, 1, 2)
    await publish(node, OWN, 1)
    await parts.past(await parts.now_ms() + 1100)
    (last,) = await publish(node, ROOM, 3)
    await publish(node, OWN, 2)

    room, own = await fetch(node), await fetch(node, INBOX)

    assert room is not None and own is not None
    assert (data(room), room.missed, room.cursor) == ([3], 2, last)
    assert (data(own), own.missed) == ([2], 1)
    assert await parts.redis.xlen(key(node, "log", OWN)) == 1


@run_async
async def test_where_everything_is_gone_the_number_is_told_until_it_is_acknowledged(parts: Parts) -> None:
    node = await parts.node(inbox_ms=1000, history_ms=100)
    (cursor,) = await publish(node, OWN, 1)
    await parts.past(await parts.now_ms() + 1100)

    entry = await fetch(node, INBOX)
    assert entry == Waiting(INBOX, cursor, 1, True, [])
    await ack(node, cursor, INBOX)
    assert await fetch(node, INBOX) is None
    (later,) = await publish(node, OWN, 2)
    assert await fetch(node, INBOX) == Waiting(INBOX, later, 0, True, (await fetch(node, INBOX) or entry).events)


@run_async
async def test_a_subscribed_channel_outlives_its_last_member_for_the_retention(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=100)
    await node.inboxes.subscribe(ROOM, ANN)
    for channel in (ROOM, "other"):
        await parts.join(channel=channel)
        await publish(node, channel, "hello")
        await node.tracker.leave(channel, "alice", "session-1", "1000")
    await parts.past(await parts.now_ms() + 150)

    entry = await fetch(node)

    assert entry is not None
    assert [json.loads(text)["type"] for text in entry.events] == ["join", "message", "leave"]
    assert not await parts.redis.exists(key(node, "meta", "other"), key(node, "log", "other"))
    assert await parts.redis.pttl(key(node, "meta")) == -1
    assert 0 < await parts.redis.pttl(key(node, "log")) <= LONG_MS


@run_async
async def test_the_last_subscriber_ends_the_retention(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=100)
    for user in (ANN, "bob"):
        await node.inboxes.subscribe(ROOM, user)
    await publish(node, ROOM, 1)
    await fail_over(parts, node)
    await publish(node, ROOM, 2)

    await node.inboxes.unsubscribe(ROOM, "bob")
    assert await drain(node, ROOM) == ([1, 2], 0)
    await node.inboxes.unsubscribe(ROOM, ANN)
    await parts.past(await parts.now_ms() + 150)

    patterns = (f"*{kind}:{ROOM}*" for kind in ("meta", "log", "past", "subscribers"))
    assert [name for pattern in patterns async for name in parts.redis.scan_iter(parts._prefix + pattern)] == []


@run_async
async def test_subscriptions_of_a_user_are_limited_and_a_refused_one_pins_nothing(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    with changed(presence.inboxes, "MOST_SUBSCRIPTIONS", 3):
        (cursor,) = await publish(node, OWN, 1)
        await ack(node, cursor, INBOX)  # a position, but no subscription
        for number in range(3):
            await node.inboxes.subscribe(f"room-{number}", ANN)
        with pytest.raises(LimitExceeded):
            await node.inboxes.subscribe("room-3", ANN)
        await node.inboxes.subscribe("room-2", ANN)
        await node.inboxes.unsubscribe("room-0", ANN)
        await node.inboxes.subscribe("room-4", ANN)

    assert not await parts.redis.exists(key(node, "subscribers", "room-3"))
    assert await parts.redis.pttl(key(node, "meta", "room-3")) > 0
    with pytest.raises(NotFound):
        await node.inboxes.ack(ANN, "room-3", ("e", 1))


@run_async
async def test_large_events_of_many_channels_share_an_answer_of_bounded_size(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, partitions=4)
    rooms = [f"room-{number}" for number in range(6)]
    for room in rooms:
        await node.inboxes.subscribe(room, ANN)
        await publish(node, room, *(str(number) + "x" * 15_000 for number in range(12)))

    seen: dict[str, list[str]] = {room: [] for room in rooms}
    sizes = []
    while (pending := await node.inboxes.fetch(ANN, 1000)).channels:
        sizes.append(sum(len(text) for entry in pending.channels for text in entry.events))
        assert len(sizes) > 1 or [entry.channel for entry in pending.channels] == rooms, "nobody is kept waiting"
        assert pending.more == (len(sizes) < 5)
        for entry in pending.channels:
            seen[entry.channel] += [value[0] for value in data(entry)]
            await ack(node, entry.cursor, entry.channel)

    assert max(sizes) <= FRAME_BYTES
    assert all(firsts == [str(number)[0] for number in range(12)] for firsts in seen.values())


@run_async
async def test_while_redis_gathers_its_data_again_nothing_waits_is_no_answer(parts: Parts) -> None:
    node = await parts.node()
    await parts.redis.hset(node.keys.script(0)[0], "settling", await parts.now_ms() + 2000)

    for work in (node.inboxes.fetch(ANN, 10), node.inboxes.ack(ANN, INBOX, ("e", 1))):
        with pytest.raises(Unavailable):
            await work


@run_async
async def test_a_redis_out_of_memory_changes_nothing_that_waits(fresh_redis: RedisServer) -> None:
    parts = Parts(fresh_redis)
    try:
        node = await parts.node(inbox_ms=LONG_MS)
        await node.inboxes.subscribe(ROOM, ANN)
        await publish(node, OWN, *range(1000))
        before = await parts.redis.dump(key(node, "log", OWN))

        await parts.redis.config_set("maxmemory", 1)
        calls: list[Callable[[Inboxes], Any]] = [
            lambda inboxes: inboxes.subscribe("other", ANN),
            lambda inboxes: publish(node, OWN, "one too many"),
        ]
        for call in calls:
            with pytest.raises(Unavailable):
                await call(node.inboxes)
        await parts.redis.config_set("maxmemory", 0)

        assert await parts.redis.dump(key(node, "log", OWN)) == before
        assert not await parts.redis.exists(key(node, "subscribers", "other"))
    finally:
        await parts.aclose()


@run_async
async def test_nothing_is_left_of_a_user_who_is_erased(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, partitions=4)
    for room in ("room-1", "room-2"):
        await node.inboxes.subscribe(room, "ann")
        await node.inboxes.subscribe(room, "bob")
    for user in ("ann", "bob"):
        cursor = await node.tracker.publish(inbox_of(user), "m", "1", idempotency_key="key")
        await node.inboxes.ack(user, INBOX, parse_cursor(cursor) or ("", 0))

    await node.inboxes.erase("ann")

    left = [name async for name in parts.redis.scan_iter(f"{parts._prefix}*")]
    for name in left:
        kind = await parts.redis.type(name)
        assert b"ann" not in name
        assert kind != b"set" or await parts.redis.smembers(name) == {b"bob"}
    assert sum(b"bob" in name for name in left) == 5, left
    assert len((await node.inboxes.fetch("bob", 10)).channels) == 0
    await node.inboxes.erase("ann")
