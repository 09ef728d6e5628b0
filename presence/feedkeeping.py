"""Keeps the feed within its bounds and the queues whole: once a second, on every node.

A queue belongs to all partitions. One that lost it (a server lost its data, or a request reached only some) gets it
again from the others, from the oldest event that it has.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from presence.announcing import feed_kept
from presence.errors import PresenceError, Unavailable
from presence.keys import Keys
from presence.lane import Reply
from presence.logs import get
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.queues import Queue, Queues
from presence.settings import Settings

log = get(__name__)

FORGOTTEN_MS = 3_600_000  # a consumer that holds nothing and did not ask for so long is forgotten
MISSED_ROUNDS = 3  # a queue that is being ended is missing for a moment, too
WARN_AT, ERROR_AT = 0.5, 0.8  # of PRESENCE_FEED_MAX
COMPLAIN_S = 60.0


class _Stand(NamedTuple):
    """A queue in one partition."""

    group: str
    queue: Queue
    behind: int
    oldest_ms: int
    lost: int


class FeedKeeping:
    """One round after the other, by whoever calls `tidy`."""

    def __init__(self, scripts: Scripts, queues: Queues, keys: Keys, settings: Settings, metrics: Metrics) -> None:
        self._scripts = scripts
        self._queues = queues
        self._keys = keys
        self._kept = feed_kept(settings, keys)
        self._most = settings.feed_max
        self._metrics = metrics
        self._level = settings.feed_max
        self._missing: Counter[tuple[int, str]] = Counter()
        self._complained_at = -COMPLAIN_S

    async def tidy(self) -> None:
        """Trim, count, mend. A partition that cannot be asked is left for the next round."""
        numbers = range(self._keys.partitions)
        answers = await asyncio.gather(*map(self._tidy_one, numbers), return_exceptions=True)
        replies = {number: reply for number, reply in zip(numbers, answers, strict=True) if isinstance(reply, list)}
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                raise answer
        stands = {number: _stands(reply) for number, reply in replies.items()}
        lengths = [int(reply[1]) for reply in replies.values()]
        self._level = _level(lengths, self._most)
        self._count(sum(lengths), [stand for found in stands.values() for stand in found])
        await self._mend(stands)

    async def _tidy_one(self, partition: int) -> Reply:
        return await self._scripts.call(
            "queue_tidy", self._keys.script(partition), (self._kept, self._level, FORGOTTEN_MS)
        )

    def _count(self, entries: int, stands: list[_Stand]) -> None:
        behind: Counter[str] = Counter()
        for stand in stands:
            behind[stand.group] += stand.behind
        self._metrics.feed_entries.set(entries)
        self._metrics.queue_backlog.set(max(behind.values(), default=0))
        self._metrics.queue_oldest.set(max([0, *(stand.oldest_ms for stand in stands)]) / 1000)
        self._metrics.queue_lost.set(sum(stand.lost for stand in stands))
        now = time.monotonic()
        if not behind or entries < WARN_AT * self._most or now - self._complained_at < COMPLAIN_S:
            return
        self._complained_at = now
        slowest, waiting = behind.most_common(1)[0]
        say = log.error if entries >= ERROR_AT * self._most else log.warning
        say(
            "feed_fills",
            entries=entries,
            most=self._most,
            queue=slowest,
            waiting=waiting,
            remedy="start its workers, or end the queue: at the most the oldest events are lost",
        )

    async def _mend(self, stands: dict[int, list[_Stand]]) -> None:
        """Give queues back to partitions that have not had them for some rounds while others have."""
        known = {stand.group: stand.queue for found in stands.values() for stand in found}
        gaps = {
            (number, group) for number, found in stands.items() for group in known.keys() - {s.group for s in found}
        }
        self._missing = Counter({gap: self._missing[gap] + 1 for gap in gaps})
        for number, group in [gap for gap, rounds in self._missing.items() if rounds >= MISSED_ROUNDS]:
            try:
                await self._queues.put(group, known[group], from_start=True, partition=number)
                log.warning("queue_mended", queue=group, partition=number)
            except PresenceError as problem:
                log.warning("queue_not_mended", queue=group, partition=number, error=problem.code)


def _stands(reply: Reply) -> list[_Stand]:
    rows = [reply[at : at + 7] for at in range(2, len(reply), 7)]
    return [
        _Stand(name.decode(), Queue.of_arguments(most, types, pattern), int(behind), int(oldest), int(lost))
        for name, most, types, pattern, behind, oldest, lost in rows
    ]


def _level(lengths: list[int], most: int) -> int:
    """The length to which the longest feeds must be cut so that all together have no more than `most` entries."""
    left, level = most, most
    for place, length in enumerate(sorted(lengths)):
        level = left // (len(lengths) - place)
        if length > level:
            return level
        left -= length
    return most
