"""Webhooks: each configured target is a queue of the server's own, and one node at a time delivers it.

`targets` is what the operator wrote, `course` what a queue gives in order, `deliverer` the loop, `outgoing` and `reach`
the way out, `signing` the signature, `standing` what the nodes tell each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from presence.errors import BadRequest, NotFound, Unavailable
from presence.events import Event
from presence.keys import Keys, fed
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.queues import Queues, no_such_queue
from presence.queues import Standing as QueueStanding
from presence.webhooks.course import Course, place_of, starts_after, starts_at
from presence.webhooks.deliverer import Deliverer
from presence.webhooks.outgoing import Outgoing
from presence.webhooks.standing import Note, Standing, no_such_target
from presence.webhooks.targets import PREFIX, Target, load_targets

__all__ = ["Report", "Target", "Webhooks", "load_targets"]

PREPARE_S = 5.0
FILLING = 2  # targets that ask for events at a time: what they get is read by one loop, and sent by one Redis


@dataclass(frozen=True, slots=True)
class Report:
    """How a target stands; `queue` is None as long as its queue is not there, `node` if none delivers it."""

    target: Target
    node: str | None
    note: Note
    queue: QueueStanding | None


class Webhooks:
    """The targets of this node's configuration."""

    def __init__(self, targets: Sequence[Target], scripts: Scripts, keys: Keys, node: str, metrics: Metrics) -> None:
        """`scripts` by connections of their own: what a target has missed would delay others."""
        self._scripts = scripts
        self._queues = queues = Queues(scripts, keys, metrics, whole=True)
        self._keys = keys
        self._standings = {target.name: Standing(scripts, keys, target.group) for target in targets}
        outgoing = Outgoing() if targets else None
        turns = asyncio.Semaphore(FILLING)
        self._deliverers = {
            target.name: Deliverer(
                target,
                node,
                queues,
                Course(scripts, keys, queues, target.group, node, target.batch),
                self._standings[target.name],
                outgoing,
                metrics,
                turns,
            )
            for target in targets
            if outgoing is not None
        }
        metrics.webhook_lag.set_function(lambda: max((d.lag_s for d in self._deliverers.values()), default=0.0))
        metrics.webhook_failing.set_function(lambda: sum(d.failing for d in self._deliverers.values()))

    async def start(self) -> None:
        """Deliver until `stop`. What happens after this returned is delivered, if Redis answers in time."""
        with suppress(Unavailable, TimeoutError):  # each tries again by itself
            async with asyncio.timeout(PREPARE_S):
                await asyncio.gather(*(deliverer.prepare() for deliverer in self._deliverers.values()))
        for deliverer in self._deliverers.values():
            deliverer.start()

    async def stop(self) -> None:
        """End all; other nodes go on."""
        await asyncio.gather(*(deliverer.stop() for deliverer in self._deliverers.values()))

    def heard_event(self, event: Event) -> None:
        """Wake those whom this concerns."""
        for deliverer in self._deliverers.values() if fed(event.channel) else ():
            deliverer.heard_event(event)

    async def reports(self) -> list[Report]:
        """How all targets stand, in the order of the file."""
        turns = asyncio.Semaphore(FILLING)
        return await asyncio.gather(*(self._report(deliverer.target, turns) for deliverer in self._deliverers.values()))

    async def replay(self, name: str, *, from_ms: int | None = None, cursor: str | None = None) -> int:
        """Deliver again what happened since an instant (Unix ms), or what came after a cursor, as far as the feed has
        it; returns how many events wait then."""
        target = self._target(name)
        place = place_of(cursor, self._keys.partitions)
        if place is not None:
            starts = starts_after(place, self._keys.partitions)
        elif from_ms is not None:
            starts = starts_at(from_ms, self._keys.partitions)
        else:
            raise BadRequest("cursor must be one that came with a webhook")
        replies = await asyncio.gather(
            *(
                self._scripts.call("queue_rewind", self._keys.script(number), (target.group, start))
                for number, start in enumerate(starts)
            )
        )
        if any(reply[0] == b"none" for reply in replies):
            raise no_such_queue(target.group)
        standing, _ = await self._queues.look(target.group)
        return standing.waiting

    async def end(self, name: str) -> None:
        """Forget the queue of a target that is not configured any more, with all that waits in it."""
        if name in self._deliverers:
            raise BadRequest("this webhook is configured; take it out of the file PRESENCE_WEBHOOKS_FILE first")
        await self._queues.drop(PREFIX + name)

    def _target(self, name: str) -> Target:
        if name not in self._deliverers:
            raise no_such_target(name)
        return self._deliverers[name].target

    async def _report(self, target: Target, turns: asyncio.Semaphore) -> Report:
        async with turns:  # to look at a queue is as much work as to take from it
            node, note = await self._standings[target.name].look()
            try:
                queue, _ = await self._queues.look(target.group)
            except NotFound:
                return Report(target, node, note, None)
        return Report(target, node, note, queue)
