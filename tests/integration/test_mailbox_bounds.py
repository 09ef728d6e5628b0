"""What a mailbox or a subscription may pin, what is told of the rest, and what loss of data and races may not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import presence.inboxes
from presence.errors import LimitExceeded, NotFound, Unavailable
from presence.events import parse_cursor
from presence.inboxes import FRAME_BYTES, Inboxes, Waiting
from presence.keys import INBOX, inbox_of
from presence.node import Node
from tests.chaos.workbench import ROOM, Gate, Tab
from tests.support.parts import Parts
from tests.support.patches import Cut, changed, without
from tests.support.redis_server import RedisServer
from tests.support.stage import StageMaker
from tests.support.waiting import eventually, run_async

ANN = "ann"
OWN = inbox_of(ANN)
LONG_MS = 3_600_000


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


async def publish(node: Node, channel: str, *data: Any) -> list[str]:
    """Messages in this order; their cursors."""
    return await asyncio.gather(*(node.tracker.publish(channel, "m", json.dumps(value)) for value in data))


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


def data(entry: Waiting | None) -> list[Any]:
    """The data of an entry's messages."""
    return [json.loads(text).get("data") for text in entry.events] if entry else []


def key(node: Node, kind: str, name: str = ROOM) -> str:
    """A key in the one partition of these nodes."""
    return node.keys.script(0)[0].removesuffix("guard") + f"{kind}:{name}"


async def fail_over(parts: Parts, node: Node, channel: str = ROOM) -> None:
    """Let the channel look as after a failover: its next event begins an epoch."""
    await parts.redis.hset(key(node, "meta", channel), "replid", "of another")


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
    assert data(await fetch(node)) == [1, 2]
    await node.inboxes.unsubscribe(ROOM, ANN)
    await parts.past(await parts.now_ms() + 150)

    patterns = (f"*{kind}:{ROOM}*" for kind in ("meta", "log", "past", "subscribers"))
    assert [name for pattern in patterns async for name in parts.redis.scan_iter(parts._prefix + pattern)] == []


