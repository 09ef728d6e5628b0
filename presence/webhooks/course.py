"""A queue as its only consumer sees it: all partitions merged into one course of events, in the order of their time.

Each partition gives its entries in order, but partitions are asked one beside the other: an entry that was just taken
may be younger than one that another partition got a moment before it was asked. So an entry is ripe only when every
partition has been asked after it was taken, and nothing overtakes the end of what a full partition has shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from presence.codec import compact
from presence.entries import Entry, event_of
from presence.keys import Keys
from presence.lane import Reply
from presence.lua import Scripts
from presence.queues import MOST_DEAD, Queues, no_such_queue

LEASE_MS = 3_600_000  # for who looks at the queue; nobody else takes from it
TAKEN = 2_000  # over all partitions, more or less
TAKEN_BYTES = 2 << 20  # the same; a node may deliver 50 targets that all are far behind
Key = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """An event that was taken, as compact JSON of `size` bytes; `key` orders all items, `turn` is when it was taken."""

    key: Key
    id: str
    at_ms: int
    text: str
    size: int
    turn: int


@dataclass(slots=True)
class _Shelf:
    """What was taken of one partition; `anew`: what is out may be more than this, ask for what comes behind it."""

    items: dict[str, Item] = field(default_factory=dict)
    full: bool = False
    anew: bool = True

    @property
    def end(self) -> Key:
        """What is behind this may come after something that was not taken yet."""
        return max((item.key for item in self.items.values()), default=(1, 0, 0, 0))

    @property
    def size(self) -> int:
        """Bytes of what is here."""
        return sum(item.size for item in self.items.values())

    def last(self, was_dead: bool) -> str:
        """The stored id of the last entry of one of the two streams, "-" where none is here."""
        last = max((item.key for item in self.items.values() if _was_dead(item) == was_dead), default=None)
        return f"{last[1]}-{last[3]}" if last else "-"


class Course:
    """The course of one queue, for one consumer."""

    def __init__(self, scripts: Scripts, keys: Keys, queues: Queues, group: str, consumer: str, batch: int) -> None:
        self._scripts = scripts
        self._keys = keys
        self._queues = queues
        self._group = group
        self._consumer = consumer
        self._size = min(batch, max(10, TAKEN // keys.partitions))
        self._bytes = TAKEN_BYTES // keys.partitions
        self._shelves = [_Shelf() for _ in range(keys.partitions)]
        self._turn = 0

    def forget(self) -> None:
        """Begin with what is out: it may be somebody else's by now, or was lost on its way."""
        self._shelves = [_Shelf() for _ in range(self._keys.partitions)]

    async def fill(self) -> None:
        """Ask every partition for which there is room, and for what is out, in parts: as long as the course is `anew`,
        fill again before anything is taken off. After an error, too: what was got is kept."""
        self._turn += 1
        asked = [number for number, shelf in enumerate(self._shelves) if shelf.anew or self._has_room(shelf)]
        answers = await asyncio.gather(*map(self._take, asked), return_exceptions=True)
        for number, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                self._shelves[number].anew = True  # it may have been handed out, and the answer lost
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    @property
    def anew(self) -> bool:
        """Whether there may be something out that is not here."""
        return any(shelf.anew for shelf in self._shelves)

    @property
    def unripe(self) -> bool:
        """Whether there is something that only waits for the next turn."""
        fresh = any(item.turn == self._turn for shelf in self._shelves for item in shelf.items.values())
        return fresh or self.anew or any(shelf.full and not shelf.items for shelf in self._shelves)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest event here happened."""
        return min((item.at_ms for shelf in self._shelves for item in shelf.items.values()), default=None)

    def first(self, count: int, most_bytes: int) -> list[Item]:
        """The next ripe events in their order, at least one if there is any."""
        end = min((shelf.end for shelf in self._shelves if shelf.full), default=None)
        chosen: list[Item] = []
        room = most_bytes
        for item in self._sorted():
            room -= item.size
            overtakes = end is not None and item.key > end and not _was_dead(item)
            if item.turn == self._turn or overtakes or len(chosen) == count or (chosen and room < 0):
                break
            chosen.append(item)
        return chosen

    def these(self, ids: Iterable[str]) -> list[Item]:
        """Those of these events that are here, in their order."""
        wanted = set(ids)
        return [item for item in self._sorted() if item.id in wanted]

    async def hold(self, items: Sequence[Item]) -> bool:
        """Whether all of them are still this consumer's."""
        _, refused = await self._queues.settle(self._group, self._consumer, "extend", _ids(items), LEASE_MS)
        return not refused

    async def done(self, items: Sequence[Item]) -> bool:
        """Acknowledge them; False if some were not this consumer's any more."""
        _, refused = await self._queues.settle(self._group, self._consumer, "ack", _ids(items))
        self._drop(items)
        return not refused

    async def bury(self, items: Sequence[Item], deliveries: int) -> bool:
        """Give them up: they become dead letters; False if some were not this consumer's any more."""
        most = max(10, MOST_DEAD // self._keys.partitions)
        entries = [entry for item in items if (entry := Entry.parse(item.id, self._keys.partitions))]
        marks = []
        for number in sorted({entry.partition for entry in entries}):
            own = [entry.source + entry.stored for entry in entries if entry.partition == number]
            reply = await self._call("queue_bury", number, self._consumer, deliveries, most, *own)
            marks += reply[1:]
        self._drop(items)
        return all(mark == 1 for mark in marks)

    async def _take(self, number: int) -> None:
        shelf = self._shelves[number]
        count, room = max(0, self._size - len(shelf.items)), self._bytes
        out = (shelf.last(was_dead=True), shelf.last(was_dead=False))
        if not shelf.anew:
            room, out = room - shelf.size, ("", "")
        reply = await self._call("queue_next", number, self._consumer, count, LEASE_MS, room, *out)
        for source, fields in zip(reply[3::2], reply[4::2], strict=True):
            entry = Entry.of_script(number, source)
            event = event_of(entry, fields, 0)
            del event["deliveries"]  # of this queue it says nothing: attempts are counted by batch
            text = compact(event)
            item = Item(_key(entry), entry.text, event["at"], text, len(text.encode()), self._turn)
            shelf.items[entry.text] = item
        shelf.anew = reply[2] == 1
        shelf.full = reply[1] == 1 or not self._has_room(shelf)

    def _has_room(self, shelf: _Shelf) -> bool:
        return len(shelf.items) < self._size and shelf.size < self._bytes

    async def _call(self, name: str, number: int, *arguments: str | int) -> Reply:
        reply = await self._scripts.call(name, self._keys.script(number), (self._group, *arguments))
        if reply[0] == b"none":
            raise no_such_queue(self._group)
        return reply

    def _sorted(self) -> list[Item]:
        return sorted((item for shelf in self._shelves for item in shelf.items.values()), key=lambda item: item.key)

    def _drop(self, items: Sequence[Item]) -> None:
        for item in items:
            self._shelves[int(item.id.partition("-")[0])].items.pop(item.id, None)


def body_of(batch: Sequence[Item], cursor: str | None) -> bytes:
    """The same bytes for the same batch, however often it is tried."""
    instant = datetime.fromtimestamp(batch[-1].at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    head = f'{{"type":"presence.events","timestamp":"{instant.replace("+00:00", "Z")}"'
    return f'{head},"data":{{"cursor":{compact(cursor)},"events":[{",".join(item.text for item in batch)}]}}}}'.encode()


def cursor_of(batch: Sequence[Item]) -> str | None:
    """The last event of the batch that came out of the feed, None where all of them were dead letters."""
    return next((item.id for item in reversed(batch) if item.key[0] == 1), None)


def place_of(text: str | None, partitions: int) -> Entry | None:
    """The entry of the feed that a cursor names; None where it is no cursor."""
    entry = Entry.parse(text, partitions) if text else None
    return entry if entry is not None and entry.source == "f" else None


def starts_after(cursor: Entry, partitions: int) -> list[str]:
    """For each partition the id of the last entry that is not behind the cursor, in the order of `Item.key`."""
    instant = int(cursor.stored.partition("-")[0])
    before, whole = f"{instant - 1}-{_LAST}", f"{instant}-{_LAST}"
    starts = [whole if number < cursor.partition else before for number in range(partitions)]
    starts[cursor.partition] = cursor.stored
    return starts


def starts_at(instant_ms: int, partitions: int) -> list[str]:
    """For each partition the id of the last entry that can be older than this instant."""
    return [f"{instant_ms - 1}-{_LAST}" if instant_ms > 0 else "0-0"] * partitions


_LAST = 999_999_999  # there are never so many entries in a millisecond, and it is a number that Lua can count on


def _key(entry: Entry) -> Key:
    """Dead letters that are tried once more first, else by time; in an instant as the partitions are numbered."""
    instant, _, number = entry.stored.partition("-")
    return (0 if entry.source == "a" else 1), int(instant), entry.partition, int(number)


def _was_dead(item: Item) -> bool:
    return item.key[0] == 0


def _ids(items: Iterable[Item]) -> list[str]:
    return [item.id for item in items]
