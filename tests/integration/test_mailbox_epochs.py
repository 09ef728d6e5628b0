"""What new epochs, rollbacks, lost data and acknowledgements that cross may not do to what waits."""

from __future__ import annotations

import asyncio
import json

import pytest

from presence.client.calls import inbox
from presence.keys import INBOX
from presence.pickup import waiting_texts
from tests.chaos.workbench import ROOM, Gate
from tests.support.mailboxes import ANN, LONG_MS, OWN, ack, data, drain, drain_all, fail_over, fetch, key, publish
from tests.support.parts import Parts
from tests.support.patches import Cut, without
from tests.support.redis_server import RedisServer
from tests.support.stage import StageMaker
from tests.support.waiting import eventually, run_async


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


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
        assert (data(entry), entry.missed, entry.cursor) == ([2, 3], 0, first[2]), "not of two epochs"
        assert (await node.inboxes.fetch(ANN, 1000)).more
        assert first[0].partition(":")[0] != second[0].partition(":")[0]
        part = await fetch(node, name, limit=1)
        assert part is not None and part.cursor == first[1]
        await ack(node, first[2], name)
        await ack(node, first[1], name)
        entry = await fetch(node, name)
        assert entry is not None and (data(entry), entry.missed, entry.cursor) == ([4, 5], 0, second[1])
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

    assert await drain(node, ROOM) == ([2, 2, 3, 3, 4, 4, 5, 5, 6, 6], 4)
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


@run_async
async def test_acknowledging_the_first_event_of_an_answer_hides_none_of_its_others(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await publish(node, OWN, 1, 2, 3)
    await fail_over(parts, node, OWN)
    await publish(node, OWN, 4, 5, 6)

    texts = waiting_texts(await node.inboxes.fetch(ANN, 100))
    answer = inbox(ANN).parse(json.loads(f'{{"channels":[{",".join(texts)}]}}'))
    first = answer.channels[0].events[0]
    await ack(node, first.cursor, INBOX)

    assert first.data == 1
    assert await drain(node, INBOX) == ([2, 3, 4, 5, 6], 0)


@run_async
async def test_a_position_in_what_was_rolled_back_hides_nothing_after_many_epochs_either(parts: Parts) -> None:
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3, 4, 5, 6)
    await ack(node, cursors[5])
    await parts.redis.hset(key(node, "meta"), mapping={"seq": 4, "replid": "of another"})
    await parts.redis.xdel(key(node, "log"), "5-0", "6-0")

    for number in range(6):
        await publish(node, ROOM, number)
        await fail_over(parts, node)

    # Where the histories parted is forgotten by now: of the first one after that nobody can tell that it is missed.
    assert await drain(node, ROOM) == ([1, 2, 3, 4, 5], 0)


async def _two_acks_cross(parts: Parts) -> None:
    """The older of two acknowledgements arrives later than the newer one."""
    node = await parts.node(inbox_ms=LONG_MS)
    await node.inboxes.subscribe(ROOM, ANN)
    cursors = await publish(node, ROOM, 1, 2, 3)
    gate = Gate(node.inboxes._scripts, "inbox_locate", first=1)

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
    gate = Gate(node.inboxes._scripts, "inbox_locate", first=1)

    older = asyncio.create_task(ack(node, cursors[2]))
    await gate.holds()
    await fail_over(parts, node)
    (newer,) = await publish(node, ROOM, 4)
    await ack(node, newer)
    gate.release()
    await older

    assert await fetch(node) is None


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
    assert await drain_all(stage, ANN) == {INBOX: [2, 3], stage.channel: [1, 2, 3]}
    body = {"name": "m", "data": 4}
    cursor = (await stage.ask("POST", "users", ANN, "messages", json=body))["cursor"]
    assert cursor.partition(":")[0] != cursors[0].partition(":")[0], "a new epoch"
    assert watcher.closed is None
