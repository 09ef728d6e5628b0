"""What a worker tells the server: a part of it that is away holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from presence.client.answers import Event, Settled
from presence.client.errors import NotFound, PresenceError, Unavailable, Unreachable
from presence.client.holding import Holding, Order
from presence.client.telling import Telling
from tests.support.waiting import eventually, run_async

LEASE_MS = 60_000


class Parts:
    """A server whose parts can be away one by one, and the worker's half that speaks to it."""

    def __init__(self, most: int = 8, each_s: float = 60.0) -> None:
        self.holding = Holding(most, LEASE_MS)
        self.away: set[str] = set()
        self.problem: PresenceError | None = None
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.changed = asyncio.Event()
        self.telling = Telling(self.holding, self._answer, each_s, self.changed)

    def hold(self, *names: str) -> list[Event]:
        """Take these, and begin with them."""
        events = [Event("leave", "room", "epoch", 1, 0, id=name) for name in names]
        self.holding.add(events, asyncio.get_running_loop().time())
        for _ in events:
            self.holding.begin(0.0)
        return events

    def done(self, events: Iterable[Event]) -> None:
        """They are handled."""
        for event in events:
            self.holding.done(event)

    def holds(self, number: int) -> bool:
        """Speak, and look how many are still held."""
        self.telling.speak()
        return len(self.holding) == number

    async def _answer(self, order: Order) -> Settled:
        self.asked.append((order.what, order.ids))
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        known = tuple(name for name in order.ids if name.partition("-")[0] not in self.away)
        if not known:
            raise Unavailable(503, "unavailable", "")
        return Settled(known, ())


@run_async
async def test_what_is_in_neither_list_is_asked_again_by_itself_while_the_others_go_on() -> None:
    parts = Parts()
    parts.away = {"3"}
    parts.done(parts.hold("3-1", "4-1"))

    await eventually(lambda: parts.holds(1))
    parts.done(parts.hold("4-2"))
    await eventually(lambda: parts.holds(1))
    await eventually(lambda: parts.telling.speak() or parts.asked.count(("ack", ("3-1",))) >= 2)
    assert parts.asked[0] == ("ack", ("3-1", "4-1"))
    assert ("ack", ("4-2",)) in parts.asked

    parts.away.clear()
    await eventually(lambda: parts.holds(0))
    parts.done(parts.hold("3-2", "4-3"))
    await eventually(lambda: parts.holds(0))
    assert parts.asked[-1] == ("ack", ("3-2", "4-3"))  # together again


@run_async
async def test_a_refusal_of_the_whole_request_finds_the_part_that_is_away() -> None:
    parts = Parts()
    parts.problem = Unavailable(500, "internal", "one part of it could not")
    parts.done(parts.hold("3-1", "4-1"))
    await eventually(lambda: parts.telling.speak() or len(parts.asked) == 1)
    parts.problem = None
    parts.away = {"3"}

    await eventually(lambda: parts.holds(1))
    await parts.telling.close()


@run_async
async def test_a_server_that_is_not_there_is_asked_once_for_all_parts() -> None:
    parts = Parts()
    parts.problem = Unreachable("no", sent=False)
    parts.done(parts.hold("3-1", "4-1"))

    await eventually(lambda: parts.telling.speak() or len(parts.asked) >= 3)
    assert set(parts.asked) == {("ack", ("3-1", "4-1"))}
    parts.problem = None
    await eventually(lambda: parts.holds(0))


@run_async
async def test_what_lies_in_a_part_that_is_away_leaves_its_room_to_others_up_to_a_bound() -> None:
    parts = Parts(most=2)
    parts.away = {"3"}
    parts.hold("3-1", "3-2")
    assert parts.holding.room == 0
    for number in range(2, 5):
        parts.done(parts.hold(f"3-{2 * number - 3}", f"3-{2 * number - 2}"))
        await eventually(lambda: parts.telling.speak() or parts.holding.away == {"3"})
        assert parts.holding.room == 2
    parts.hold("3-7", "3-8")
    assert parts.holding.room == 0
    await parts.telling.close()


@run_async
async def test_leases_are_extended_in_time_though_a_part_is_away() -> None:
    parts = Parts(each_s=0.05)
    parts.away = {"3"}
    parts.hold("3-1", "4-1")

    await eventually(lambda: parts.telling.speak() or parts.asked.count(("extend", ("4-1",))) >= 3)
    assert parts.asked[0] == ("extend", ("3-1", "4-1"))
    assert parts.holding.away == {"3"}
    await parts.telling.close()


@run_async
async def test_a_refusal_for_good_is_raised() -> None:
    parts = Parts()
    parts.problem = NotFound(404, "not_found", "no such queue")
    parts.done(parts.hold("3-1"))

    with pytest.raises(NotFound):
        await eventually(lambda: parts.telling.speak())
