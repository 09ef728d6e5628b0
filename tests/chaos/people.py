"""The clients of a random run: each does whatever comes to its mind and writes into the journal what it did.

A lane is one session of a user, driven by one coroutine with a random stream of its own, so that the acts of a run
follow from its seed, whatever their timing.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.chaos.journal import End, Journal, Life, Snapshot
from tests.chaos.raw_socket import Closed, Frame, RawSocket, now_ms
from tests.support import tokens
from tests.support.clients.rooms import Room
from tests.support.http import request
from tests.support.node import Node
from tests.support.stage import path

TTL_MS, GRACE_MS, PING_MS = 2000, 300, 500
TTLS = (1000, 1500, 2000, 4000)
REPLACED_S = 3.0


@dataclass
class World:
    """What all clients share."""

    nodes: list[Node]
    channels: list[str]
    journal: Journal
    until_ms: float = 0.0
    finish: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return now_ms() >= self.until_ms


@dataclass
class Held:
    """A session's place in a channel: its ttl, and until when it is certainly there."""

    ttl: float
    until: float


class Lane:
    """One session after the other of one user."""

    def __init__(self, world: World, user: str, name: str, seed: str) -> None:
        self.world, self.user, self.name = world, user, name
        self.rng = random.Random(f"{seed}/{user}/{name}")
        self.token = tokens.make_token(user, info={"name": user})
        self.session = ""
        self.places: dict[str, Held] = {}
        self._sessions = 0

    async def run(self) -> Callable[[], Awaitable[None]] | None:
        """Act until time is up; returns what goes on after it, if this lane stays."""
        raise NotImplementedError

    def begin(self) -> None:
        """Become a new session."""
        self._sessions += 1
        self.session = f"{self.user}-{self.name}-{self._sessions:03}"
        self.places = {}

    def node(self) -> Node:
        return self.rng.choice(self.world.nodes)

    async def pause(self, low_s: float, high_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(low_s, high_s))

    def jitter_ms(self) -> float:
        """Around a deadline: mostly before it, often after."""
        return self.rng.uniform(-120, 60)

    def lives(self, channel: str, sent: float, ttl: float, **more: Any) -> Life:
        life = Life((self.user, channel), self.session, sent, None, ttl, **more)
        self.world.journal.lives.append(life)
        return life

    def ends(self, channel: str, sent: float, acked: float, reason: str, **more: Any) -> None:
        session = more.pop("session", self.session)
        self.world.journal.ends.append(End((self.user, channel), session, sent, acked, reason, **more))

    def refused(self, channel: str, sent: float, acked: float, ttl: float) -> None:
        self.world.journal.refused.append(Life((self.user, channel), self.session, sent, acked, ttl))

    def complain(self, what: str) -> None:
        self.world.journal.breaches.append(f"{self.user}/{self.session}: {what}")


