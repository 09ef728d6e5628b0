"""Moves ended presences from the queue `archive` to the database: take, commit, acknowledge, in this order.

While the database is away nothing is given back: the leases are kept alive, so that an outage of a day does not make
dead letters. What the database refuses for its content is not acknowledged either, but its lease runs out: after
the queue's `max_deliveries` it is a dead letter.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from presence import codec
from presence.archive.numbers import Numbers
from presence.archive.store import Ended, Refused, Store, StoreAway
from presence.client import AsyncQueue, Event, LimitExceeded, NotFound, PresenceError
from presence.logs import get

T = TypeVar("T")

QUEUE = "archive"
PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

log = get(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a worker works: a batch is what came within `window_ms` of its first row, at most `rows`. `channels` is the
    pattern of the queue; a row that the database refuses is tried `max_deliveries` times, each `lease_ms`."""

    rows: int = 500
    window_ms: int = 200
    lease_ms: int = 30_000
    wait_ms: int = 2000
    max_deliveries: int = 20
    channels: str = "*"


class Archivist:
    """One worker; any number of them, on any number of machines, may share the queue."""

    def __init__(self, queue: AsyncQueue, store: Store, numbers: Numbers, terms: Terms) -> None:
        self._queue = queue
        self._store = store
        self._numbers = numbers
        self._terms = terms
        self._consumer = f"{socket.gethostname()[:80]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End after the batch that is under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Archive until told to stop. Raises PresenceError where the server refuses for good, for a bad key or for
        want of room for the queue."""
        await self._persist(self._prepare)
        await self._patiently(self._create, final=LimitExceeded)
        log.info("archive_ready", consumer=self._consumer)
        while not self._stopping.is_set():
            batch = await self._gather()
            if batch:
                await self._archive(batch)

    async def _prepare(self) -> None:
        await asyncio.to_thread(self._store.prepare)

    async def _create(self) -> None:
        terms = self._terms
        # From the start: what ended before the first worker came is archived, too, as far as it is known.
        await self._queue.create("start", types=["leave"], channels=terms.channels, max_deliveries=terms.max_deliveries)

    async def _gather(self) -> list[Event]:
        """The next batch; empty where nothing came, or it is time to stop."""
        terms = self._terms
        batch = await self._take(terms.rows, terms.wait_ms)
        if batch and len(batch) < terms.rows:
            await self._pause(terms.window_ms / 1000)
            batch += await self._take(terms.rows - len(batch), 0)
        return batch

    async def _take(self, count: int, wait_ms: int) -> list[Event]:
        async def take() -> list[Event]:
            return await self._queue.take(self._consumer, count, wait_ms=wait_ms, lease_ms=self._terms.lease_ms)

        try:
            return await self._patiently(take) or []
        except NotFound:  # somebody ended the queue: with a worker there, it has to be
            log.warning("archive_queue_missing", remedy="the queue `archive` was ended; it begins anew")
            await self._patiently(self._create, final=LimitExceeded)
            return []

    async def _archive(self, batch: Sequence[Event]) -> None:
        """Commit the batch, then acknowledge it. Whoever else got it meanwhile writes the same rows."""
        ids = [event.id for event in batch]
        rows = {event.id: row for event in batch if (row := row_of(event)) is not None}
        keeping = asyncio.create_task(self._keep(ids, rows))
        refused: list[Refused] | None = None
        attempts = 0

        async def write() -> None:
            nonlocal refused, attempts
            attempts += 1
            if attempts > 1:
                await self._extend(ids, rows)
            refused = await asyncio.to_thread(self._store.write, list(rows.values()))

        try:
            if rows:
                await self._persist(write)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        if rows and refused is None:  # told to stop while the database is away
            with suppress(PresenceError):
                await self._queue.release(self._consumer, ids)
            return
        bad = {each.row for each in refused or ()}
        self._set_aside(refused or ())
        done = [event_id for event_id in ids if rows.get(event_id) not in bad]
        await self._acknowledge(done)
        self._numbers.archived(len(rows) - len(bad), max(event.at for event in batch))

    def _set_aside(self, refused: Sequence[Refused]) -> None:
        if refused:
            self._numbers.refused(len(refused))
            kinds = ", ".join(sorted({each.error for each in refused}))
            log.warning(
                "rows_refused", rows=len(refused), error=kinds, remedy="see GET /v1/queues/archive/dead if it stays so"
            )

    async def _acknowledge(self, ids: list[str]) -> None:
        if not ids:
            return

        async def ack() -> None:
            settled = await self._queue.ack(self._consumer, ids)
            if settled.refused:
                log.info("archived_by_two", rows=len(settled.refused))

        with suppress(NotFound):
            await self._patiently(ack)

    async def _keep(self, ids: list[str], rows: dict[str, Ended]) -> None:
        """Keep the leases of a batch that takes long."""
        while True:
            await asyncio.sleep(self._terms.lease_ms / 3000)
            await self._extend(ids, rows)

    async def _extend(self, ids: list[str], rows: dict[str, Ended]) -> None:
        """Extend the leases; what is not ours any more (another has it, or the user was erased) is not written."""
        with suppress(PresenceError):
            settled = await self._queue.extend(self._consumer, ids, lease_ms=self._terms.lease_ms)
            for event_id in settled.refused:
                rows.pop(event_id, None)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something with the database, again and again while it is away, until told to stop."""
        pause_s, since_s = PAUSE_S, time.monotonic()
        failing = False
        while True:
            try:
                await work()
            except StoreAway as problem:
                if not failing:
                    log.warning("database_away", error=str(problem), remedy="nothing is lost; it is tried again")
                failing = True
                self._numbers.away(True)
            else:
                if failing:
                    self._numbers.away(False)
                    log.info("database_back", away_s=round(time.monotonic() - since_s, 1))
                return
            if self._stopping.is_set():
                return
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _patiently(self, call: Callable[[], Awaitable[T]], final: type[PresenceError] | None = None) -> T | None:
        """Ask the server, again and again while it is away; None when told to stop. An error of the kind `final` does
        not pass by waiting, whatever it says."""
        failing = False
        while True:
            try:
                answer = await call()
            except PresenceError as problem:
                if not problem.passes or (final is not None and isinstance(problem, final)):
                    raise
                if not failing:
                    log.warning("server_away", error=problem.code)
                failing = True
                if self._stopping.is_set():
                    return None
                await self._pause(1.0)
            else:
                if failing:
                    log.info("server_back")
                return answer

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def row_of(event: Event) -> Ended | None:
    """The row of a `leave`; None for what is no end of a presence, which somebody else may have put into the queue."""
    if event.type != "leave" or event.user is None or event.generation is None:
        return None
    return Ended(
        user_id=event.user,
        channel=event.channel,
        generation=event.generation,
        info=codec.compact(event.info or {}),
        state=None if event.state is None else codec.compact(event.state),
        first_seen=event.since or event.at,
        last_seen=event.last_seen or event.at,
        ended_at=event.at,
        reason=event.reason or "",
    )
