"""A steady load of people on two nodes while something happens to Redis, and the verdict over it.

What they did is known, so what must be announced is known: who stays is never announced as gone, who goes is announced
once in each history, every client's log has no hole, and no position ever names two different events.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from websockets.exceptions import WebSocketException

from tests.support.clients import TRANSPORTS, Client, Frame
from tests.support.clients.base import ABNORMAL, CommandError
from tests.support.http import Refused
from tests.support.node import Node
from tests.support.stage import OwnStage
from tests.support.waiting import eventually

TTL_MS, GRACE_MS = 6000, 2500
SETTINGS = {"ttl_ms": TTL_MS, "grace_ms": GRACE_MS, "ping_ms": 2000, "max_commands_per_second": 0}
ROOMS = 10
STAYING, CHURNING, RESUMING, GOING = 130, 40, 10, 20
HEAL_S = 30.0
TROUBLES = (CommandError, AssertionError, OSError, EOFError, WebSocketException, Refused)


class SteadyLoad:
    """200 members over three transports, two observers, and a back end that publishes."""

    def __init__(self, stage: OwnStage, seed: int = 1) -> None:
        self.stage = stage
        self.rng = random.Random(seed)
        self.rooms = [f"room-{number}" for number in range(ROOMS)]
        self.observers: list[Client] = []
        self.published: dict[tuple[str, str], str] = {}
        self.over = asyncio.Event()
        self.leaving: set[Node] = set()  # nodes that are told to go: nobody comes to them any more
        self._people: dict[str, list[tuple[str, Client]]] = defaultdict(list)
        self._too_late: set[str] = set()

    async def play(self, fault: Awaitable[None], *, before_s: float = 1.5, after_s: float = 2.0) -> None:
        """Seat everybody, let them act, let the fault happen, wait until all has healed, and judge."""
        await self._seat()
        acting = [asyncio.create_task(act) for act in self._acts()]
        try:
            await asyncio.sleep(before_s)
            await fault
            await asyncio.sleep(after_s)
            await self.ready()
        finally:
            self.over.set()
            done = await asyncio.gather(*acting, return_exceptions=True)
        failed = [each for each in done if isinstance(each, BaseException)]
        assert not failed, failed
        await self._heal()
        self._judge()

    @property
    def nodes(self) -> list[Node]:
        """The nodes that a client may come to."""
        return [node for node in self.stage.nodes if node.running and node not in self.leaving]

    async def ready(self, word: bool = True) -> None:
        """Wait until every node says that it is ready (or is not)."""

        async def all_say() -> bool:
            answers = [await self.stage.probe("/readyz", node) for node in self.nodes]
            return all((answer.status == 200) == word for answer in answers)

        await eventually(all_say, HEAL_S, 0.1, what=f"ready to be {word} on all nodes")

    # ---- who acts how ----

    async def _seat(self) -> None:
        for node in self.stage.nodes:
            observer = await self.stage.connect("websocket", node, f"observer-{node.name}")
            for room in self.rooms:
                await observer.join(room, "observer")
            self.observers.append(observer)
        kinds = sorted(TRANSPORTS)
        plan = [("staying", STAYING), ("churning", CHURNING), ("resuming", RESUMING), ("going", GOING)]
        seats = [(manner, f"{manner}-{number}") for manner, count in plan for number in range(count)]
        for first in range(0, len(seats), 20):
            await asyncio.gather(
                *(
                    self._sit(manner, user, kinds[at % 3], at)
                    for at, (manner, user) in enumerate(seats[first : first + 20], first)
                )
            )

    async def _sit(self, manner: str, user: str, transport: str, at: int) -> None:
        room = self.rooms[at % ROOMS]
        if manner in ("going", "churning") or (manner == "resuming" and transport == "longpoll"):
            transport = "websocket"  # every poll resumes; of two at once the older may be numbered last
        client = self.stage.sketch(transport, self.stage.nodes[at % len(self.stage.nodes)], user)
        client.ttl_ms = TTL_MS
        await client.connect()
        await client.join(room)
        self._people[manner].append((room, client))

    def _acts(self) -> Iterator[Any]:
        for room, client in self._people["churning"]:
            yield self._churn(room, client)
        for room, client in self._people["resuming"]:
            yield self._resume(room, client)
        for _, client in self._people["going"]:
            yield self._go(client)
        for client in [*self.observers, *(client for _, client in self._people["staying"])]:
            yield self._come_back(client)
        yield self._publish()

    async def _churn(self, room: str, client: Client) -> None:
        inside = True
        while not self.over.is_set():
            await self._pause(0.2, 1.0)
            with suppress(*TROUBLES):
                if client.closed is not None:
                    await client.reconnect(self.rng.choice(self.nodes))
                await (client.leave(room) if inside else client.join(room))
                inside = not inside
        await eventually(lambda: _done(self._be_there(room, client)), HEAL_S, 0.2, what=f"{client.user} to be back")

    async def _be_there(self, room: str, client: Client) -> None:
        if client.closed is not None:
            await client.reconnect(self.rng.choice(self.nodes))
        await client.join(room)

    async def _resume(self, room: str, client: Client) -> None:
        """Break off and come back, again and again; who could not come back within grace may be called gone."""
        while not self.over.is_set():
            await self._pause(0.5, 1.5)
            broke_off = time.monotonic()
            await eventually(
                lambda: _done(client.reconnect(self.rng.choice(self.nodes))),
                HEAL_S,
                0.05,
                what=f"{client.user} to be back",
            )
            if (time.monotonic() - broke_off) * 1000 > GRACE_MS:
                self._too_late.add(client.user)

    async def _come_back(self, client: Client) -> None:
        """As every client does that is told to, or whose node is gone; whoever else is closed stays away."""
        while not self.over.is_set():
            if client.closed in (4200, ABNORMAL, 503):
                with suppress(*TROUBLES):
                    await client.reconnect(self.rng.choice(self.nodes))
            await self._pause(0.05, 0.1)

    async def _go(self, client: Client) -> None:
        await self._pause(0.0, 5.0)
        if self.rng.random() < 0.5:
            client.freeze()
        else:
            await client.abort()

    async def _publish(self) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            room, name = self.rng.choice(self.rooms), f"message-{number}"
            with suppress(AssertionError, OSError):
                cursor = await self.stage.message(name, channel=room, node=self.rng.choice(self.nodes))
                self.published[room, cursor] = name
            await asyncio.sleep(0.05)

    async def _pause(self, low_s: float, high_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), self.rng.uniform(low_s, high_s))

    # ---- the verdict ----

    async def _heal(self) -> None:
        """Everybody's view becomes the same, with those who stay and without those who are gone."""
        expected: dict[str, set[str]] = defaultdict(set)
        for manner in ("staying", "churning", "resuming"):
            for room, client in self._people[manner]:
                expected[room].add(client.user)

        async def same_everywhere() -> bool:
            for node in self.nodes:
                for room in self.rooms:
                    seen = set(await self.stage.roster(room, node))
                    assert seen == expected[room], (room, self._tell(seen ^ expected[room]))
            for room in self.rooms:
                for observer in self.observers:
                    seen = set(observer.members(room))
                    assert seen == expected[room], (room, "observer", seen ^ expected[room])
            return True

        await eventually(same_everywhere, HEAL_S, 0.3, what="rosters with exactly those who stayed")
        for room in self.rooms:
            fence = partial(self.stage.fence, *self.observers, channel=room)
            await eventually(lambda fence=fence: _done(fence()), HEAL_S, 0.2, what="a last message to be seen")

    def _tell(self, users: set[str]) -> list[object]:
        """What the clients of these users were told last, for who must find out why."""
        clients = [client for client in self.stage.clients if client.user in users]
        own = [
            (client.user, client.node.name, client.closed, [f for f in client.frames if f["type"] != "events"][-8:])
            for client in clients
        ]
        shown = [
            (epoch, event["seq"], event["at"], event["type"], event["user"], event.get("reason"))
            for room in self.rooms
            for epoch, event in history(self.observers[0], room)
            if event.get("user") in users
        ]
        return [*own, *shown[-20:]]

    def staying_on(self, node: Node) -> list[Client]:
        """Those who stay and are connected there now."""
        return [client for _, client in self._people["staying"] if client.node is node]

    def not_resumed(self) -> list[object]:
        """Every time that somebody who stays, or an observer, got a snapshot instead of what was missed."""
        clients = [*self.observers, *(client for _, client in self._people["staying"])]
        return [
            (client.user, client.transport, frame["cursor"])
            for client in clients
            for room in client.rooms.values()
            for frame in room.joined[1:]
            if not frame["recovered"]
        ]

    def _judge(self) -> None:
        self._nobody_who_stayed_left()
        self._who_went_left_once_in_each_history()
        self._no_position_names_two_events()
        lost = [client.user for _, client in self._people["staying"] if client.closed is not None]
        assert not lost, f"closed: {lost}"

    def _nobody_who_stayed_left(self) -> None:
        stayed = {client.user for manner in ("staying", "resuming") for _, client in self._people[manner]}
        false = [
            (event["user"], room.channel, event)
            for client in self.stage.clients
            for room in client.rooms.values()
            for event in room.log
            if event["type"] == "leave" and event["user"] in stayed - self._too_late
        ]
        assert not false, (false[0], self._tell({user for user, _, _ in false[:3]}))

    def _who_went_left_once_in_each_history(self) -> None:
        for observer in self.observers:
            for room, client in self._people["going"]:
                told = [epoch for epoch, event in history(observer, room) if _is_leave(event, client.user)]
                assert len(told) == len(set(told)), f"{client.user} left twice in one history: {told}"
                renewed = len(observer.rooms[room].joined) > 1
                assert told or renewed, f"nobody said that {client.user} left"

    def _no_position_names_two_events(self) -> None:
        named: dict[tuple[str, str, int], Frame] = {}
        for client in self.stage.clients:
            for channel in client.rooms:
                for epoch, event in history(client, channel):
                    known = named.setdefault((channel, epoch, event["seq"]), event)
                    assert known == event, f"{channel} {epoch}:{event['seq']} is {known} and {event}"
        for (channel, cursor), name in self.published.items():
            epoch, _, seq = cursor.rpartition(":")
            event = named.get((channel, epoch, int(seq)))
            assert event is None or event.get("name") == name, f"{channel} {cursor} was {name} and is {event}"


def history(client: Client, channel: str) -> Iterator[tuple[str, Frame]]:
    """Every event that the client was shown of the channel, with its epoch."""
    for frame in client.frames:
        if frame.get("channel") == channel and frame["type"] in ("events", "joined"):
            for event in frame.get("events", ()):
                yield frame["epoch"], event


async def _done(work: Awaitable[Any]) -> bool:
    try:
        await work
    except TROUBLES:
        return False
    return True


def _is_leave(event: Frame, user: str) -> bool:
    return event["type"] == "leave" and event["user"] == user