class Caller(Lane):
    """A session without a connection: commands by HTTP, each to any node."""

    async def run(self) -> Callable[[], Awaitable[None]] | None:
        self.begin()
        while not self.world.over:
            await self._episode()
            await self.pause(0.02, 0.4)
            if self.rng.random() < 0.2:
                self.begin()
        if self.rng.random() < 0.5:
            return None
        await self._join(self.rng.choice(self.world.channels))
        return self._stay

    async def _episode(self) -> None:
        choice = self.rng.random()
        if not self.places or choice < 0.15:
            await self._join(self.rng.choice(self.world.channels))
        elif choice < 0.55:
            await self._beat_at_the_deadline()
        elif choice < 0.70:
            await self._leave(self.rng.choice(sorted(self.places)))
        elif choice < 0.85:
            await self._bye()
            await self.pause(0.0, 0.45)
            await self._beat()
        else:
            await self._beat()

    async def _stay(self) -> None:
        while not self.world.finish.is_set():
            await self._beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.world.finish.wait(), 0.25)

    async def _beat_at_the_deadline(self) -> None:
        until = min(held.until for held in self.places.values())
        await asyncio.sleep(max(0.0, until + self.jitter_ms() - now_ms()) / 1000)
        await self._beat()

    async def _call(self, **command: Any) -> Frame:
        """One command; it shows life in all places."""
        sent = now_ms()
        if command["type"] != "bye":
            lives = [self.lives(ch, sent, held.ttl, unbroken=True) for ch, held in self.places.items()]
        else:
            lives = []
        headers, query = tokens.bearer(self.token), {"session": self.session}
        answer = await request(
            self.node().url, "POST", "/v1/commands", query=query, headers=headers, json_body=[command]
        )
        for life in lives:
            life.acked = now_ms()
        assert answer.status == 200, answer
        return dict(answer.json()[0])

    async def _join(self, channel: str) -> None:
        ttl = self.places[channel].ttl if channel in self.places else float(self.rng.choice(TTLS[:3]))
        sent = now_ms()
        life = self.lives(channel, sent, ttl)
        frame = await self._call(type="join", channel=channel, ttl_ms=int(ttl))
        life.acked, life.sure = now_ms(), frame["type"] == "joined"
        if not life.sure:
            self.complain(f"join refused: {frame}")
            return
        self.places[channel] = Held(ttl, sent + ttl)
        note_snapshot(self.world.journal, frame, self.user)

    async def _beat(self) -> None:
        sent, before = now_ms(), dict(self.places)
        frame = await self._call(type="beat")
        acked = now_ms()
        for channel, held in before.items():
            if channel in frame.get("not_joined", ()):
                self.refused(channel, sent, acked, held.ttl)
                del self.places[channel]
                continue
            life = self.lives(channel, sent, held.ttl, sure=True, unbroken=True)
            life.acked = acked
            held.until = sent + held.ttl

    async def _leave(self, channel: str) -> None:
        sent = now_ms()
        frame = await self._call(type="leave", channel=channel)
        self.places.pop(channel)
        if frame["type"] == "ok":
            self.ends(channel, sent, now_ms(), "left")
        elif frame["code"] != "not_joined":
            self.complain(f"leave refused: {frame}")

    async def _bye(self) -> None:
        sent = now_ms()
        await self._call(type="bye")
        for channel, held in self.places.items():
            self.ends(channel, sent, now_ms(), "timeout", grace=GRACE_MS)
            held.until = min(held.until, sent + GRACE_MS)


class BackEnd(Lane):
    """What a back end does with a user: its own session of that user, and the end of all of them."""

    async def run(self) -> Callable[[], Awaitable[None]] | None:
        self.session = "back-end"
        while not self.world.over:
            await self._episode(self.rng.choice(self.world.channels))
            await self.pause(0.05, 0.6)
        return None

    async def _episode(self, channel: str) -> None:
        choice = self.rng.random()
        if channel not in self.places:
            await self._put(channel)
        elif choice < 0.60:
            await self._beat(channel)
        elif choice < 0.75:
            await self._delete(channel, self.session)
        elif choice < 0.85:
            await self._delete(channel, "")
        elif choice < 0.95:
            await self._disconnect(channel)
        else:
            await self._disconnect(None)

    async def _ask(self, method: str, *parts: str, body: Any = None, **query: str) -> Any:
        answer = await request(
            *(self.node().url, method, path(*parts)), query=query, headers=tokens.bearer(tokens.API_KEY), json_body=body
        )
        assert answer.status == 200, answer
        return answer.json()

    async def _put(self, channel: str) -> None:
        sent, ttl = now_ms(), float(self.rng.choice(TTLS[:3]))
        life = self.lives(channel, sent, ttl)
        body = {"ttl_ms": int(ttl), "state": {"n": self.rng.randrange(3)}}
        answer = await self._ask("PUT", "channels", channel, "members", self.user, body=body)
        life.acked, life.sure = now_ms(), True
        self.places[channel] = Held(ttl, sent + ttl)
        self.world.journal.told.append(((self.user, channel), "join", sent, life.acked, answer["joined"]))

    async def _beat(self, channel: str) -> None:
        held = self.places[channel]
        await asyncio.sleep(max(0.0, held.until + self.jitter_ms() - now_ms()) / 1000)
        sent = now_ms()
        life = self.lives(channel, sent, held.ttl, unbroken=True)
        members = [{"channel": channel, "user": self.user}]
        answer = await self._ask("POST", "heartbeats", body={"members": members})
        life.acked = now_ms()
        if answer["results"] == ["refreshed"]:
            life.sure, held.until = True, sent + held.ttl
        else:
            self.refused(channel, sent, life.acked, held.ttl)
            del self.places[channel]

    async def _delete(self, channel: str, session: str) -> None:
        sent = now_ms()
        query = {"session": session} if session else {}
        answer = await self._ask("DELETE", "channels", channel, "members", self.user, **query)
        self.places.pop(channel)
        acked = now_ms()
        self.ends(channel, sent, acked, "left", session=session)
        self.world.journal.told.append(((self.user, channel), "leave", sent, acked, answer["left"]))

    async def _disconnect(self, channel: str | None) -> None:
        sent = now_ms()
        await self._ask("POST", "users", self.user, "disconnect", body={"channel": channel} if channel else {})
        acked = now_ms()
        for name in [channel] if channel else self.world.channels:
            self.places.pop(name, None)
            self.ends(name, sent, acked, "disconnected", session="")
        if channel is None:
            self.world.journal.disconnects.append((self.user, sent, acked))


