"""A worker: takes events from a queue, has them handled, keeps their leases meanwhile, acknowledges them.

Two tasks: one takes while there is room, one speaks of what is held. Both go on by themselves when the server is
away, and end the worker when it refuses for good (no such queue, a bad key).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypedDict

from presence.client import queue_calls
from presence.client.answers import Event, Settled
from presence.client.errors import PresenceError
from presence.client.holding import Holding, Order
from presence.client.patience import away_pause_s
from presence.client.telling import Telling

if TYPE_CHECKING:
    from presence.client.asynchronous import AsyncClient

TAKEN_AT_ONCE = 500
LONGEST_BACK_OFF_S = 300.0
SHORTEST_LEASE_MS = 100  # that the server knows

log = logging.getLogger("presence.client")


class Options(TypedDict, total=False):
    """What a worker may be told; see `Terms`."""

    concurrency: int
    most_held: int
    lease_ms: int
    wait_ms: int
    back_off_s: float
    stop_within_s: float
    consumer: str


@dataclass(frozen=True, slots=True)
class Terms:
    """How a worker works.

    It handles `concurrency` events at a time and holds `most_held` (twice as many if not said), each leased for
    `lease_ms` and kept while it is held: so long a dead worker's events stay away. An empty queue is asked every
    `wait_ms`, which is also how long stopping may take then. An event whose handling failed comes back after
    `back_off_s`, doubled each time. When stopped, handlers get `stop_within_s` to end. `consumer` is made of host,
    process and chance if not said; no two workers may share one.
    """

    concurrency: int = 8
    most_held: int = 0
    lease_ms: int = queue_calls.LEASE_MS
    wait_ms: int = 2000
    back_off_s: float = 5.0
    stop_within_s: float = 30.0
    consumer: str = ""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.wait_ms < 0 or self.lease_ms < SHORTEST_LEASE_MS:
            raise ValueError(f"{self}: concurrency must be at least 1, lease_ms {SHORTEST_LEASE_MS}, wait_ms 0")

    @property
    def most(self) -> int:
        """How many events may be held."""
        return max(self.most_held or 2 * self.concurrency, self.concurrency)

    def back_off_ms(self, deliveries: int) -> int:
        """When an event comes back whose handling failed for the so-many-th time."""
        longest = min(LONGEST_BACK_OFF_S, self.back_off_s * 2.0 ** min(deliveries - 1, 20))
        return max(SHORTEST_LEASE_MS, int(1000 * longest * random.uniform(0.75, 1)))


class AsyncWorker:
    """A worker whose handlers are coroutines, in the loop that starts it. `async with` starts and stops it."""

    def __init__(
        self, client: AsyncClient, group: str, handle: Callable[[Event], Awaitable[object]], terms: Terms
    ) -> None:
        self.consumer = terms.consumer or f"{socket.gethostname()[:80]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._client = client
        self._group = group
        self._handle = handle
        self._terms = terms
        self._holding = Holding(terms.most, terms.lease_ms)
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # something is to be said
        self._freed = asyncio.Event()  # there may be room
        self._taking: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take events; needs a running loop."""
        if self._work is None:
            self._work = asyncio.create_task(self.work(), name="presence-worker")

    async def stop(self) -> None:
        """Take nothing more, let running handlers end, give back what was not begun; raises what ended the worker."""
        self.ask_to_stop()
        await self.wait()

    def ask_to_stop(self) -> None:
        """The same without waiting for it."""
        self._stopping.set()
        self._changed.set()
        self._freed.set()

    async def wait(self) -> None:
        """Until the worker has ended; raises PresenceError where the server refused for good."""
        if self._work is not None:
            await asyncio.shield(self._work)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop)
        try:
            self.start()
            await self.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def work(self) -> None:
        """The whole life of the worker: until it is asked to stop, or refused for good."""
        self._taking = asyncio.create_task(self._take_on())
        both = {self._taking, asyncio.create_task(self._settle_on())}
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*both, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self.ask_to_stop()
            await asyncio.wait({*both, *self._running}, timeout=self._terms.stop_within_s)
        finally:
            everything = [stopping, *both, *self._running]
            for task in everything:
                task.cancel()
            ends = await asyncio.gather(*everything, return_exceptions=True)
        if len(self._holding):
            log.warning("worker %s ends while it holds %d events", self.consumer, len(self._holding))
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end

    async def _take_on(self) -> None:
        try:
            while not self._stopping.is_set():
                self._freed.clear()
                if self._holding.begs:
                    await self._take()
                else:
                    await self._freed.wait()
        finally:
            self._changed.set()

    async def _take(self) -> None:
        terms = self._terms
        # Reckoned from the request on, a lease must outlast the wait for its events.
        wait_ms = min(terms.wait_ms, terms.lease_ms // 3)
        count = min(self._holding.room, TAKEN_AT_ONCE)
        call = queue_calls.take(self._group, self.consumer, count, wait_ms=wait_ms, lease_ms=terms.lease_ms)
        failures = 0
        while not self._stopping.is_set():
            sent_s = time.monotonic()
            try:
                events = await self._client.once(call)
            except PresenceError as error:
                if not error.passes:
                    raise
                failures += 1
                if failures == 1:
                    log.warning("the server is away, the worker goes on asking: %s", error)
                await _happens(self._stopping, away_pause_s(failures, error.retry_after_s))
            else:
                self._holding.add(events, sent_s)
                self._begin()
                return

    async def _settle_on(self) -> None:
        """Say what is to be said at once, and extend leases each quarter of one."""
        telling = Telling(self._holding, self._tell, self._terms.lease_ms / 4000, self._changed)
        try:
            while not (self._stopping.is_set() and self._taken_last() and not len(self._holding)):
                await self._change(telling.due_s - time.monotonic())
                if self._stopping.is_set():
                    self._holding.give_back()
                telling.speak()
                self._begin()
                self._freed.set()
        finally:
            await telling.close()

    def _taken_last(self) -> bool:
        return self._taking is not None and self._taking.done()

    async def _change(self, within_s: float) -> None:
        if within_s > 0:
            await _happens(self._changed, within_s)
        self._changed.clear()

    async def _tell(self, order: Order) -> Settled:
        ask = {"ack": queue_calls.ack, "release": queue_calls.release}.get(order.what)
        if ask is not None:
            return await self._client.once(ask(self._group, self.consumer, order.ids))
        return await self._client.once(
            queue_calls.extend(self._group, self.consumer, order.ids, lease_ms=order.lease_ms)
        )

    def _begin(self) -> None:
        while len(self._running) < self._terms.concurrency and not self._stopping.is_set():
            event = self._holding.begin(time.monotonic())
            if event is None:
                return
            task = asyncio.create_task(self._run(event))
            self._running.add(task)
            task.add_done_callback(self._ended)

    async def _run(self, event: Event) -> None:
        try:
            await self._handle(event)
        except (Exception, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the worker ends; else something in the handler was cancelled, which is a failure like others
            back_off_ms = self._terms.back_off_ms(event.deliveries)
            log.exception("handling event %s failed, delivery %d; it comes back in %d ms",
                          event.id, event.deliveries, back_off_ms)  # fmt: skip
            self._holding.failed(event, back_off_ms)
        else:
            self._holding.done(event)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()
        self._begin()


async def _happens(event: asyncio.Event, within_s: float) -> None:
    """Return when the event is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
