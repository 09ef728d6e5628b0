"""Nodes taken apart: their real parts on a real Redis, inside the test, so that a scenario decides what comes first.

A part runs only if the scenario starts it: without `sweeping` nothing is claimed but by `claim` and `sweep`, without
`listening` a node hears of nothing. A `Gate` holds back the answers of one script, which is how two steps are put into
the awkward order.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any

import redis.asyncio

import presence.session
from presence.announcing import announcing
from presence.answers import Joined
from presence.auth import Grants, Identity
from presence.errors import PresenceError, Unavailable
from presence.keys import SCHEMA, entry
from presence.lua import Scripts
from presence.mailbox import Mailbox
from presence.node import Node
from presence.session import Session
from presence.settings import Settings
from tests.support import tokens
from tests.support.clients.rooms import Room
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

ROOM = "room"
NUMBERS = ("1000", "2000", "3000")
"""Connection numbers of a session, oldest first."""


class Gate:
    """Holds back the answers of one script: Redis has run it, its caller does not know yet."""

    def __init__(self, scripts: Scripts, name: str, *, first: int = 1_000_000) -> None:
        self.held = 0
        self._open = asyncio.Event()
        self._call = scripts.call
        self._name = name
        self._left = first
        scripts.call = self._through  # type: ignore[method-assign]

    def release(self) -> None:
        """Hand on what was held back, and hold nothing more."""
        self._open.set()

    async def holds(self, number: int = 1) -> None:
        """Wait until so many answers are held."""
        await eventually(lambda: self.held >= number, 5, what=f"{number} held answers of {self._name}")

    def _through(self, name: str, keys: Any, arguments: Any) -> Any:
        future = self._call(name, keys, arguments)
        if name != self._name or self._open.is_set() or self._left <= 0:
            return future
        self._left -= 1
        return asyncio.ensure_future(self._later(future))

    async def _later(self, future: asyncio.Future[Any]) -> Any:
        reply = await future
        self.held += 1
        await self._open.wait()
        return reply


class Tab:
    """A client right at its session: commands go in, frames come out, and there is no wire between."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.frames: list[dict[str, Any]] = []
        self.room = Room(ROOM)
        self._ids = 0

    @property
    def closed(self) -> int | None:
        """The code with which the server closes the connection."""
        return int(self.session.mailbox.closing[0]) if self.session.mailbox.closing else None

    def send(self, **command: Any) -> int:
        """Send a command; returns its id."""
        self._ids += 1
        self.session.receive(json.dumps({**command, "id": self._ids}).encode())
        return self._ids

    def read(self) -> list[dict[str, Any]]:
        """All frames so far; those of the room are folded."""
        for frame in self.session.mailbox.take(1 << 30):
            made = json.loads(frame.json)
            self.frames.append(made)
            if made["type"] == "joined":
                self.room.take_joined(made)
            elif made["type"] == "events":
                self.room.take_events(made)
        return self.frames

    def problems(self) -> list[str]:
        """The codes of all `error` frames so far."""
        return [frame["code"] for frame in self.read() if frame["type"] == "error"]

    async def reply(self, command_id: int) -> dict[str, Any]:
        """The answer of one command."""

        def found() -> dict[str, Any] | None:
            return next((frame for frame in self.read() if frame.get("id") == command_id), None)

        return dict(await eventually(found, 3, what=f"an answer to command {command_id}"))

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        return await self.reply(self.send(**command))

    async def join(self, **more: Any) -> dict[str, Any]:
        """Enter the room."""
        return await self.ask(type="join", channel=ROOM, **more)


