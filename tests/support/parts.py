"""Parts of a node inside the test, for steps that must come in one awkward order: see tests/chaos/workbench.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import presence.session
from presence.auth import Grants, Identity
from presence.errors import Unavailable
from presence.hub import Hub
from presence.lua import Scripts
from presence.mailbox import Frame, Mailbox
from presence.node import Node
from presence.topic import Topic
from tests.chaos.workbench import Workbench
from tests.support.waiting import eventually

ALL = ("join", "see", "publish", "history")


class Parts(Workbench):
    """A workbench that `run_async` ends with the test."""

    def verify(self) -> None:
        """The scenario asserts by itself."""

    async def forget(self, *patterns: str) -> None:
        """Delete keys of this deployment, as their expiry or a loss of data would."""
        keys = [key async for key in self.redis.scan_iter(f"{self._prefix}*") if not key.endswith(b":guard")]
        chosen = [key for key in keys if not patterns or any(part.encode() in key for part in patterns)]
        assert chosen, patterns
        await self.redis.delete(*chosen)


def identity(user: str = "alice", grants: Sequence[str] = ALL, ttl_s: float = 600.0) -> Identity:
    """Who a token would say that it is."""
    return Identity(user, "{}", time.time() + ttl_s, Grants({"*": list(grants)}))


def sketch(node: Node, who: Identity, transport: str = "websocket", session: str = "session-1") -> Any:
    """A session that is not open yet."""
    return presence.session.Session(node.services, who, session, Mailbox(), transport)


class Brake:
    """Holds back the calls of one script: Redis has not run it yet (a `Gate` holds back the answers)."""

    def __init__(self, scripts: Scripts, name: str) -> None:
        self.held = 0
        self._open = asyncio.Event()
        self._call, self._name = scripts.call, name
        scripts.call = self._through  # type: ignore[method-assign]

    def release(self) -> None:
        """Let them go, and hold nothing more."""
        self._open.set()

    async def holds(self) -> None:
        """Wait until a call is held."""
        await eventually(lambda: self.held, 5, what=f"a held call of {self._name}")

    def _through(self, name: str, keys: Any, arguments: Any) -> Any:
        if name != self._name or self._open.is_set():
            return self._call(name, keys, arguments)
        return asyncio.ensure_future(self._later(keys, arguments))

    async def _later(self, keys: Any, arguments: Any) -> Any:
        self.held += 1
        await self._open.wait()
        return await self._call(self._name, keys, arguments)


class Loss:
    """Lets Redis run the next call of one script and loses the answer."""

    def __init__(self, scripts: Scripts, name: str) -> None:
        self.lost = 0
        self._call, self._name = scripts.call, name
        scripts.call = self._through  # type: ignore[method-assign]

    def _through(self, name: str, keys: Any, arguments: Any) -> Any:
        future = self._call(name, keys, arguments)
        return future if name != self._name or self.lost else asyncio.ensure_future(self._later(future))

    async def _later(self, future: asyncio.Future[Any]) -> Any:
        self.lost += 1
        await future
        raise Unavailable("the answer was lost")


class Ear:
    """A subscriber of a hub that notes what it is sent."""

    transport = "websocket"
    role = "member"

    def __init__(self, hub: Hub, channel: str) -> None:
        self.epoch, self.seq = "", 0
        self.frames: list[dict[str, Any]] = []
        self.topic: Topic = hub.open(channel)

    def put(self, frame: Frame) -> None:
        """Take a frame."""
        self.frames.append(json.loads(frame.json))

    @property
    def heard(self) -> list[int]:
        """The seq of every event, in the order of arrival."""
        return [event["seq"] for frame in self.frames if frame["type"] == "events" for event in frame["events"]]

    async def reaches(self, seq: int) -> None:
        """Wait until the last event heard is this one."""
        await eventually(lambda: self.heard[-1:] == [seq], 5, what=f"event {seq}")
