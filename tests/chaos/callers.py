"""Clients of a random run that have no connection: commands by HTTP, and a back end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tests.chaos.lane import GRACE_MS, TTLS, Held, Lane, note_snapshot
from tests.chaos.raw_socket import Frame, now_ms
from tests.support import tokens
from tests.support.http import request
from tests.support.stage import path


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
        elif choice < 0.91:
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