class Workbench:
    """One deployment of any number of nodes, under a key prefix of its own."""

    def __init__(self, server: RedisServer) -> None:
        self._url = server.url
        self._prefix = secrets.token_hex(4)
        self._nodes: list[Node] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.redis = redis.asyncio.from_url(server.url)

    async def node(self, *, sweeping: bool = False, listening: bool = False, **settings: Any) -> Node:
        """A node of which only the named loops run, and the wheel. The first one makes the birth."""
        chosen: dict[str, Any] = {"ttl_ms": 2000, "grace_ms": 150, "ping_ms": 500, "partitions": 1, **settings}
        node = Node(Settings(key_prefix=self._prefix, token_secret=(tokens.SECRET,), **chosen), self._url)
        self._nodes.append(node)
        self._tasks.append(asyncio.create_task(node.wheel.run()))
        if len(self._nodes) == 1:
            for partition in range(node.keys.partitions):
                await self._expire("sweep", (), partition)
        if listening:
            node.broker.start()
            await eventually(lambda: node.broker.delivering, 5)
        if sweeping:
            node.expiry.start()
            await eventually(lambda: node.expiry.up and node.expiry.born, 5)
        return node

    async def aclose(self) -> None:
        """End all nodes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self._nodes:
            await node.stop()
        await self.redis.aclose()

    # -- people

    async def tab(self, node: Node, user: str = "alice", session: str = "session-1") -> Tab:
        """An open connection on this node."""
        identity = Identity(user, "{}", time.time() + 600, Grants({"*": ["join", "see", "publish", "history"]}))
        return Tab(await presence.session.open_session(node.services, identity, session, Mailbox(), "websocket"))

    async def join(
        self, user: str = "alice", number: str = NUMBERS[0], *, ttl_ms: int = 60_000, channel: str = ROOM, **more: Any
    ) -> Joined:
        """Join by script, without a connection."""
        return await self._first.tracker.join(channel, user, "session-1", number, ttl_ms=ttl_ms, **more)

    async def touch(self, user: str = "alice", number: str = NUMBERS[0], ttl_ms: int = 60_000) -> str:
        """A sign of life by script; its word."""
        tracker = self._first.tracker
        item = (tracker.keys.partition(ROOM), entry(ROOM, user, "session-1"), number, ttl_ms)
        (word,) = await tracker.heartbeats.refresh([item])
        return word

    async def touched(self) -> None:
        """Wait until all heartbeats that were under way are answered."""
        await asyncio.gather(*(node.tracker.heartbeats.close() for node in self._nodes))

    # -- what is noticed

    async def claim(self, *users: str) -> None:
        """What a node does on Redis' notifications for these users, however late it does it."""
        await self.stamp()
        with suppress(Unavailable):  # as the node does: the sweep guarantees
            await self._expire("claim", [entry(ROOM, user, "session-1") for user in users])

    async def sweep(self, *, hold_ms: int = 2000) -> None:
        """One sweep without patience, whenever the last one was."""
        with suppress(Unavailable):
            await self._expire("repeat", (), hold_ms=hold_ms)

    async def stamp(self, age_ms: int = 0) -> None:
        """Let the last sweep be so long ago: a stall, without waiting for one."""
        await self.redis.hset(self._first.keys.script(0)[0], "sweep", str(await self.now_ms() - age_ms))

    async def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def past(self, moment_ms: int) -> None:
        """Wait until Redis's clock is behind this moment."""
        while (now := await self.now_ms()) <= moment_ms:
            await asyncio.sleep((moment_ms - now + 1) / 1000)

    async def past_deadlines(self) -> None:
        """Wait until every session has lapsed."""
        ((_, latest),) = await self.redis.zrange(self._first.keys.due(ROOM), -1, -1, withscores=True)
        await self.past(int(latest))

    # -- what was announced

    async def events(self, channel: str = ROOM) -> list[dict[str, Any]]:
        """The channel's history."""
        return [json.loads(text) for text in (await self._first.tracker.history(channel, None, 1000)).events]

    async def last_event(self, channel: str) -> str:
        """The type of the channel's newest event."""
        return str(json.loads((await self._first.tracker.history(channel, None, 1)).events[-1])["type"])

    async def story(self, user: str = "alice", channel: str = ROOM) -> list[str]:
        """What was announced of the user."""
        told = [event for event in await self.events(channel) if event.get("user") == user]
        return [event["type"] + (":" + event["reason"] if "reason" in event else "") for event in told]

    async def roster(self) -> dict[str, Any]:
        """The members of the room by user."""
        page = await self._first.tracker.roster(ROOM, 1000, None)
        return {member["user"]: member for member in map(json.loads, page.members)}

    @property
    def _first(self) -> Node:
        return self._nodes[0]

    async def _expire(self, mode: str, entries: Iterable[str], partition: int = 0, hold_ms: int = 2000) -> Any:
        node = self._first
        birth = await self.redis.hget(node.keys.script(partition)[0], "birth")
        arguments = [
            *(*announcing(node.settings, node.keys, partition), mode, (birth or b"").decode(), 1, "birth", SCHEMA),
            *(node.keys.partitions, 0, hold_ms, 0, 100, *entries),
        ]
        return await node.scripts.call("expire", node.keys.script(partition), arguments)


async def gone_after_the_grace(bench: Workbench) -> None:
    """Alice is announced as gone when the grace that began before now is over."""
    await bench.stamp()  # a node that listens may claim by itself, and must not find a stall
    await bench.past(await bench.now_ms() + 150)
    await bench.claim("alice")
    assert await bench.story() == ["join", "leave:timeout"]


async def gone_at_the_deadline(bench: Workbench) -> None:
    """Alice is still there, and is announced as gone when her deadline has passed."""
    await bench.claim("alice")
    assert await bench.story() == ["join"]
    await bench.past_deadlines()
    await bench.claim("alice")
    assert await bench.story() == ["join", "leave:timeout"]


async def late(work: Awaitable[object]) -> None:
    """A request that comes too late; what it is told does not matter, only what it does."""
    with suppress(PresenceError):
        await work
