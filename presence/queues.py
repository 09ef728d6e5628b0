"""Work queues for back ends: consumer groups on the partitions' feeds, with leases, and dead letters.

A queue exists in every partition under the same name. Each method asks those partitions that it concerns; what is
handed out belongs to one consumer until its lease ends, and is handed out again unless it was acknowledged. Every
method raises `Unavailable` when Redis cannot be asked; then part of it may have been done, and repeating it is safe.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from presence.errors import BadRequest, LimitExceeded, NotFound
from presence.keys import Keys
from presence.lanes import Reply
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings

TYPES = ("join", "leave", "update", "message")
MOST_QUEUES = 100
MOST_DEAD = 10_000  # dead letters of a queue, over all partitions
MOST_LOOKED_AT = 5_000  # unread entries of a partition that are counted one by one
THERE_MS = 60_000  # a consumer that asked within this time is there
FORGOTTEN_MS = 3_600_000  # a consumer that holds nothing and did not ask for so long is forgotten

_ID = re.compile(r"([0-9]{1,5})-([0-9]{1,15}-[0-9]{1,10})(-r)?")
_FIELDS = ("info", "state", "since", "last_seen", "reason", "generation", "user")


@dataclass(frozen=True, slots=True)
class Queue:
    """What a queue wants: `types` (none: all), channels by `pattern` as in tokens, and how often it is tried."""

    types: tuple[str, ...] = ()
    pattern: str = "*"
    max_deliveries: int = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A queue in numbers; `oldest_ms`: age of the oldest event that is not acknowledged, None where there is none."""

    waiting: int
    in_flight: int
    oldest_ms: int | None
    dead: int
    lost: int
    consumers: tuple[str, ...]


