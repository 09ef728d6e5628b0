"""Every guard of the exactly-once promise, and the proof that without it the promise breaks.

A scenario forces the one order of events that its guard is there for. It must hold with the guard and fail with the
guard taken out; what it asserts is a promise, never the guard itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from presence import upkeep
from presence.node import Node
from tests.chaos.workbench import NUMBERS, ROOM, Gate, Workbench, late
from tests.support.patches import Cut, without
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

Scenario = Callable[[Workbench], Awaitable[None]]
OLDER, NEWER = NUMBERS[:2]
LIMIT_S = 20


# ---- noticing silence ----


async def a_late_claim_leaves_a_session_that_lives_again_alone(bench: Workbench) -> None:
    """Redis said that the key expired; before anybody acts on it, a heartbeat revives the session."""
    await bench.node()
    await bench.join(ttl_ms=40)
    await bench.past_deadlines()

    assert await bench.touch() == "ok"
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def a_claim_that_comes_second_still_ends_the_others_of_its_batch(bench: Workbench) -> None:
    """Every node hears every notification: most entries of a batch were claimed by another node already."""
    await bench.node()
    await bench.join("alice", ttl_ms=40)
    await bench.join("bob", ttl_ms=40)
    await bench.past_deadlines()

    await bench.claim("alice")
    await bench.claim("alice", "bob")

    assert await bench.story("alice") == ["join", "leave:timeout"]
    assert await bench.story("bob") == ["join", "leave:timeout"]


async def an_entry_without_a_session_stops_nobody_behind_it(bench: Workbench) -> None:
    """A deadline whose session is not registered (an evicted or deleted hash) must not end every sweep."""
    node = await bench.node()
    await bench.join("alice", ttl_ms=40)
    await bench.redis.hdel(node.keys.sessions(ROOM), "alice\x1fsession-1")
    await bench.join("bob", ttl_ms=40)
    await bench.past_deadlines()

    await bench.stamp()
    await bench.sweep()

    assert await bench.story("bob") == ["join", "leave:timeout"]


async def silence_is_noticed_without_any_notification(bench: Workbench) -> None:
    """The notification triggers, the sweep guarantees: here nobody hears notifications."""
    await bench.node(sweeping=True)
    joined_ms = await bench.now_ms()
    await bench.join(ttl_ms=100)

    async def left() -> bool:
        return await bench.story() == ["join", "leave:timeout"]

    await eventually(left, 1.5)
    (leave,) = [event for event in await bench.events() if event["type"] == "leave"]
    assert joined_ms + 100 < leave["at"] < joined_ms + 100 + 1000


async def a_mass_departure_in_one_partition_delays_no_other(bench: Workbench) -> None:
    """1,500 people of one partition go at once, on a Redis that takes its time; bob is of another partition."""
    node = await bench.node(sweeping=True, partitions=2, grace_ms=500)
    names = [f"room-{number}" for number in range(10)]
    crowded = next(name for name in names if node.keys.partition(name) == 0)
    quiet = next(name for name in names if node.keys.partition(name) == 1)
    crowd = [f"user-{number}" for number in range(1500)]
    for at in range(0, len(crowd), 100):  # so that the sweep has its turn
        await asyncio.gather(*(bench.join(user, channel=crowded, show=False) for user in crowd[at : at + 100]))
    for at in range(0, len(crowd), 100):
        part = crowd[at : at + 100]
        await asyncio.gather(*(node.tracker.close(crowded, user, "session-1", NUMBERS[0]) for user in part))
    _slow_down(node, 0.05)
    await eventually(lambda: _some_left(bench, crowded), 3)
    await bench.join("bob", channel=quiet, ttl_ms=300)
    deadline_ms = await bench.now_ms() + 300

    async def bob_left() -> bool:
        return await bench.story("bob", quiet) == ["join", "leave:timeout"]

    await eventually(bob_left, 3)
    (_, leave) = await bench.events(quiet)
    assert leave["at"] - deadline_ms < 400
    starts = [await bench.redis.hget(node.keys.script(partition)[0], "hold_start") for partition in (0, 1)]
    assert starts == [None, None], "a partition that nobody swept looked like a stall"


def _slow_down(node: Node, delay_s: float) -> None:
    call = node._sweeps.call

    async def later(future: asyncio.Future[object]) -> object:
        reply = await future
        await asyncio.sleep(delay_s)
        return reply

    node._sweeps.call = lambda *parts: asyncio.ensure_future(later(call(*parts)))  # type: ignore[method-assign]


async def _some_left(bench: Workbench, channel: str) -> bool:
    return await bench.last_event(channel) == "leave"


# ---- what was ended stays ended ----


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


# ---- the highest number wins ----


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

    await _gone_after_the_grace(bench)


async def an_older_heartbeat_does_not_cancel_the_grace(bench: Workbench) -> None:
    """The newest connection was closed by its client; a heartbeat of the one before it is late."""
    node = await bench.node()
    await bench.join(number=NEWER)
    await node.tracker.close(ROOM, "alice", "session-1", NEWER)

    await bench.touch(number=OLDER)

    await _gone_after_the_grace(bench)


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
        newer.session.services.registry.heard_control(["replaced", "alice", "session-1", number])

    assert newer.closed is None
    assert older.closed == 4009


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


async def _gone_after_the_grace(bench: Workbench) -> None:
    await bench.past(await bench.now_ms() + 150)
    await bench.claim("alice")
    assert await bench.story() == ["join", "leave:timeout"]


# ---- replies and requests that cross ----


async def a_heartbeat_on_its_way_does_not_cancel_the_grace(bench: Workbench) -> None:
    """The client sent a last sign of life and closed; the heartbeat waits in a batch, the close overtakes it."""
    node = await bench.node()
    await bench.join()
    await node.tracker.close(ROOM, "alice", "session-1", NUMBERS[0])

    await bench.touch()

    await _gone_after_the_grace(bench)


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

    await _gone_after_the_grace(bench)


# ---- stalls ----


async def a_stall_takes_nobody_offline_who_is_still_there(bench: Workbench) -> None:
    """Nothing moved for five seconds; alice shows life as soon as things move again."""
    await bench.node()
    await bench.join(ttl_ms=300)
    await bench.past_deadlines()
    await bench.stamp(age_ms=5000)

    await bench.sweep()
    assert await bench.touch() == "ok"
    await bench.claim("alice")

    assert await bench.story() == ["join"]


async def a_short_stall_delays_no_long_ttl(bench: Workbench) -> None:
    """Whoever beats every third of 60 s had its chances, stall or not: its end is announced on time."""
    node = await bench.node()
    await bench.join(ttl_ms=60_000)
    await node.tracker.close(ROOM, "alice", "session-1", NUMBERS[0])
    await bench.past_deadlines()
    await bench.stamp(age_ms=600)

    await bench.sweep()

    assert await bench.story() == ["join", "leave:timeout"]


async def stalls_without_end_hold_nobody_back_for_ever(bench: Workbench) -> None:
    """One stall after the other; who shows no life between them is let go after three."""
    await bench.node()
    await bench.join(ttl_ms=50)

    for _ in range(4):
        assert await bench.story() == ["join"]
        await bench.past_deadlines()
        await bench.stamp(age_ms=5000)
        await bench.sweep(hold_ms=50)

    assert await bench.story() == ["join", "leave:timeout"]


# ---- what a client is shown ----


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


# ---- the guards ----


@dataclass(frozen=True)
class Guard:
    """A guard, by the text that makes it work, and the scenario that needs it."""

    name: str
    scenario: Scenario
    cut: Cut


ORDER = " -- guard: order of connection numbers"

GUARDS = [
    Guard(
        "liveness-check-of-a-claim",
        a_late_claim_leaves_a_session_that_lives_again_alone,
        Cut("expire.lua", "if lives then -- guard: liveness", "if false then"),
    ),
    Guard(
        "first-claim-wins",
        a_claim_that_comes_second_still_ends_the_others_of_its_batch,
        Cut("expire.lua", "if not score then -- another was first\n    return\n  end"),
    ),
    Guard(
        "registry-check-of-a-claim",
        an_entry_without_a_session_stops_nobody_behind_it,
        Cut("expire.lua", "if not session then -- guard: registry check of a claim", "if false then"),
    ),
    Guard(
        "sweep",
        silence_is_noticed_without_any_notification,
        Cut(
            "expire.lua",
            "redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. int(now), 'WITHSCORES', 'LIMIT', skip, batch)",
            "{}",
        ),
    ),
    Guard(
        "round-over-all-partitions",
        a_mass_departure_in_one_partition_delays_no_other,
        Cut(
            "presence.expiry:Expiry._sweep_for_ever",
            'self._round("repeat", self._partitions)',
            'self._round("repeat", [p for p in self._partitions if p.full])',
        ),
    ),
    Guard(
        "tombstone-for-heartbeats",
        who_is_taken_out_while_quiet_keeps_the_connection,
        Cut("touch.lua", "if alive and string.sub(alive, 1, 1) == '-' then -- guard: tombstone", "if false then"),
    ),
    Guard(
        "tombstone-for-joins",
        a_rejoin_does_not_undo_a_disconnect,
        Cut("join.lua", "if tomb and ARGV[13] == '0' then -- guard: tombstone", "if false then"),
    ),
    Guard(
        "registry-check-of-a-refresh",
        a_heartbeat_never_creates,
        Cut(
            "touch.lua",
            "if not session then\n    return 'lost'\n  end",
            "session = session or {ttl = 1000, number = 0, closed = 0, holds = 0, seen = 0}",
        ),
    ),
    Guard(
        "order-of-numbers-in-leave",
        an_older_connection_cannot_end_the_newer_one,
        Cut("leave.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-close",
        an_older_close_starts_no_grace,
        Cut("close.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-join",
        an_older_join_does_not_cancel_the_grace,
        Cut("join.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-touch",
        an_older_heartbeat_does_not_cancel_the_grace,
        Cut("touch.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-over-a-tombstone",
        an_older_join_does_not_undo_a_leave,
        Cut("join.lua", "if tomb and tomb > number then", "if false then"),
    ),
    Guard(
        "order-of-numbers-in-set",
        an_older_connection_does_not_overwrite_the_state,
        Cut("set.lua", "if ARGV[7] ~= '' and session.number > tonumber(ARGV[7]) then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-the-record",
        an_older_connection_that_heard_of_nothing_gives_way,
        Cut("record.lua", "if old > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-of-an-answer",
        a_connection_replaced_before_it_was_answered_gives_way,
        Cut("presence.session:Session.connect", "if self._heard_number > int(self.number):", "if False:"),
    ),
    Guard(
        "order-of-numbers-of-a-message",
        the_news_of_an_older_connection_closes_nobody,
        Cut(
            "presence.session:Session.heard_number",
            "and self._heard_number > int(self.number):",
            "and True:",
        ),
    ),
    Guard(
        "order-of-numbers-in-connect",
        a_connection_that_takes_a_new_number_gives_way_to_a_newer_one,
        Cut("connect.lua", "if ARGV[9] ~= '' and old > tonumber(ARGV[9]) then" + ORDER, "if false then"),
    ),
    Guard(
        "mark-of-a-closing-connection",
        a_heartbeat_on_its_way_does_not_cancel_the_grace,
        Cut("close.lua", "int(number) .. 'c'", "int(number)"),
    ),
    Guard(
        "check-of-that-mark",
        a_heartbeat_on_its_way_does_not_cancel_the_grace,
        Cut(
            "touch.lua",
            "if session.number == number and session.closed > 0 then -- guard: mark of a closing connection",
            "if false then",
        ),
    ),
    Guard(
        "generation-of-touch-replies",
        an_old_answer_does_not_end_a_new_membership,
        Cut(
            "presence.membership:Membership._touched",
            "current = self._wanted(generation)  # guard: generation of touch replies",
            "current = True",
        ),
    ),
    Guard(
        "generation-raised-by-bye",
        bye_does_not_cancel_itself,
        Cut("presence.membership:Membership.outdate", "self.generation += 1", "pass"),
    ),
    Guard(
        "life-shown-by-opening",
        opening_a_connection_is_a_sign_of_life,
        Cut("presence.session:open_session", "session.alive()"),
    ),
    Guard(
        "hold",
        a_stall_takes_nobody_offline_who_is_still_there,
        Cut("expire.lua", "if redis.call('EXISTS', due) == 1 then -- guard: hold", "if false then"),
    ),
    Guard(
        "limit-of-the-hold-by-ttl",
        a_short_stall_delays_no_long_ttl,
        Cut("expire.lua", "session.ttl > 4 * hold_length or "),
    ),
    Guard(
        "limit-of-the-hold-by-count",
        stalls_without_end_hold_nobody_back_for_ever,
        Cut("expire.lua", " or session.holds >= MAX_HOLDS"),
    ),
    Guard(
        "listen-first",
        who_enters_misses_nothing_that_happens_meanwhile,
        Cut(
            "presence.places:_take_place",
            "    membership.joining = False\n    if session.ended:",
            "    membership.joining = False\n"
            "    services.hub.close(membership.topic)\n"
            "    membership.topic = services.hub.open(channel)\n"
            "    if session.ended:",
        ),
    ),
    Guard(
        "atomic-snapshot",
        a_snapshot_and_its_cursor_are_of_one_instant,
        Cut(
            "presence.tracker:Tracker.view",
            "    return view_of(reply[1])",
            '    place = await self._snapshot("roster", channel, None, 1, "", FRAME_BYTES)\n'
            "    from dataclasses import replace\n    return replace(view_of(reply[1]), epoch=place[1].decode(), seq=int(place[2]))",
        ),
    ),
]

SCENARIOS = list(dict.fromkeys(guard.scenario for guard in GUARDS))


def play(scenario: Scenario, redis_server: RedisServer) -> None:
    """Run the scenario on a deployment of its own."""

    async def on_a_bench() -> None:
        bench = Workbench(redis_server)
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(bench)
        finally:
            await bench.aclose()

    asyncio.run(on_a_bench())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_holds_in_the_awkward_order(scenario: Scenario, redis_server: RedisServer) -> None:
    play(scenario, redis_server)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_its_guard_the_promise_breaks(guard: Guard, redis_server: RedisServer) -> None:
    with without(guard.cut), pytest.raises(AssertionError):
        play(guard.scenario, redis_server)