class Page(Lane):
    """A session over WebSockets, one after the other, sometimes two at once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rooms: dict[RawSocket, dict[str, Room]] = {}
        self._newest: RawSocket | None = None

    async def run(self) -> Callable[[], Awaitable[None]] | None:
        self.begin()
        while not self.world.over:
            with suppress(Closed):
                await self._visit()
            self._abandon()
            await self.pause(0.05, 1.0)
            if self.rng.random() < 0.3:
                self.begin()
        if self.rng.random() < 0.5:
            return None
        return self._stay

    # ---- a visit ----

    async def _visit(self) -> None:
        socket = await self._come()
        for channel in self.rng.sample(self.world.channels, self.rng.choice((1, 1, 2))):
            if channel not in self.places:
                await self._join(socket, channel, float(self.rng.choice(TTLS)))
        await self._live(socket, self.rng.uniform(0.2, 0.9))
        endings = {
            self._leave_and_close: 2, self._close: 4, self._return: 6, self._fall_silent: 2, self._live_on_the_edge: 3,
            self._fight: 4, self._open_twice_at_once: 3, self._bye_and_return: 2, self._bye_and_close: 2,
        }  # fmt: skip
        (ending,) = self.rng.choices(list(endings), list(endings.values()))
        await ending(socket)

    def _abandon(self) -> None:
        """Whatever is still open at the end of a visit is closed, or never heard of again."""
        if self._newest is not None and self.rng.random() < 0.5:
            self._part(self._newest)
        for socket in self.rooms:
            socket.pongs = False

    async def _stay(self) -> None:
        while not self.world.finish.is_set():
            with suppress(Closed):
                socket = await self._come()
                await self._join(socket, self.world.channels[0], 4000.0)
                while not self.world.finish.is_set():
                    await self._live(socket, 0.2)

    async def _live(self, socket: RawSocket, seconds: float) -> None:
        ends = now_ms() + 1000 * seconds
        while now_ms() < ends:
            await self._beat(socket)
            choice = self.rng.random()
            if choice < 0.15 and self.places:
                channel = self.rng.choice(sorted(self.places))
                await socket.ask(type="set", channel=channel, state={"n": self.rng.randrange(4)})
            elif choice < 0.25 and self.places:
                channel = self.rng.choice(sorted(self.places))
                await self._join(socket, channel, self.places[channel].ttl)
            elif choice < 0.30:
                await socket.ask(type="publish", channel=self.rng.choice(self.world.channels), name="note", data=1)
            shortest = min([held.ttl for held in self.places.values()], default=TTL_MS)
            await self.pause(0.05, shortest / 4000)

    # ---- how it ends ----

    async def _leave_and_close(self, socket: RawSocket) -> None:
        for channel in list(self.places):
            await self._leave(socket, channel)
        self._part(socket)

    async def _close(self, socket: RawSocket) -> None:
        self._part(socket)

    async def _return(self, socket: RawSocket) -> None:
        for _ in range(self.rng.choice((1, 2, 3))):
            self._part(socket)
            await self.pause(*self.rng.choice(((0.0, 0.01), (0.0, 0.2), (0.2, 0.4), (0.3, 1.0))))
            socket = await self._come()
            await self._live(socket, self.rng.uniform(0.0, 0.4))

    async def _fall_silent(self, socket: RawSocket) -> None:
        socket.pongs = False
        await asyncio.sleep(max([held.ttl for held in self.places.values()], default=0) / 1000)

    async def _live_on_the_edge(self, socket: RawSocket) -> None:
        """Nothing but a beat around each deadline."""
        socket.pongs = False
        for _ in range(self.rng.choice((1, 2, 3))):
            until = min([held.until for held in self.places.values()], default=now_ms())
            await asyncio.sleep(max(0.0, until + self.jitter_ms() - now_ms()) / 1000)
            await self._beat(socket)
        socket.pongs = True
        for channel, held in list(self.places.items()):
            await self._join(socket, channel, held.ttl)
        await self._live(socket, 0.3)

    async def _bye_and_return(self, socket: RawSocket) -> None:
        await self._bye(socket)
        await self.pause(0.0, 0.2)
        for channel, held in list(self.places.items()):
            await self._join(socket, channel, held.ttl)
        await self._live(socket, 0.4)

    async def _bye_and_close(self, socket: RawSocket) -> None:
        await self._bye(socket)
        await asyncio.sleep(0.02)
        self._part(socket, starts_grace=False)

    async def _fight(self, socket: RawSocket) -> None:
        """A newer connection takes over, and an even newer one."""
        for _ in range(self.rng.choice((1, 2, 3))):
            older, socket = socket, await self._come()
            await self._live(socket, self.rng.uniform(0.0, 0.3))
            await self._until_one_is_left([older, socket])
        await self._live(socket, 0.3)

    async def _open_twice_at_once(self, socket: RawSocket) -> None:
        known = {channel: room.cursor for channel, room in self.rooms[socket].items()}
        rivals = [self._make(), self._make()]
        await asyncio.gather(*(rival.connect() for rival in rivals), return_exceptions=True)
        await self._until_one_is_left([socket, *rivals])
        left = [rival for rival in rivals if rival.is_open]
        if not left:
            if not any(user == self.user for user, _, _ in self.world.journal.disconnects):
                self.complain(f"of two connections opened at once none is left: {[r.code for r in rivals]}")
            return
        self._newest = left[0]
        await self._join_again(left[0], socket, known)
        await self._live(left[0], 0.3)

    async def _until_one_is_left(self, sockets: list[RawSocket]) -> None:
        ends = now_ms() + 1000 * REPLACED_S
        while sum(socket.is_open for socket in sockets) > 1:
            if now_ms() > ends:
                self.complain(
                    f"{sum(socket.is_open for socket in sockets)} connections for {REPLACED_S} s, in {list(self.places)}: {[(x.asked_ms, x.node.name) for x in sockets]}"
                )
                raise Closed
            await asyncio.sleep(0.01)

    # ---- what it says ----

    def _make(self) -> RawSocket:
        socket = RawSocket(self.node(), self.user, self.session, self.token)
        journal = self.world.journal
        journal.sockets.append(socket)
        journal.ttls[socket] = min([TTL_MS, *(held.ttl for held in self.places.values())])
        self.rooms[socket] = {}
        socket.on_frame = partial(self._take, socket)
        socket.on_sent = partial(self._showed, socket)
        self._showed(socket, now_ms())  # opening a connection of a session shows life
        return socket

    async def _come(self) -> RawSocket:
        """Open the newest connection and go on where the one before it was."""
        before, socket = self._newest, self._make()
        known = {channel: room.cursor for channel, room in self.rooms.get(before, {}).items()} if before else {}
        await socket.connect()
        self._newest = socket
        await self._join_again(socket, before, known)
        return socket

    async def _join_again(self, socket: RawSocket, before: RawSocket | None, known: dict[str, str]) -> None:
        for channel, held in list(self.places.items()):
            cursor = known.get(channel)
            if cursor is not None and before is not None and self.rng.random() < 0.8:
                self.rooms[socket][channel] = _continued(self.rooms[before][channel], cursor)
                await self._join(socket, channel, held.ttl, cursor)
            else:
                await self._join(socket, channel, held.ttl)

    def _showed(self, socket: RawSocket, sent_ms: float) -> None:
        for channel, held in self.places.items():
            self.lives(channel, sent_ms, held.ttl, socket=socket)

    async def _join(self, socket: RawSocket, channel: str, ttl: float, cursor: str | None = None) -> None:
        journal, sent = self.world.journal, now_ms()
        journal.ttls[socket] = min(journal.ttls[socket], ttl)
        life = self.lives(channel, sent, ttl, socket=socket)
        more = {"cursor": cursor} if cursor else {}
        frame = await socket.ask(type="join", channel=channel, ttl_ms=int(ttl), **more)
        life.acked, life.sure = now_ms(), frame["type"] == "joined"
        if not life.sure:
            self.complain(f"join refused: {frame}")
            return
        self.places[channel] = Held(ttl, sent + ttl)
        if cursor and not frame["recovered"]:
            self.complain(f"not recovered from {cursor}: {json.dumps(frame)[:300]}")

    async def _beat(self, socket: RawSocket) -> None:
        sent, before = now_ms(), dict(self.places)
        frame = await socket.ask(type="beat")
        acked = now_ms()
        for channel, held in before.items():
            if channel in frame.get("not_joined", ()):
                self.refused(channel, sent, acked, held.ttl)
                self.places.pop(channel, None)
            elif channel in self.places and acked < held.until:
                life = self.lives(channel, sent, held.ttl, sure=True, socket=socket)
                life.acked, held.until = acked, sent + held.ttl

    async def _leave(self, socket: RawSocket, channel: str) -> None:
        sent = now_ms()
        self.places.pop(channel)
        try:
            frame = await socket.ask(type="leave", channel=channel)
        except Closed:
            self.ends(channel, sent, now_ms() + 1000, "left", sure=False)
            raise
        self.rooms[socket].pop(channel, None)
        if frame["type"] == "ok":
            self.ends(channel, sent, now_ms(), "left", socket=socket)
        elif frame["code"] != "not_joined":
            self.complain(f"leave refused: {frame}")

    async def _bye(self, socket: RawSocket) -> None:
        socket.pongs, showed = False, socket.on_sent
        sent, places = now_ms(), dict(self.places)
        socket.on_sent = lambda sent_ms: None  # it is no sign of life
        try:
            await socket.ask(type="bye")
        finally:
            socket.on_sent = showed
            for channel, held in places.items():
                self.ends(channel, sent, now_ms(), "timeout", grace=GRACE_MS, socket=socket, sure=socket.is_open)
                held.until = min(held.until, sent + GRACE_MS)
            socket.pongs = True

    def _part(self, socket: RawSocket, starts_grace: bool = True) -> None:
        if not socket.is_open:
            return
        sent = now_ms()
        self.rng.choice((socket.close, socket.hang_up, socket.reset))()
        for channel, held in self.places.items() if starts_grace else ():
            self.ends(channel, sent, sent, "timeout", grace=GRACE_MS, socket=socket)
            held.until = min(held.until, sent + GRACE_MS)

    # ---- what it hears ----

    def _take(self, socket: RawSocket, frame: Frame) -> None:
        channel, rooms = frame.get("channel", ""), self.rooms[socket]
        if frame["type"] == "joined":
            room = rooms.setdefault(channel, Room(channel))
            room.take_joined(frame)
            note_snapshot(self.world.journal, frame, self.user)
        elif frame["type"] == "events":
            if channel not in rooms:
                self.complain(f"events of a channel it is not in: {frame}")
                return
            rooms[channel].take_events(frame)
        elif frame["type"] == "error" and frame["code"] == "not_joined" and "id" not in frame:
            rooms.pop(channel, None)
            if socket is self._newest:
                self.places.pop(channel, None)
        if channel in rooms and rooms[channel].breaches:
            self.complain(rooms[channel].breaches.pop())


def note_snapshot(journal: Journal, frame: Frame, who: str) -> None:
    """Keep the members that somebody was shown, to be compared with the events before them."""
    if "members" in frame and not frame.get("truncated"):
        members = {member["user"]: (member["info"], member["state"]) for member in frame["members"]}
        journal.snapshots.append(Snapshot(frame["channel"], frame["cursor"], members, who))


def _continued(room: Room, cursor: str) -> Room:
    """What the client of an earlier connection knew, for the next one to go on with."""
    copy = Room(room.channel)
    epoch, _, seq = cursor.rpartition(":")
    copy.epoch, copy.seq = epoch, int(seq)
    copy.members, copy.partial = dict(room.members), room.partial or room.cursor != cursor
    copy.joined = room.joined[-1:]
    return copy