class Queues:
    """The queues of a deployment."""

    def __init__(self, scripts: Scripts, keys: Keys, settings: Settings, metrics: Metrics) -> None:
        self._scripts = scripts
        self._keys = keys
        self._settings = settings
        self._metrics = metrics

    async def put(self, group: str, queue: Queue, *, from_start: bool) -> None:
        """Create the queue, from now on or from the oldest event that is known, or change what it wants."""
        arguments = (queue.max_deliveries, ",".join(queue.types), queue.pattern, "start" if from_start else "now")
        replies = await self._everywhere("queue_put", group, *arguments, MOST_QUEUES)
        if any(reply[0] == b"queues" for reply in replies):
            raise LimitExceeded(f"there may be {MOST_QUEUES} queues; end one first")

    async def drop(self, group: str) -> None:
        """End the queue and forget what waits in it; NotFound where there is none."""
        replies = await self._everywhere("queue_drop", group)
        if not any(reply[1] for reply in replies):
            raise _no_such_queue(group)

    async def take(self, group: str, consumer: str, count: int, lease_ms: int) -> list[dict[str, Any]]:
        """Up to `count` events for this consumer, the oldest first, its own for `lease_ms`; maybe none."""
        asked = list(range(self._keys.partitions))
        random.shuffle(asked)  # no partition is always the last
        events: list[dict[str, Any]] = []
        while asked and len(events) < count:
            now, later = asked[: count - len(events)], asked[count - len(events) :]
            share = -(-(count - len(events)) // len(now))
            shares = [min(share, count - len(events) - at * share) for at in range(len(now))]
            calls = [(p, n) for p, n in zip(now, shares, strict=True) if n > 0]
            later += now[len(calls) :]
            for partition, more, taken in await asyncio.gather(
                *(self.take_from(p, group, consumer, n, lease_ms) for p, n in calls)
            ):
                events += taken
                if more:
                    later.append(partition)
            asked = later
        return sorted(events, key=_age)

    async def take_from(
        self, partition: int, group: str, consumer: str, count: int, lease_ms: int
    ) -> tuple[int, bool, list[dict[str, Any]]]:
        """As `take`, of one partition: (partition, whether there may be more, events in their order)."""
        most_dead = max(10, MOST_DEAD // self._keys.partitions)
        reply = await self._call("queue_take", partition, group, consumer, count, lease_ms, most_dead)
        _expect_queue(reply, group)
        taken = [
            _event(f"{partition}-", reply[at].decode(), reply[at + 1], reply[at + 2]) for at in range(3, len(reply), 3)
        ]
        self._metrics.queue_redeliveries.inc(sum(event["deliveries"] > 1 for event in taken))
        self._metrics.queue_dead_letters.inc(reply[2])
        return partition, reply[1] == 1, taken

    async def settle(
        self, group: str, consumer: str, what: str, ids: Sequence[str], lease_ms: int = 0
    ) -> tuple[list[str], list[str]]:
        """`ack`, `release` or `extend` what the consumer holds: (ids done, ids that it does not hold any more)."""
        partitions: dict[int, list[str]] = defaultdict(list)
        for text in dict.fromkeys(ids):
            partitions[self._partition_of(text)].append(text)
        asked = list(partitions.items()) or [(0, [])]
        replies = await asyncio.gather(
            *(
                self._call("queue_settle", partition, group, consumer, what, lease_ms, *map(_entry, texts))
                for partition, texts in asked
            )
        )
        held: dict[str, bool] = {}
        for (_, texts), reply in zip(asked, replies, strict=True):
            _expect_queue(reply, group)
            held |= {text: mark == 1 for text, mark in zip(texts, reply[1:], strict=True)}
        return [text for text in held if held[text]], [text for text in held if not held[text]]

    async def look(self, group: str) -> tuple[Standing, Queue]:
        """How the queue stands, and what it wants."""
        replies = await self._everywhere("queue_look", group, MOST_LOOKED_AT, THERE_MS)
        for reply in replies:
            _expect_queue(reply, group)
        ages = [int(reply[3]) for reply in replies]
        waiting, in_flight, dead, lost = (sum(int(reply[at]) for reply in replies) for at in (1, 2, 4, 5))
        consumers = tuple(sorted({name.decode() for reply in replies for name in reply[9:]}))
        standing = Standing(waiting, in_flight, max(ages) if max(ages) >= 0 else None, dead, lost, consumers)
        most, types, pattern = replies[0][6:9]
        return standing, Queue(tuple(t for t in types.decode().split(",") if t), pattern.decode(), int(most))

    async def dead(self, group: str, limit: int, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """Dead letters behind `after`, in the order of partitions and of their death; the last one if there are
        more."""
        first = self._partition_of(after) if after else 0
        asked = range(first, self._keys.partitions)
        replies = await asyncio.gather(
            *(
                self._call("queue_dead", p, group, "list", _entry(after)[1:] if after and p == first else "", limit + 1)
                for p in asked
            )
        )
        letters = []
        for partition, reply in zip(asked, replies, strict=True):
            _expect_queue(reply, group)
            for at in range(1, len(reply), 2):
                letters.append(_event(f"{partition}-", "f" + reply[at].decode(), None, reply[at + 1]))
        shown = letters[:limit]
        return shown, shown[-1]["id"] if len(letters) > limit else None

    async def requeue(self, group: str, ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """Try these dead letters once more: (ids done, ids that are no dead letters)."""
        partitions: dict[int, list[str]] = defaultdict(list)
        for text in dict.fromkeys(ids):
            partitions[self._partition_of(text)].append(text)
        asked = list(partitions.items()) or [(0, [])]
        replies = await asyncio.gather(
            *(
                self._call("queue_dead", partition, group, "requeue", "", 0, *(_entry(text)[1:] for text in texts))
                for partition, texts in asked
            )
        )
        done: dict[str, bool] = {}
        for (_, texts), reply in zip(asked, replies, strict=True):
            _expect_queue(reply, group)
            done |= {text: mark == 1 for text, mark in zip(texts, reply[1:], strict=True)}
        return [text for text in done if done[text]], [text for text in done if not done[text]]

    def _partition_of(self, text: str) -> int:
        match = _ID.fullmatch(text)
        if match is None or int(match[1]) >= self._keys.partitions:
            raise BadRequest("an id must be one that this server gave")
        return int(match[1])

    async def _everywhere(self, name: str, *arguments: str | int) -> list[Reply]:
        return await asyncio.gather(*(self._call(name, p, *arguments) for p in range(self._keys.partitions)))

    async def _call(self, name: str, partition: int, *arguments: str | int) -> Reply:
        return await self._scripts.call(name, self._keys.script(partition), arguments)


def _expect_queue(reply: Reply, group: str) -> None:
    if reply[0] == b"none":
        raise _no_such_queue(group)


def _no_such_queue(group: str) -> NotFound:
    return NotFound(f"there is no queue {group}; create it with PUT")


def _entry(text: str) -> str:
    """Source and stream id of an event's id, as the scripts name it."""
    match = _ID.fullmatch(text)
    assert match is not None, "checked by _partition_of"
    return ("a" if match[3] else "f") + match[2]


def _event(head: str, entry: str, deliveries: int | None, fields: list[bytes]) -> dict[str, Any]:
    """An entry of the feed as back ends get it: every field is there, None where the type has none."""
    row = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    text = json.loads(row["event"])
    event: dict[str, Any] = {
        "id": head + entry[1:] + ("-r" if entry[0] == "a" else ""),
        "channel": row["channel"].decode(),
        "epoch": row["epoch"].decode(),
    }
    event |= dict.fromkeys(_FIELDS) | text
    for name in ("generation", "since"):
        event[name] = int(row[name]) if name in row else None
    for name in ("info", "state"):
        if name in row:
            event[name] = json.loads(row[name])
    event["deliveries"] = int(row["deliveries"]) if deliveries is None else deliveries
    return event


def _age(event: dict[str, Any]) -> tuple[int, str, int]:
    return event["at"], event["channel"], event["seq"]