@run_async
async def test_a_new_epoch_loses_nothing_that_waits(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    for channel in (ROOM, OWN):
        first = await publish(node, channel, 1, 2, 3)
        await ack(node, first[0], INBOX if channel == OWN else ROOM)
        await fail_over(parts, node, channel)
        second = await publish(node, channel, 4, 5)
        name = INBOX if channel == OWN else ROOM

        entry = await fetch(node, name)

        assert entry is not None
        assert (data(entry), entry.missed, entry.cursor) == ([2, 3, 4, 5], 0, second[1])
        assert first[0].partition(":")[0] != second[0].partition(":")[0]
        part = await fetch(node, name, limit=1)
        assert part is not None and part.cursor == first[1]
        await ack(node, first[2], name)
        await ack(node, first[1], name)
        assert data(await fetch(node, name)) == [4, 5]
        await ack(node, second[0], name)
        await ack(node, first[2], name)
        assert data(await fetch(node, name)) == [5]


@run_async
async def test_only_four_earlier_epochs_are_kept_and_the_rest_is_counted(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    for number in range(7):
        await publish(node, ROOM, number, number)
        await fail_over(parts, node)

    entry = await fetch(node)

    assert entry is not None
    assert (data(entry), entry.missed) == ([2, 2, 3, 3, 4, 4, 5, 5, 6, 6], 4)
    logs = [name async for name in parts.redis.scan_iter(key(node, "past") + "*")]
    assert len(logs) == 4


@run_async
async def test_a_position_in_what_was_rolled_back_hides_nothing_new(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3, 4)
    await ack(node, cursors[3])

    await parts.redis.hset(
        key(node, "meta"), mapping={"seq": 2, "replid": "of another"}
    )  # as a replica that was behind
    await parts.redis.xtrim(key(node, "log"), maxlen=0, approximate=False)
    await publish(node, ROOM, "new", "newer")

    entry = await fetch(node)
    assert entry is not None
    assert (data(entry), entry.missed) == (["new", "newer"], 0)
    await ack(node, entry.cursor)
    assert await fetch(node) is None


@run_async
async def test_an_epoch_that_was_rolled_back_hides_nothing_new(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    await publish(node, ROOM, 1, 2)
    before = {name: await parts.redis.dump(key(node, name)) for name in ("meta", "log")}
    await fail_over(parts, node)
    lost = await publish(node, ROOM, 3, 4, 5)
    await ack(node, lost[2])

    for name, dumped in before.items():
        await parts.redis.restore(key(node, name), 0, dumped, replace=True)
    await fail_over(parts, node)
    await publish(node, ROOM, "new", "newer")

    assert data(await fetch(node)) == ["new", "newer"]


@run_async
async def test_a_channel_whose_history_was_lost_is_told_to_have_begun_anew_and_is_kept_again(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS, history_ms=100)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3)
    await ack(node, cursors[2])
    await parts.forget(":meta:", ":log:", ":subscribers:")

    assert await fetch(node) is None
    await publish(node, ROOM, "new")
    await parts.past(await parts.now_ms() + 150)

    entry = await fetch(node)
    assert entry is not None
    assert (data(entry), entry.missed, entry.recovered) == (["new"], 0, False)
    await ack(node, entry.cursor)
    await publish(node, ROOM, "newer")
    again = await fetch(node)
    assert again is not None
    assert (data(again), again.recovered) == (["newer"], True)


async def _two_acks_cross(parts: Parts) -> None:
    """The older of two acknowledgements arrives later than the newer one."""
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3)
    gate = Gate(node.scripts, "inbox_locate", first=1)

    older = asyncio.create_task(ack(node, cursors[0]))
    await gate.holds()
    await ack(node, cursors[1])
    gate.release()
    await older

    assert data(await fetch(node)) == [3]


@run_async
async def test_of_two_acknowledgements_that_cross_the_newer_one_counts(parts: Parts) -> None:
    await _two_acks_cross(parts)


@run_async
async def test_without_its_guard_an_older_acknowledgement_moves_the_position_back(parts: Parts) -> None:
    cut = Cut("inbox_ack.lua", "or total <= reached(row, born, epochs) then -- guard: never backwards", "then")

    with without(cut), pytest.raises(AssertionError):
        await _two_acks_cross(parts)


@run_async
async def test_without_its_guard_a_new_epoch_loses_what_waits(parts: Parts) -> None:
    cut = Cut("publish.lua", "elseif saved[5] then -- guard: what waits survives a new epoch", "elseif false then")

    with without(cut):
        node = await parts.node(inbox_ms=LONG_MS)
        await publish(node, OWN, 1)
        await fail_over(parts, node, OWN)
        await publish(node, OWN, 2)

    entry = await fetch(node, INBOX)
    assert entry is not None and (data(entry), entry.missed) == ([2], 1)


@run_async
async def test_an_acknowledgement_that_an_epoch_overtakes_moves_nothing_back(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3)
    gate = Gate(node.scripts, "inbox_locate", first=1)

    older = asyncio.create_task(ack(node, cursors[2]))
    await gate.holds()
    await fail_over(parts, node)
    (newer,) = await publish(node, ROOM, 4)
    await ack(node, newer)
    gate.release()
    await older

    assert await fetch(node) is None


@run_async
async def test_subscriptions_of_a_user_are_limited_and_a_refused_one_pins_nothing(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    with changed(presence.inboxes, "MOST_SUBSCRIPTIONS", 3):
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


# ---- what is pushed


def letters(tab: Tab) -> list[Any]:
    """The data of the pushed messages; None for a frame that says that some were missed."""
    pushed = [frame for frame in tab.read() if frame.get("channel") == INBOX]
    return [value for frame in pushed for value in ([event["data"] for event in frame["events"]] or [None])]


def deafen(node: Node) -> Callable[[], None]:
    """Let the bus be silent for this node, until the answer is called."""
    heard, node.broker.on_event = node.broker.on_event, lambda event: None

    def hear_again() -> None:
        node.broker.on_event = heard

    return hear_again


@run_async
async def test_messages_that_the_bus_lost_are_read_again(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node, ANN)
    await publish(node, OWN, 1)
    await eventually(lambda: letters(tab) == [1], 5)

    hear_again = deafen(node)
    await publish(node, OWN, 2, 3)
    hear_again()
    await publish(node, OWN, 4)

    await eventually(lambda: letters(tab) == [1, 2, 3, 4], 5)


@run_async
async def test_a_node_that_subscribes_again_looks_for_messages_that_it_did_not_hear(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tabs = [await parts.tab(node, ANN, f"session-{number}") for number in range(2)]
    other = await parts.tab(node, "bob")
    hear_again = deafen(node)
    await publish(node, OWN, 1)
    hear_again()

    await node._subscribed(frozenset([0]))

    for tab in tabs:
        await eventually(lambda tab=tab: letters(tab) == [1], 5)
    assert letters(other) == []


@run_async
async def test_who_missed_more_than_a_frame_holds_is_told_to_fetch(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node, ANN)
    await publish(node, OWN, 0)
    await eventually(lambda: letters(tab) == [0], 5)

    hear_again = deafen(node)
    await publish(node, OWN, *("x" * 15_000 for _ in range(20)))
    hear_again()
    (cursor,) = await publish(node, OWN, 1)
    await eventually(lambda: letters(tab) == [0, None], 5)
    await publish(node, OWN, 2)

    await eventually(lambda: letters(tab) == [0, None, 2], 5)
    assert next(frame for frame in tab.frames if frame.get("events") == [])["cursor"] == cursor


@run_async
async def test_a_message_that_comes_while_a_connection_is_opened_follows_its_welcome(parts: Parts) -> None:
    node = await parts.node(listening=True)
    gate = Gate(node.scripts, "connect")
    opening = asyncio.create_task(parts.tab(node, ANN))
    await gate.holds()
    await publish(node, OWN, 1)
    await eventually(lambda: [session.inbox.behind for session in node.registry.all()] == [True], 5)
    gate.release()
    tab = await opening

    await eventually(lambda: letters(tab) == [1], 5)
    assert tab.frames[0]["type"] == "welcome"


@run_async
async def test_what_waits_survives_a_restart_of_redis(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, ttl_ms=5000)
    await stage.api("PUT", "channels", stage.channel, "subscribers", ANN)
    cursors = []
    for number in (1, 2):
        await stage.message("m", number)
        body = {"name": "m", "data": number}
        cursors.append((await stage.ask("POST", "users", ANN, "messages", json=body))["cursor"])
    watcher = await stage.watcher("websocket")

    stage.redis.kill()
    stage.redis.restart()
    await eventually(lambda: stage.probe("/readyz"), 10)

    async def published() -> bool:
        body = {"name": "m", "data": 3}
        once = {"Idempotency-Key": "once"}
        return (await stage.api("POST", "users", ANN, "messages", json=body, headers=once)).status == 200

    await eventually(published, 10)
    await stage.message("m", 3)
    assert (
        await stage.api("POST", "users", ANN, "inbox", "ack", json={"channel": INBOX, "cursor": cursors[0]})
    ).status == 204
    waits = (await stage.ask("GET", "users", ANN, "inbox"))["channels"]
    assert [[e["data"] for e in entry["events"] if e["type"] == "message"] for entry in waits] == [[2, 3], [1, 2, 3]]
    assert all("missed" not in entry for entry in waits)
    assert waits[0]["cursor"].partition(":")[0] != cursors[0].partition(":")[0], "a new epoch"
    assert watcher.closed is None
