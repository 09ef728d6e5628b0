"""The one client interface: what a test may ask of a client, whatever carries its frames.

A transport implements `_open`, `_close_connection`, `reset`, `freeze` and `send`; everything else is here. Frames are
folded into `rooms` as they arrive; breaches of order are collected and fail the test at its end.
"""

from __future__ import annotations

import abc
import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support import tokens
from tests.support.clients.rooms import INBOX, Frame, Letters, Room
from tests.support.node import QUICK, Node

WAIT_S = 6.0
ABNORMAL = 1006


class CommandError(Exception):
    """A command was answered by an `error` frame."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self.frame = frame
        self.code: str = frame["code"]


class Client(abc.ABC):
    """One session of one user, over one transport."""

    transport = ""

    def __init__(
        self, node: Node, user: str, *, session: str | None = None, token: str | None = None, beats: bool = True
    ) -> None:
        """`beats=False`: a client whose transport needs beats (SSE) does not send them by itself."""
        self.beats = beats
        self.node = node
        self.user = user
        self.session = session or "s-" + secrets.token_hex(8)
        self.token = token or tokens.make_token(user)
        self.frames: list[Frame] = []
        self.faults: list[str] = []
        self.rooms: dict[str, Room] = {}
        self.roles: dict[str, str] = {}
        self.ttl_ms = int(QUICK["ttl_ms"])
        self.closed: int | None = None
        self.welcome: Frame = {}
        self._frames_read = 0
        self._arrived = asyncio.Event()
        self._last_id = 0

    async def join(
        self,
        channel: str,
        as_: str = "member",
        *,
        cursor: str | None = None,
        state: Frame | None = None,
        ttl_ms: int | None = None,
    ) -> Frame:
        """Enter a channel, or refresh it, and return the `joined` frame; raises CommandError when refused.

        A `cursor` other than the client's own position starts the folded log anew from there.
        """
        if cursor is not None and channel in self.rooms and self.cursor(channel) != cursor:
            del self.rooms[channel]
        self.ttl_ms = ttl_ms or self.ttl_ms
        command: Frame = {"type": "join", "channel": channel, "as": as_}
        extras = {"cursor": cursor, "state": state, "ttl_ms": ttl_ms}
        command.update({name: value for name, value in extras.items() if value is not None})
        reply = await self._join(command)
        self.roles[channel] = as_
        return reply

    async def leave(self, channel: str) -> Frame:
        """Leave now, without grace."""
        self.roles.pop(channel, None)
        return await self.command({"type": "leave", "channel": channel})

    async def set(self, channel: str, state: Frame) -> Frame:
        """Replace my state."""
        return await self.command({"type": "set", "channel": channel, "state": state})

    async def publish(self, channel: str, name: str, data: Any = None) -> Frame:
        """Announce a message."""
        return await self.command({"type": "publish", "channel": channel, "name": name, "data": data})

    async def history(self, channel: str, cursor: str | None = None, limit: int | None = None) -> Frame:
        """Past events."""
        return await self.command(_given(type="history", channel=channel, cursor=cursor, limit=limit))

    async def who(self, channel: str, limit: int | None = None, after: str | None = None) -> Frame:
        """The roster now."""
        return await self.command(_given(type="who", channel=channel, limit=limit, after=after))

    async def fetch(self, limit: int | None = None) -> list[Frame]:
        """What waits for the user, by channel."""
        reply = await self.command(_given(type="fetch", limit=limit))
        assert reply["type"] == "inbox", reply
        return list(reply["channels"])

    async def ack(self, channel: str, cursor: str) -> Frame:
        """Everything up to the cursor is dealt with."""
        return await self.command({"type": "ack", "channel": channel, "cursor": cursor})

    async def letter(self, name: str, within_s: float = WAIT_S) -> Frame:
        """The next message of that name that was pushed to the user; those before it count as read."""
        return await self.event(INBOX, "message", within_s, name=name)

    async def beat(self) -> Frame:
        """Show life in all channels."""
        return await self.command({"type": "beat"})

    async def bye(self) -> Frame:
        """Say that the page is closing."""
        return await self.command({"type": "bye"})

    async def refresh(self, token: str) -> Frame:
        """Bring a newer token."""
        reply = await self.command({"type": "refresh", "token": token})
        self.token = token
        return reply

    async def command(self, frame: Frame) -> Frame:
        """Send one command and return its reply; raises CommandError for an `error`."""
        reply = await self.send({"id": self._next_id(), **frame})
        if reply["type"] == "error":
            raise CommandError(reply)
        return reply

    async def refused(self, frame: Frame) -> str:
        """Send one command that must fail; return the error's code."""
        reply = await self.send({"id": self._next_id(), **frame})
        assert reply["type"] == "error", f"{frame} was not refused: {reply}"
        assert reply["message"], reply
        return str(reply["code"])

    async def expect(self, type_: str, within_s: float = WAIT_S, **fields: Any) -> Frame:
        """The next unread frame of that type and fields; frames before it count as read."""

        def found() -> Frame | None:
            while self._frames_read < len(self.frames):
                frame = self.frames[self._frames_read]
                self._frames_read += 1
                if frame["type"] == type_ and fields.items() <= frame.items():
                    return frame
            return None

        return await self._wait(found, within_s, f"a {type_} frame {fields}")

    async def event(self, channel: str, type_: str, within_s: float = WAIT_S, **fields: Any) -> Frame:
        """The channel's next unread event of that type and fields; events before it count as read."""

        def found() -> Frame | None:
            while channel in self.rooms and (event := self.rooms[channel].next_unread()):
                if event["type"] == type_ and fields.items() <= event.items():
                    return event
            return None

        return await self._wait(found, within_s, f"a {type_} event {fields} in {channel}")

    async def reaches(self, channel: str, cursor: str, within_s: float = WAIT_S) -> None:
        """Wait until the client's position in a channel is this cursor or behind it, in the same epoch."""
        epoch, _, seq = cursor.rpartition(":")

        def reached() -> bool | None:
            room = self.rooms.get(channel)
            return True if room is not None and room.epoch == epoch and room.seq >= int(seq) else None

        await self._wait(reached, within_s, f"to reach {cursor} in {channel}")

    async def parked(self) -> None:
        """Wait until the connection is one that only waits (a poller may be just between two polls)."""

    async def until_closed(self, within_s: float = WAIT_S) -> int:
        """The code with which the connection ended."""
        return int(await self._wait(lambda: self.closed, within_s, "the connection to end"))

    def events(self, channel: str, *types: str) -> list[Frame]:
        """All events of a channel so far (of these types), in the order of arrival."""
        log = self.rooms[channel].log if channel in self.rooms else []
        return [event for event in log if not types or event["type"] in types]

    def story(self, channel: str, user: str) -> list[str]:
        """What happened to a user, as words: `join`, `leave:timeout`, `update` …"""
        return [
            event["type"] + (":" + event["reason"] if "reason" in event else "")
            for event in self.events(channel)
            if event.get("user") == user and event["type"] != "message"
        ]

    def members(self, channel: str) -> dict[str, Frame]:
        """The folded roster."""
        return self.rooms[channel].members

    def cursor(self, channel: str) -> str:
        """The last event this client has seen in a channel."""
        return self.rooms[channel].cursor

    def breaches(self) -> list[str]:
        """Everything that broke the promises about order."""
        breaches = self.faults + [breach for room in self.rooms.values() for breach in room.breaches]
        return [f"{self.transport} {self.user}: {breach}" for breach in breaches]

    async def connect(self) -> None:
        """Open the connection (HTTP transports open theirs with the first `join`)."""
        await self._open()

    async def reconnect(self, node: Node | None = None, resume: bool = True) -> None:
        """Come back with the same session, to any node, from the last position (or, `resume=False`, afresh)."""
        self.node = node or self.node
        self.closed = None
        await self._reopen(resume)

    async def close(self) -> None:
        """Go as a well-behaved client does whose page is closed: grace starts."""
        await self._close_connection()
        self._note_closed(1000)

    @abc.abstractmethod
    async def abort(self) -> None:
        """Go as a crashed client does: by reset, or by silence where a reset means nothing."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Go on holding the connection without any sign of life (laptop lid, dead network)."""

    @abc.abstractmethod
    def thaw(self) -> None:
        """Take up reading and living again after `freeze`."""

    @abc.abstractmethod
    async def send(self, frame: Frame) -> Frame:
        """Send a command that has an id; return its reply, whatever it is."""

    @abc.abstractmethod
    async def drop(self) -> None:
        """Free everything, without waiting for the server: the end of a test."""

    @abc.abstractmethod
    async def _open(self) -> None: ...

    @abc.abstractmethod
    async def _reopen(self, resume: bool) -> None: ...

    @abc.abstractmethod
    async def _join(self, command: Frame) -> Frame: ...

    @abc.abstractmethod
    async def _close_connection(self) -> None: ...

    def _take(self, frame: Frame) -> None:
        """Note and fold a frame that the server pushed."""
        self.frames.append(frame)
        kind, channel = frame["type"], frame.get("channel", "")
        if kind == "welcome":
            self.welcome = frame
        elif kind == "events" and channel == INBOX:
            self.rooms.setdefault(channel, Letters(channel)).take_events(frame)
        elif kind == "joined":
            self.rooms.setdefault(channel, Room(channel)).take_joined(frame)
        elif kind == "events":
            self.rooms.setdefault(channel, Room(channel)).take_events(frame)
        elif kind == "close":
            self._note_closed(frame["code"])
        self._arrived.set()

    def _note_closed(self, code: int) -> None:
        if self.closed is None:
            self.closed = code
        self._arrived.set()

    async def _watched(self, reading: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a reader; a frame that breaks the contract so badly that reading it fails is a fault of the test."""
        try:
            await reading()
        except OSError:
            self._note_closed(ABNORMAL)
        except Exception as error:
            self.faults.append(f"{error!r} after {self.frames[-1:]}")
            self._note_closed(ABNORMAL)

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _wait(self, found: Callable[[], Any], within_s: float, what: str) -> Any:
        ends = time.monotonic() + within_s
        while (value := found()) is None:
            self._arrived.clear()
            left_s = ends - time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 0)):
                    await self._arrived.wait()
            except TimeoutError:
                raise AssertionError(f"not within {within_s} s: {what} for {self!r}") from None
        return value

    def __repr__(self) -> str:
        last = [json.dumps(frame)[:300] for frame in self.frames[-6:]]
        return f"<{self.transport} {self.user}/{self.session} closed={self.closed}; last frames: {last}>"


def _given(**fields: Any) -> Frame:
    return {name: value for name, value in fields.items() if value is not None}
