"""A client of a random run over WebSockets: pages that are opened, reloaded, doubled, forgotten and closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tests.chaos.lane import GRACE_MS, TTL_MS, TTLS, Held, Lane, continued, note_snapshot
from tests.chaos.raw_socket import Closed, Frame, RawSocket, now_ms
from tests.support.clients.rooms import Room

REPLACED_S = 3.0


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
        if self.rng.random() < 0.5:
            self._part(socket, starts_grace=False)
        else:
            socket.pongs = False
            await asyncio.sleep(2 * GRACE_MS / 1000)

    async def _fight(self, socket: RawSocket) -> None:
        """A newer connection takes over, and an even newer one."""
        for _ in range(self.rng.choice((1, 2, 3))):
            if self.rng.random() < 0.4:
                await self.world.deafen()  # the older one's node will not hear of it at once
            older, socket = socket, await self._come()
            self._act_late(older)
            await self._live(socket, self.rng.uniform(0.0, 0.5))
            await self._until_one_is_left([older, socket])
        await self._live(socket, 0.3)

    def _act_late(self, older: RawSocket) -> None:
        """What a replaced connection still says must not count."""
        choice = self.rng.random()
        if not older.is_open or not self.places or choice < 0.4:
            return
        channel = self.rng.choice(sorted(self.places))
        if choice < 0.6:
            older.say(type="leave", channel=channel)
        elif choice < 0.7:
            older.say(type="set", channel=channel, state={"n": "late"})
        elif choice < 0.8:
            older.say(type="join", channel=channel, ttl_ms=int(self.places[channel].ttl))
        else:
            self.rng.choice((older.close, older.hang_up, older.reset))()

    async def _open_twice_at_once(self, socket: RawSocket) -> None:
        known = {channel: room.cursor for channel, room in self.rooms[socket].items()}
        rivals = [self._make(), self._make()]
        await asyncio.gather(*(rival.connect() for rival in rivals), return_exceptions=True)
        await self._until_one_is_left([socket, *rivals])
        left = [rival for rival in rivals if rival.is_open]
        if not left:
            if self.user not in {user for user, _, _ in self.world.journal.disconnects}:
                self.complain(f"none of two connections is left: {[rival.code for rival in rivals]}")
            return
        self._newest = left[0]
        await self._join_again(left[0], socket, known)
        await self._live(left[0], 0.3)

    async def _until_one_is_left(self, sockets: list[RawSocket]) -> None:
        ends = now_ms() + 1000 * REPLACED_S
        while len(left := [socket.node.name for socket in sockets if socket.is_open]) > 1:
            if now_ms() > ends:
                self.complain(f"in {list(self.places)}, connected for {REPLACED_S} s on {left}")
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
                self.rooms[socket][channel] = continued(self.rooms[before][channel], cursor)
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
        if self.places.pop(channel, None) is None:
            return  # a back end has taken it out meanwhile
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
        socket.pongs = False
        sent, places = now_ms(), dict(self.places)
        try:
            await socket.ask(type="bye")
        finally:
            for channel, held in places.items():
                self.ends(channel, sent, now_ms(), "timeout", grace=GRACE_MS, socket=socket, sure=socket.is_open)
                held.until = min(held.until, sent + GRACE_MS)
            socket.pongs = True

    def _part(self, socket: RawSocket, starts_grace: bool = True) -> None:
        if not socket.is_open:
            return
        if self.rng.random() < 0.5:
            socket.say(type="beat")  # which the closing overtakes
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
