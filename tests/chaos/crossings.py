"""Scenarios: requests, replies and events that cross on their way, and what was ended stays ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from presence import places
from presence.answers import Ended, Held
from presence.keys import entry
from tests.chaos.workbench import NUMBERS, ROOM, Gate, Workbench, gone_after_the_grace, gone_at_the_deadline, late
from tests.support.waiting import eventually


async def who_is_taken_out_while_quiet_keeps_the_connection(bench: Workbench) -> None:
    """A back end removes a member that was last heard most of a ttl ago, and is well within its time."""
    node = await bench.node(listening=True)
    alice = await bench.tab(node)
    await alice.join()
    alice.session.heard_s -= 0.8 * 2.0

    assert await node.tracker.remove_member(ROOM, "alice", None)

    await eventually(lambda: alice.problems() == ["not_joined"] or alice.closed, 2)
    assert alice.closed is None, "closed as if it had been silent for a ttl"
    assert await bench.story() == ["join", "leave:left"]


async def a_rejoin_does_not_undo_a_disconnect(bench: Workbench) -> None:
    """A node was told `lost` and sets out to join again; before it does, a back end takes the user out."""
    node = await bench.node()
    await bench.join()

    await node.tracker.leave(ROOM, "alice", "", "", "disconnected")
    await late(bench.join(revive=True))

    assert await bench.story() == ["join", "leave:disconnected"]


async def a_heartbeat_never_creates(bench: Workbench) -> None:
    """A heartbeat of somebody who timed out and was announced as gone."""
    node = await bench.node()
    await bench.join(ttl_ms=40)
    await bench.past_deadlines()
    await bench.claim("alice")

    words = await node.tracker.heartbeats_of([(ROOM, "alice", "session-1")])

    assert words == ["not_joined"]
    assert await bench.redis.zcard(node.keys.due(ROOM)) == 0
    assert await bench.story() == ["join", "leave:timeout"]


async def a_heartbeat_on_its_way_does_not_cancel_the_grace(bench: Workbench) -> None:
    """The client sent a last sign of life and closed; the heartbeat waits in a batch, the close overtakes it."""
    node = await bench.node()
    await bench.join()
    await node.tracker.close(ROOM, "alice", "session-1", NUMBERS[0])

    await bench.touch()

    await gone_after_the_grace(bench)


async def an_old_answer_does_not_end_a_new_membership(bench: Workbench) -> None:
    """A heartbeat was told `ended`; before its node reads that, the client has joined again."""
    node = await bench.node()
    alice = await bench.tab(node)
    await alice.join()
    await node.tracker.remove_member(ROOM, "alice", None)
    gate = Gate(node.scripts, "touch", first=1)
    alice.session.alive()
    await gate.holds()
    await alice.join()

    gate.release()

    assert "not_joined" not in await alice.ask(type="beat")
    assert alice.problems() == []
    assert ROOM in alice.session.channels


async def a_last_word_before_the_close_counts(bench: Workbench) -> None:
    """A client that was silent for most of its ttl says one more thing, and closes at once: its heartbeat is overtaken
    by the closing, and kept out."""
    node = await bench.node(grace_ms=400)
    alice = await bench.tab(node)
    await alice.join(ttl_ms=1000)
    joined_ms = await bench.now_ms()
    await bench.past(joined_ms + 850)

    alice.session.alive()
    await alice.session.end(by_client=True)
    await bench.past(joined_ms + 1000)

    await gone_at_the_deadline(bench)


async def a_close_that_came_up_again_does_not_shorten_the_next_grace(bench: Workbench) -> None:
    """A client reconnects within its grace, and a failover takes that back; then this connection closes, too."""
    node = await bench.node(grace_ms=1000)
    first, second, _ = NUMBERS
    await bench.join(number=first)
    await node.tracker.close(ROOM, "alice", "session-1", first, silent_ms=0)
    closed_ms = await bench.now_ms()
    await bench.past(closed_ms + 700)

    await node.tracker.close(ROOM, "alice", "session-1", second, silent_ms=0)
    await bench.past(closed_ms + 1050)

    await gone_at_the_deadline(bench)


async def a_poll_that_a_leave_overtakes_does_not_hide_it(bench: Workbench) -> None:
    """A poll has read its session's record and sets out to go on; meanwhile the client leaves the channel."""
    node = await bench.node()
    tab = await bench.tab(node)
    await tab.join()
    await node.tracker.leave(ROOM, "alice", "session-1", "", "left")
    await node.tracker.note("alice", "session-1", "", None, {ROOM: Held(2000, True)}, limit=False)

    with suppress(Ended):
        await places.enter(tab.session, ROOM, "member", None, "", None, revive=True, as_events=True)
    known = await node.services.directory.record("alice", "session-1")
    assert known is not None and known.channels[ROOM].left


