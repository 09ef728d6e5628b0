"""Tells the server what becomes of the events that a worker holds: done, given back, or kept for longer.

One request is under way at a time for all parts of the server. A part that could not be asked gets a lane of its own,
in which it is asked ever more seldom until it answers, so that it holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from presence.client.answers import Settled
from presence.client.errors import PresenceError, Unreachable
from presence.client.holding import Holding, Order, part_of
from presence.client.patience import away_pause_s

SHARED = ""  # the lane of all parts that can be asked

log = logging.getLogger("presence.client")


@dataclass(slots=True)
class _Lane:
    task: asyncio.Task[None] | None = None
    failures: int = 0
    again_s: float = 0.0  # nothing is said before


class Telling:
    """Says by `send` what is to be said of `holding`, and extends its leases every `each_s`.

    It sets `changed` when there is a reason to speak again.
    """

    def __init__(
        self, holding: Holding, send: Callable[[Order], Awaitable[Settled]], each_s: float, changed: asyncio.Event
    ) -> None:
        self._holding = holding
        self._send = send
        self._each_s = each_s
        self._changed = changed
        self._lanes = {SHARED: _Lane()}
        self._extend_s = time.monotonic() + each_s

    @property
    def due_s(self) -> float:
        """When to speak again (monotonic) if nothing changes before."""
        now_s = time.monotonic()
        waits = [lane.again_s for lane in self._lanes.values() if lane.task is None and lane.again_s > now_s]
        shared = self._lanes[SHARED]
        if shared.task is None and shared.again_s <= now_s:
            waits.append(self._extend_s)
        return min(waits, default=now_s + self._each_s)

    def speak(self) -> None:
        """Begin to say what is to be said, where nothing is under way; raises what refused a request for good."""
        now_s = time.monotonic()
        for name, lane in list(self._lanes.items()):
            if lane.task is not None and lane.task.done():
                task, lane.task = lane.task, None
                task.result()
            if lane.task is not None or lane.again_s > now_s:
                continue
            if orders := self._orders(name, now_s):
                lane.task = asyncio.create_task(self._say(name, lane, orders))
                lane.task.add_done_callback(lambda _: self._changed.set())
            elif name != SHARED:
                self._is_back(name)

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _orders(self, name: str, now_s: float) -> list[Order]:
        part = None if name == SHARED else name
        orders = self._holding.verdicts(part)
        if part is not None:
            return orders + self._holding.extensions(part)
        if self._extend_s <= now_s:
            extensions = self._holding.extensions()
            if not extensions:
                self._extend_s = now_s + self._each_s
            orders += extensions
        return orders

    async def _say(self, name: str, lane: _Lane, orders: list[Order]) -> None:
        """One turn of a lane. It ends where something could not be asked: what is left is said in the next one."""
        began_s = time.monotonic()
        for order in orders:
            sent_s = time.monotonic()
            try:
                settled = await self._send(order)
            except PresenceError as error:
                if not error.passes:
                    raise
                self._failed(name, order.ids, error)
                return
            lost = self._holding.carried_out(order, settled, sent_s)
            if lost:
                log.warning("%d events were lost to others before %s", lost, order.what)
            left = set(order.ids).difference(settled.acked, settled.refused)
            if left:
                self._failed(name, left, None)
                return
        if name != SHARED:
            self._is_back(name)
            return
        lane.failures = 0
        if not all(order.last for order in orders):
            self._extend_s = began_s + self._each_s

    def _failed(self, name: str, ids: Iterable[str], error: PresenceError | None) -> None:
        names = {name}
        if name == SHARED and (error is None or error.status >= 500):  # by a part of the server or by all of it
            names = {part_of(text) for text in ids}
            self._holding.away |= names
        retry_after_s = None if error is None else error.retry_after_s
        lanes = [self._lanes.setdefault(each, _Lane()) for each in names]
        for lane in lanes:
            lane.failures += 1
            lane.again_s = time.monotonic() + away_pause_s(lane.failures, retry_after_s)
        if any(lane.failures == 1 for lane in lanes):
            whole = isinstance(error, Unreachable)
            log.warning("%s is away, the worker goes on asking%s", "the server" if whole else "a part of the server",
                        f": {error}" if error else "")  # fmt: skip

    def _is_back(self, name: str) -> None:
        self._lanes.pop(name, None)
        self._holding.away.discard(name)
