"""Scenarios: of the connections of a session the one with the highest number wins, everywhere."""

from __future__ import annotations

import asyncio

from presence import upkeep
from tests.chaos.workbench import NUMBERS, ROOM, Gate, Workbench, gone_after_the_grace, late
from tests.support.waiting import eventually

OLDER, NEWER = NUMBERS[:2]


async def an_older_connection_cannot_end_the_newer_one(bench: Workbench) -> None:
    """A `leave` of a replaced connection is late."""
    node = await bench.node()
    await bench.join(number=OLDER)
    await bench.join(number=NEWER)

    await late(node.tracker.leave(ROOM, "alice", "session-1", OLDER))

    assert await bench.story() == ["join"]


async def an_older_close_starts_no_grace(bench: Workbench) -> None:
    """The node of a replaced connection notices only now that its client is gone."""
    node = await bench.node()
    await bench.join(number=OLDER)
    await bench.join(number=NEWER)

    await node.tracker.close(ROOM, "alice", "session-1", OLDER)
    await bench.past(await bench.now_ms() + 150)
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def an_older_join_does_not_cancel_the_grace(bench: Workbench) -> None:
    """The newest connection was closed by its client; a join of the one before it is late."""
    node = await bench.node()
    await bench.join(number=NEWER)
    await node.tracker.close(ROOM, "alice", "session-1", NEWER)

    await late(bench.join(number=OLDER))

    await gone_after_the_grace(bench)


async def an_older_heartbeat_does_not_cancel_the_grace(bench: Workbench) -> None:
    """The newest connection was closed by its client; a heartbeat of the one before it is late."""
    node = await bench.node()
    await bench.join(number=NEWER)
    await node.tracker.close(ROOM, "alice", "session-1", NEWER)

    await bench.touch(number=OLDER)

    await gone_after_the_grace(bench)


async def a_beat_between_two_connections_does_not_replace_the_newer_one(bench: Workbench) -> None:
    """A stream was closed by its client and the next one has its number; a beat by HTTP comes before its join."""
    node = await bench.node()
    await bench.join(number=OLDER)
    await node.tracker.close(ROOM, "alice", "session-1", OLDER)
    (word,) = await node.tracker.heartbeats_of([(ROOM, "alice", "session-1")])
    assert word == "refreshed"

    await late(bench.join(number=NEWER))
    await node.tracker.close(ROOM, "alice", "session-1", NEWER)

    await gone_after_the_grace(bench)


async def an_older_join_does_not_undo_a_leave(bench: Workbench) -> None:
    """The newest connection left, before the join of the one before it arrived: nothing was registered yet."""
    node = await bench.node()
    await late(node.tracker.leave(ROOM, "alice", "session-1", NEWER))

    await late(bench.join(number=OLDER))

    assert await bench.story() == []


async def an_older_connection_does_not_overwrite_the_state(bench: Workbench) -> None:
    """A `set` of a replaced connection is late."""
    node = await bench.node()
    await bench.join(number=OLDER)
    await bench.join(number=NEWER, state='{"by":"newer"}')

    await late(node.tracker.set_state(ROOM, "alice", "session-1", OLDER, '{"by":"older"}'))

    assert (await bench.roster())["alice"]["state"] == {"by": "newer"}


async def an_older_connection_that_heard_of_nothing_gives_way(bench: Workbench) -> None:
    """The older one's node missed the message on the bus; it renews the session's record, then shows life."""
    deaf, node = await bench.node(), await bench.node(listening=True)
    older = await bench.tab(deaf)
    await older.join()
    newer = await bench.tab(node)
    await newer.join()

    await upkeep.note(older.session)
    older.send(type="beat")

    await eventually(lambda: older.closed or newer.closed, 3)
    assert (older.closed, newer.closed) == (4009, None)


async def a_connection_replaced_before_it_was_answered_gives_way(bench: Workbench) -> None:
    """Redis has numbered the older connection, then a newer one; the older one's answer comes last."""
    slow, node = await bench.node(listening=True), await bench.node(listening=True)
    gate = Gate(slow.scripts, "connect")
    opening = asyncio.create_task(bench.tab(slow))
    await gate.holds()
    (older,) = slow.registry.all()
    newer = await bench.tab(node)
    await eventually(lambda: older._heard_number == int(newer.session.number), 3)

    gate.release()

    await late(opening)
    assert (older.ended, newer.closed) == (True, None), "two connections of one session"


async def the_news_of_an_older_connection_closes_nobody(bench: Workbench) -> None:
    """The message about the connection before this one, and the one about this one itself, arrive now."""
    node = await bench.node()
    older = await bench.tab(node)
    newer = await bench.tab(node)

    for number in (older.session.number, newer.session.number):
        node.registry.heard_control(["replaced", "alice", "session-1", number])
    await node.registry.catch_up(node.directory.numbers, node.directory.registered, {0})

    await eventually(lambda: older.closed == 4009, 3)
    assert newer.closed is None


async def news_that_the_record_denies_closes_nobody(bench: Workbench) -> None:
    """A primary that lost its role gave a number to a request that it should not have answered any more."""
    node = await bench.node()
    tab = await bench.tab(node)

    node.registry.heard_control(["replaced", "alice", "session-1", str(int(tab.session.number) + 1_000_000)])

    assert (await tab.join())["type"] == "joined"
    await late(bench.touched())
    assert tab.closed is None


async def news_lost_with_a_subscription_is_read_from_the_records(bench: Workbench) -> None:
    """The older one's node had no subscription when it was replaced, and it is in no channel that could tell it."""
    deaf, node = await bench.node(), await bench.node()
    older = await bench.tab(deaf)
    newer = await bench.tab(node)

    deaf.broker.start()

    await eventually(lambda: older.closed, 1.5)
    assert (older.closed, newer.closed) == (4009, None)


async def a_connection_that_takes_a_new_number_gives_way_to_a_newer_one(bench: Workbench) -> None:
    """A reload: the old page said `bye` and is heard once more, which makes its node ask for its number; before it
    takes the next one the new page connects."""
    deaf, node = await bench.node(), await bench.node(listening=True)
    older = await bench.tab(deaf)
    await older.join()
    await older.ask(type="bye")
    gate = Gate(deaf.scripts, "touch", first=1)
    older.send(type="beat")
    await gate.holds()
    newer = await bench.tab(node)

    gate.release()

    await eventually(lambda: older.closed or newer.closed, 3)
    assert (older.closed, newer.closed) == (4009, None)