async def who_said_bye_is_not_brought_back(bench: Workbench) -> None:
    """The page said `bye` and its connection stays open, silent: its node hears that it timed out."""
    node = await bench.node(listening=True)
    alice = await bench.tab(node)
    await alice.join()
    await alice.ask(type="bye")

    await gone_after_the_grace(bench)

    await eventually(lambda: "not_joined" in alice.problems(), 2)
    await bench.touched()
    assert await bench.story() == ["join", "leave:timeout"]


async def opening_a_connection_is_a_sign_of_life(bench: Workbench) -> None:
    """The page is reloaded within the grace; the new one has not said a word yet when the grace is over."""
    node = await bench.node()
    older = await bench.tab(node)
    await older.join()
    await older.session.end(by_client=True)

    await bench.tab(node)
    await bench.touched()
    await bench.past(await bench.now_ms() + 150)
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def bye_does_not_cancel_itself(bench: Workbench) -> None:
    """The last sign of life is still on its way when the client says `bye`."""
    node = await bench.node()
    alice = await bench.tab(node)
    await alice.join()
    alice.session.alive()

    await alice.ask(type="bye")
    await bench.touched()

    await gone_after_the_grace(bench)


async def who_enters_misses_nothing_that_happens_meanwhile(bench: Workbench) -> None:
    """Bob joins after alice's snapshot was read, and before her node has the answer."""
    node = await bench.node(listening=True)
    alice = await bench.tab(node)
    heard: list[str] = []
    deliver = node.broker.on_event
    node.broker.on_event = lambda event: (deliver(event), heard.append(event.user))  # type: ignore[func-returns-value]
    gate = Gate(node.scripts, "join", first=1)
    entering = asyncio.create_task(alice.join(cursor="0:0"))
    await gate.holds()
    await bench.join("bob")
    await eventually(lambda: "bob" in heard, 3)

    gate.release()

    await entering
    await eventually(lambda: alice.read() and "bob" in alice.room.members, 1.5)
    assert alice.room.breaches == []


async def a_snapshot_and_its_cursor_are_of_one_instant(bench: Workbench) -> None:
    """Bob joins when the members of the snapshot have been read."""
    node = await bench.node(listening=True)
    await bench.join("carol")
    alice = await bench.tab(node)
    gate = Gate(node.scripts, "snapshot", first=1)
    entering = asyncio.create_task(alice.join(**{"as": "observer"}))
    await gate.holds()
    await bench.join("bob")

    gate.release()

    await entering
    await node.tracker.publish(ROOM, "fence", "null")
    await eventually(lambda: alice.read() and alice.room.log and alice.room.log[-1]["type"] == "message", 2)
    assert sorted(alice.room.members) == ["bob", "carol"]
    assert alice.room.breaches == []


async def who_joined_behind_a_leave_that_comes_up_again_is_joined_again(bench: Workbench) -> None:
    """She left and joined again; the primary was lost with the join, and its successor knows only the leave."""
    node = await bench.node()
    alice = await bench.tab(node)
    await alice.join()
    await node.tracker.remove_member(ROOM, "alice", None)
    tombstone = node.keys.script(0)[0].removesuffix("guard") + f"alive:{entry(ROOM, 'alice', 'session-1')}"
    assert await bench.redis.pexpire(tombstone, 50_000)  # as if ten seconds ago

    alice.session.alive()

    await eventually(lambda: _story_is(bench, "join", "leave:left", "join"), 2)
    assert alice.problems() == []


async def who_is_taken_out_stays_out(bench: Workbench) -> None:
    """One is taken out while it is connected, one while its page is reloaded."""
    node = await bench.node()
    alice, bob = await bench.tab(node), await bench.tab(node, "bob")
    await alice.join()
    await bob.join()
    await bob.session.end(by_client=True)
    for user in ("alice", "bob"):
        await node.tracker.remove_member(ROOM, user, None)
    alice.session.alive()
    bob = await bench.tab(node, "bob")
    bob.session.alive()

    await eventually(lambda: "not_joined" in alice.problems() and "not_joined" in bob.problems(), 2)
    await bench.touched()
    assert await bench.story() == ["join", "leave:left"]
    assert await bench.story("bob") == ["join", "leave:left"]


async def _story_is(bench: Workbench, *words: str) -> bool:
    return await bench.story() == list(words)
