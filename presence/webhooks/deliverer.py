"""Delivers one target: one batch after the other, each until it is taken or given up.

All nodes run this; whoever has the lease delivers. Before changing it: the note is written before the attempt, so that
a node that takes over tries the very same batch under the same webhook-id. Right before it the entries are extended,
which is refused to a node that has lost its lease, or whose queue was moved back meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

from presence.auth import matches
from presence.errors import LimitExceeded, NotFound, Unavailable
from presence.events import Event
from presence.logs import get
from presence.metrics import Metrics
from presence.queues import Queues
from presence.webhooks.course import Course, Item, body_of, cursor_of
from presence.webhooks.outgoing import Answer, Outgoing
from presence.webhooks.signing import signed
from presence.webhooks.standing import RENEW_S, Note, Standing
from presence.webhooks.targets import Target

log = get(__name__)

IDLE_S = 1.0  # a message on the bus may be lost
GATHER_S = 0.05  # from the news of an event to the question for it: others come along
TROUBLE_S = 1.0
MOST_BYTES = 1 << 20
MOST_PAUSE_S = 300.0
LEAVE_S = 2.0  # for the attempt under way when the node stops
GONE = 410


class Deliverer:
    """The loop of one target on one node."""

    def __init__(
        self,
        target: Target,
        node: str,
        queues: Queues,
        course: Course,
        standing: Standing,
        outgoing: Outgoing,
        metrics: Metrics,
        turns: asyncio.Semaphore,
    ) -> None:
        """`turns`: how many targets may ask for events at a time."""
        self.target = target
        self._node = node
        self._queues = queues
        self._course = course
        self._standing = standing
        self._outgoing = outgoing
        self._metrics = metrics
        self._turns = turns
        self._note: Note | None = None  # None: another node delivers, as far as we know
        self._kept: Note | None = None  # as it stands in Redis
        self._term = 0  # in which the note was written
        self._there = self._was_there = False
        self._ending = False
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def lag_s(self) -> float:
        """Age of the oldest event that is here and not delivered; 0 where another node delivers."""
        oldest_ms = self._course.oldest_ms
        return 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)

    @property
    def failing(self) -> bool:
        """Whether this node delivers and its last attempt failed."""
        return self._note is not None and self._note.failing_since is not None

    async def prepare(self) -> None:
        """Create the queue, or change what it wants."""
        # One that was there and is not any more went with its data: then it begins with all there is.
        start = self.target.from_start or self._was_there
        await self._queues.put(self.target.group, self.target.queue, from_start=start)
        self._there = self._was_there = True

    def start(self) -> None:
        """Deliver until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, after the attempt under way if that does not take long; another node goes on at once."""
        self._ending = True
        self._bell.set()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=LEAVE_S)
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        if self._note is not None:
            with suppress(Unavailable):
                await self._standing.lead(self._node, self._note, lease_ms=0, term=self._term)

    def heard_event(self, event: Event) -> None:
        """Wake up if this matters; while a batch is under way it does not yet."""
        queue = self.target.queue
        if self._note is None or self._note.ids or (queue.types and event.type not in queue.types):
            return
        if matches(queue.pattern, event.channel):
            self._bell.set()

    # ---- below: private ----

    async def _run(self) -> None:
        while not self._ending:
            try:
                pause_s = await self._turn()
            except (Unavailable, NotFound):  # not found: its queue went with the data of Redis, most likely
                self._follow()
                self._there = False
                pause_s = _trouble_s()
            except LimitExceeded:
                log.error("webhook_without_queue", target=self.target.name, remedy="end queues that nobody needs")
                pause_s = MOST_PAUSE_S
            except Exception as error:  # whatever it is, the other targets and the next turn go on
                log.error("webhook_turn_failed", target=self.target.name, exc_info=error)
                self._follow()
                pause_s = _trouble_s()
            if pause_s > 0 and not self._ending:
                await self._rest(pause_s)

    async def _rest(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), pause_s)
            if not self._ending:
                await asyncio.sleep(GATHER_S)
        self._bell.clear()

    def _follow(self) -> None:
        """Another node delivers, or may."""
        self._note = None
        self._course.forget()

    async def _turn(self) -> float:
        """One step; returns how long to rest."""
        if not self._there:
            await self.prepare()
        if not await self._keep(self._note):
            return self._pause_s
        assert self._note is not None
        if not self._note.ids or self._course.anew:
            try:
                filled = await self._fill()
            except Unavailable:  # the next time we go on from where we are
                return _trouble_s()
            if not filled or self._course.anew:
                return self._pause_s
        if not self._note.ids:
            batch = self._course.first(self.target.batch, MOST_BYTES)
            if not batch:
                return 0.0 if self._course.unripe else IDLE_S
            self._note = self._note.begun(f"msg_{secrets.token_hex(12)}", tuple(item.id for item in batch))
        batch = self._course.these(self._note.ids)
        if not batch:  # they were dealt with before they could be crossed out here
            self._note = self._note.without_batch()
            return 0.0
        wait_s = ((self._note.retry_at or 0) - _now_ms()) / 1000
        if wait_s > 0:
            return min(wait_s, RENEW_S)
        return await self._try(self._note, batch)

    async def _keep(self, note: Note | None) -> bool:
        """Take or renew the lease, and write the note. False if the lease is another node's, or was meanwhile: then the
        note counts for nothing, and the next turn begins with what Redis says."""
        lead = await self._standing.lead(self._node, None if note == self._kept else note, term=self._term)
        if lead is None:
            self._follow()
            return False
        led = self._note is not None and lead.term == self._term
        if not led:
            log.info("webhook_led", target=self.target.name, node=self._node)
            self._course.forget()
        self._term, self._note, self._kept = lead.term, lead.note, lead.note
        return led

    @property
    def _pause_s(self) -> float:
        return RENEW_S if self._note is None else 0.0

    async def _fill(self) -> bool:
        """Ask for events when it is our turn; False if another node has, or had, the lease by then."""
        waits = self._turns.locked()
        async with self._turns:
            if waits and not await self._keep(self._note):
                return False
            await self._course.fill()
        return True

    async def _try(self, note: Note, batch: list[Item]) -> float:
        note = note.tried()
        if not await self._keep(note):
            return self._pause_s
        if not await self._course.hold(batch):
            self._note = note.without_batch()
            self._course.forget()
            return 0.0
        answer = await self._post(note, batch)
        if not answer.error:
            await self._delivered(note, batch)
            return 0.0
        if note.attempts >= self.target.queue.max_deliveries:
            await self._give_up(note, batch, answer)
            return 0.0
        self._failed(note, answer)
        return 0.0

    async def _post(self, note: Note, batch: Sequence[Item]) -> Answer:
        """One attempt; the lease is kept meanwhile. If it cannot be, the attempt goes on: it is too late to take it
        back."""
        body = body_of(batch, cursor_of(batch) or note.cursor)
        headers = signed(self.target.secrets, note.webhook_id, int(time.time()), body)
        posting = asyncio.get_running_loop().create_task(self._outgoing.post(self.target, headers, body))
        try:
            while not (await asyncio.wait({posting}, timeout=RENEW_S))[0]:
                with suppress(Unavailable):
                    await self._standing.lead(self._node)
            return posting.result()
        finally:
            posting.cancel()

    async def _delivered(self, note: Note, batch: list[Item]) -> None:
        self._metrics.webhook_deliveries["ok"].inc()
        if note.failing_since is not None:
            log.info(
                "webhook_recovered", target=self.target.name, failed_for_s=(_now_ms() - note.failing_since) // 1000
            )
        self._settled(await self._course.done(batch), note.delivered(cursor_of(batch), _now_ms()))

    async def _give_up(self, note: Note, batch: list[Item], answer: Answer) -> None:
        self._metrics.webhook_deliveries["dead"].inc()
        self._metrics.queue_dead_letters.inc(len(batch))
        log.error(
            "webhook_gave_up",
            target=self.target.name,
            events=len(batch),
            attempts=note.attempts,
            error=answer.error,
            remedy="see its dead letters, and requeue them when the receiver works",
        )
        whole = await self._course.bury(batch, note.attempts)
        now_ms = _now_ms()
        self._settled(whole, note.failed(answer.error, now_ms, now_ms).without_batch(cursor_of(batch)))

    def _settled(self, whole: bool, note: Note) -> None:
        """Go on behind a batch; if it was not all ours any more, from what Redis says."""
        self._note = note
        if not whole:
            self._course.forget()

    def _failed(self, note: Note, answer: Answer) -> None:
        self._metrics.webhook_deliveries["failed"].inc()
        pause_s = max(answer.retry_after_s, _back_off_s(note.attempts, self.target.backoff_ms))
        if answer.status == GONE:
            pause_s = max(pause_s, MOST_PAUSE_S)
        now_ms = _now_ms()
        self._note = note.failed(answer.error, now_ms, now_ms + int(pause_s * 1000))
        log.warning(
            "webhook_failed",
            target=self.target.name,
            attempt=note.attempts,
            of=self.target.queue.max_deliveries,
            error=answer.error,
            again_in_s=round(pause_s, 1),
        )


def _back_off_s(attempts: int, first_ms: int) -> float:
    """Twice as long after each attempt, half of it at random: many nodes and targets must not come all at once."""
    whole_s = min(MOST_PAUSE_S, first_ms / 1000 * 2.0 ** min(attempts - 1, 30))
    return whole_s / 2 + random.random() * whole_s / 2


def _trouble_s() -> float:
    return TROUBLE_S * (0.5 + random.random())  # not all at once


def _now_ms() -> int:
    return int(time.time() * 1000)
