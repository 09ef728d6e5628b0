"""Which nodes there are: each says once a second that it is there, and how it is.

Nothing depends on it: it is for people who look. A node that was killed stays in the list for a while, so that they
see since when it is silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from presence.codec import compact
from presence.directory import Directory
from presence.errors import Unavailable
from presence.keys import Keys
from presence.lane import Reply
from presence.lua import Scripts

SAY_S = 1.0
GOODBYE_S = 0.5
KEEP_MS = 600_000


@dataclass(frozen=True, slots=True)
class Attendant:
    """A node as it said last; `listening`: whether Redis has its subscription. Instants in ms by Redis's clock, the
    report is a JSON text."""

    node: str
    listening: bool
    seen_at: int
    started_at: int
    report: str


class Attendance:
    """Tells that this node is there, and knows of the others."""

    def __init__(
        self, scripts: Scripts, keys: Keys, directory: Directory, node: str, describe: Callable[[], dict[str, object]]
    ) -> None:
        """`describe` says how this node is."""
        self._scripts = scripts
        self._keys = keys
        self._directory = directory
        self._node = node
        self._describe = describe
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say it for the first time, and go on until `stop`."""
        await self._say()
        self._task = asyncio.get_running_loop().create_task(self._say_for_ever())

    async def stop(self) -> None:
        """Say that this node goes, where Redis hears it at once."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        with suppress(Unavailable, TimeoutError):
            await asyncio.wait_for(self._call(self._node, ""), GOODBYE_S)

    async def all(self) -> tuple[int, list[Attendant]]:
        """Redis's time and the nodes of the last ten minutes, the oldest first; Unavailable if Redis cannot say."""
        word, *rest = await self._call("", "")
        if word == b"settling":
            raise Unavailable("Redis has lost its data; nodes are being gathered again", retry_ms=2000)
        now, *flat = rest
        names = [name.decode() for name in flat[::4]]
        hear = await asyncio.gather(*map(self._directory.listens, names))
        rows = zip(names, hear, map(int, flat[1::4]), map(int, flat[2::4]), flat[3::4], strict=True)
        found = [Attendant(name, heard, seen, began, report.decode()) for name, heard, seen, began, report in rows]
        return int(now), sorted(found, key=lambda one: (one.started_at, one.node))

    async def _say_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAY_S)
            await self._say()

    async def _say(self) -> None:
        with suppress(Unavailable):  # the next second is as good
            await self._call(self._node, compact(self._describe()))

    async def _call(self, node: str, report: str) -> Reply:
        running_ms = int((time.monotonic() - self._began) * 1000)
        return await self._scripts.call("attend", self._keys.script(0), (node, report, running_ms, KEEP_MS))
