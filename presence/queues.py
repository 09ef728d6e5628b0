"""Work queues for back ends: consumer groups on the partitions' feeds, with leases, and dead letters.

A queue exists in every partition under the same name. Each method asks those partitions that it concerns; what is
handed out belongs to one consumer until its lease ends, and is handed out again unless it was acknowledged. Every
method raises `Unavailable` when Redis cannot be asked; then part of it may have been done, and repeating it is safe.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from presence.entries import Entry, age, event_of
from presence.errors import BadRequest, LimitExceeded, NotFound, Unavailable
from presence.keys import Keys
from presence.lane import Reply
from presence.lua import Scripts
from presence.metrics import Metrics

TYPES = ("join", "leave", "update", "message")
DELIVERIES = 5  # how often an event is tried unless the queue says otherwise
MOST_QUEUES = 100
MOST_DEAD = 10_000  # dead letters of a queue, over all partitions
MOST_BYTES = 4 << 20  # handed out at a time, more or less; more would keep Redis and this node from everything else
LEAST_BYTES = 64 << 10  # asked of each partition
MOST_LOOKED_AT = 5_000  # unread entries that are counted one by one, over all partitions
LOOKED_AT_BYTES = 8 << 20  # the same in bytes
THERE_MS = 60_000  # a consumer that asked within this time is there


@dataclass(frozen=True, slots=True)
class Queue:
    """What a queue wants: `types` (none: all), channels by `pattern` as in tokens, and how often it is tried."""

    types: tuple[str, ...] = ()
    pattern: str = "*"
    max_deliveries: int = DELIVERIES

    @property
    def arguments(self) -> tuple[int, str, str]:
        """As the scripts take it."""
        return self.max_deliveries, ",".join(self.types), self.pattern

    @classmethod
    def of_arguments(cls, most: int | bytes, types: bytes, pattern: bytes) -> Queue:
        """As the scripts give it."""
        return cls(tuple(kind for kind in types.decode().split(",") if kind), pattern.decode(), int(most))


@dataclass(frozen=True, slots=True)
class Standing:
    """A queue in numbers; `oldest_ms`: age of the oldest event that is not acknowledged, None where there is none."""

    waiting: int
    in_flight: int
    oldest_ms: int | None
    dead: int
    lost: int
    consumers: tuple[str, ...]


class PartlyAway(Unavailable):
    """Some partitions cannot be asked, and the others have nothing."""


class Queues:
    """The queues of a deployment."""

    def __init__(self, scripts: Scripts, keys: Keys, metrics: Metrics, *, whole: bool = False) -> None:
        """`whole`: what cannot be done in every partition that is concerned is Unavailable."""
        self._scripts = scripts
        self._whole = whole
        self._keys = keys
        self._metrics = metrics

    async def put(self, group: str, queue: Queue, *, from_start: bool, partition: int | None = None) -> None:
        """Create the queue, from now on or from the oldest event that is known, or change what it wants; everywhere,
        or in one partition that has lost it."""
        arguments = (group, *queue.arguments, "start" if from_start else "now", MOST_QUEUES)
        if partition is None:
            replies = await self._everywhere("queue_put", *arguments)
        else:
            replies = [await self._call("queue_put", partition, *arguments)]
        if any(reply[0] == b"queues" for reply in replies):
            made = [number for number, reply in enumerate(replies) if reply[0] == b"ok" and reply[1]]
            if partition is None:
                await asyncio.gather(*(self._call("queue_drop", number, group) for number in made))
            raise LimitExceeded(f"there may be {MOST_QUEUES} queues; end one first")

    async def drop(self, group: str) -> None:
        """End the queue and forget what waits in it; NotFound where there is none."""
        replies = await self._everywhere("queue_drop", group)
        if not any(reply[1] for reply in replies):
            raise no_such_queue(group)

    async def take(
        self, group: str, consumer: str, count: int, lease_ms: int, partitions: Iterable[int] | None = None
    ) -> tuple[list[dict[str, Any]], set[int]]:
        """Up to `count` events for this consumer, the oldest first, its own for `lease_ms`; fewer if they are large,
        maybe none. Also the partitions in which more may wait. One that cannot be asked keeps back what it has, unless
        it is all there is: then Unavailable, or PartlyAway where others have nothing. NotFound if all were asked and
        none knows the queue."""
        asked = list(range(self._keys.partitions) if partitions is None else partitions)
        random.shuffle(asked)  # no partition is always the last
        events: list[dict[str, Any]] = []
        trouble: list[Exception] = []
        known, room = False, MOST_BYTES
        while asked and len(events) < count and room > 0:
            shares = _shares(count - len(events), len(asked))
            turn, asked = asked[: len(shares)], asked[len(shares) :]
            portion = max(LEAST_BYTES, room // len(turn))
            answers = await asyncio.gather(
                *(self.take_from(p, group, consumer, n, lease_ms, portion) for p, n in zip(turn, shares, strict=True)),
                return_exceptions=True,
            )
            for partition, answer in zip(turn, answers, strict=True):
                if isinstance(answer, (Unavailable, NotFound)):
                    trouble.append(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    known = True
                    events += answer[0]
                    room -= answer[2]
                    if answer[1]:
                        asked.append(partition)
        if not events:
            for problem in trouble:
                if isinstance(problem, Unavailable):
                    raise PartlyAway(problem.message) if known else problem
                if not (known or partitions):
                    raise problem
        return sorted(events, key=age), set(asked)

    async def take_from(
        self, partition: int, group: str, consumer: str, count: int, lease_ms: int, most_bytes: int
    ) -> tuple[list[dict[str, Any]], bool, int]:
        """As `take`, of one partition: events in their order, whether there may be more, and their bytes."""
        most_dead = max(10, MOST_DEAD // self._keys.partitions)
        reply = await self._call("queue_take", partition, group, consumer, count, lease_ms, most_dead, most_bytes)
        _expect_queue(reply, group)
        rows = list(zip(reply[3::3], reply[4::3], reply[5::3], strict=True))
        taken = [
            event_of(Entry.of_script(partition, source), fields, deliveries) for source, deliveries, fields in rows
        ]
        size = sum(len(field) for _, _, fields in rows for field in fields)
        self._metrics.queue_redeliveries.inc(sum(event["deliveries"] > 1 for event in taken))
        self._metrics.queue_dead_letters.inc(reply[2])
        return taken, reply[1] == 1, size

    async def settle(
        self, group: str, consumer: str, what: str, ids: Sequence[str], lease_ms: int = 0
    ) -> tuple[list[str], list[str]]:
        """`ack`, `release` or `extend` what the consumer holds: (ids done, ids that it does not hold any more). What
        cannot be asked about right now is in neither; Unavailable where that is all."""
        return await self._each("queue_settle", group, ids, consumer, what, lease_ms)

    async def look(self, group: str) -> tuple[Standing, Queue]:
        """How the queue stands, and what it wants."""
        most = max(100, MOST_LOOKED_AT // self._keys.partitions)
        replies = await self._everywhere("queue_look", group, most, THERE_MS, LOOKED_AT_BYTES // self._keys.partitions)
        if any(reply[0] == b"settling" for reply in replies):
            raise Unavailable("Redis has lost its data; presence is being gathered again", retry_ms=2000)
        if known := [reply for reply in replies if reply[0] != b"none"]:
            replies = known
        _expect_queue(replies[0], group)
        ages = [int(reply[3]) for reply in replies]
        waiting, in_flight, dead, lost = (sum(int(reply[at]) for reply in replies) for at in (1, 2, 4, 5))
        consumers = tuple(sorted({name.decode() for reply in replies for name in reply[9:]}))
        standing = Standing(waiting, in_flight, max(ages) if max(ages) >= 0 else None, dead, lost, consumers)
        return standing, Queue.of_arguments(*replies[0][6:9])

    async def dead(self, group: str, limit: int, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """Dead letters behind `after`, in the order of partitions and of their death; the last one if there are
        more."""
        start = Entry.parse(after, self._keys.partitions) if after else None
        if after and not start:
            raise BadRequest("after must be the id of a dead letter")
        asked = range(start.partition if start else 0, self._keys.partitions)
        places = {start.partition: start.stored} if start else {}
        replies = await asyncio.gather(
            *(self._call("queue_dead", p, group, "list", places.get(p, ""), limit + 1) for p in asked)
        )
        for reply in replies:
            _expect_queue(reply, group)
        letters = [
            event_of(Entry(partition, "f", stored.decode()), fields)
            for partition, reply in zip(asked, replies, strict=True)
            for stored, fields in zip(reply[1::2], reply[2::2], strict=True)
        ]
        shown = letters[:limit]
        return shown, shown[-1]["id"] if len(letters) > limit else None

    async def requeue(self, group: str, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Try these dead letters once more: (ids done, ids that are no dead letters)."""
        return await self._each("queue_dead", group, ids, "requeue", "", 0)

    async def _each(
        self, name: str, group: str, ids: Sequence[str], *arguments: str | int
    ) -> tuple[list[str], list[str]]:
        """Let each partition do it to those ids that are its own: (ids done, ids that are not there). What lies in a
        partition that cannot be asked is in neither, unless it is all there is: then Unavailable."""
        entries = {text: Entry.parse(text, self._keys.partitions) for text in ids}
        asked: dict[int, list[tuple[str, Entry]]] = defaultdict(list)
        for text, entry in entries.items():
            if entry is not None:
                asked[entry.partition].append((text, entry))
        replies = await asyncio.gather(
            *(
                self._call(name, partition, group, *arguments, *(entry.source + entry.stored for _, entry in own))
                for partition, own in asked.items()
            ),
            return_exceptions=True,
        )
        held: set[str] = set()
        unknown: set[str] = set()
        there = False
        for own, reply in zip(asked.values(), replies, strict=True):
            if isinstance(reply, Unavailable) and not self._whole and len(asked) > 1:
                unknown |= {text for text, _ in own}
            elif isinstance(reply, BaseException):
                raise reply
            elif reply[0] == b"ok":
                there = True
                held |= {text for (text, _), mark in zip(own, reply[1:], strict=True) if mark == 1}
        if len(unknown) == sum(map(len, asked.values())) > 0:
            raise Unavailable("Redis cannot be asked right now; try again")
        if not there and all(reply[0] == b"none" for reply in await self._everywhere(name, group, *arguments)):
            raise no_such_queue(group)
        return [text for text in entries if text in held], [text for text in entries if text not in held | unknown]

    async def _everywhere(self, name: str, *arguments: str | int) -> list[Reply]:
        return await asyncio.gather(*(self._call(name, p, *arguments) for p in range(self._keys.partitions)))

    async def _call(self, name: str, partition: int, *arguments: str | int) -> Reply:
        return await self._scripts.call(name, self._keys.script(partition), arguments)


def _shares(count: int, partitions: int) -> list[int]:
    """What each of the first partitions is asked for, so that together it is no more than `count`."""
    share = -(-count // partitions)
    return [min(share, count - at * share) for at in range(-(-count // share))]


def _expect_queue(reply: Reply, group: str) -> None:
    if reply[0] == b"none":
        raise no_such_queue(group)


def no_such_queue(group: str) -> NotFound:
    """The refusal where a queue is not known."""
    return NotFound(f"there is no queue {group}; create it with PUT")
