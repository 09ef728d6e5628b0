"""What waits for users who are away: subscriptions, and the positions up to which each of them has dealt with it.

An event is stored once, in its channel's log; a user has a position in each channel they are subscribed to, and in
their own mailbox, `@inbox`. The channel knows that somebody is subscribed, the user where they stand: two partitions,
written in an order that keeps too much rather than too little. Every method raises `Unavailable` when Redis cannot be
asked; then part of it may have been done, and repeating it is safe.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from presence.errors import BadRequest, LimitExceeded, NotFound, Unavailable
from presence.keys import INBOX, Keys, inbox_of
from presence.lane import Reply
from presence.lua import Scripts
from presence.settings import Settings

MOST_SUBSCRIPTIONS = 1000  # of a user
FRAME_BYTES = 256 * 1024 - 4096  # of events in one answer, with the heads of their channels
HEAD_BYTES = 128  # of a channel, besides its name


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in one channel: `cursor` is that of its last event, or of what is gone; `missed`: events that were
    gone before; not `recovered`: the channel began anew, and nobody knows how many."""

    channel: str
    cursor: str
    missed: int
    recovered: bool
    events: list[str]


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits for a user; `more`: some of it had no room."""

    channels: list[Waiting]
    more: bool


class Inboxes:
    """The subscriptions and mailboxes of all users."""

    def __init__(self, scripts: Scripts, keys: Keys, settings: Settings) -> None:
        self._scripts = scripts
        self._keys = keys
        self._settings = settings

    async def subscribe(self, channel: str, user: str) -> None:
        """Keep the channel's events for the user from now on; who is subscribed stays where they are."""
        reply = await self._subscribe(1, channel, user)
        put = await self._places("put", user, channel, reply[1].decode(), MOST_SUBSCRIPTIONS)
        if put[0] != b"full":
            await self._agree(channel, user, True)
        else:
            with suppress(Unavailable):
                await self._agree(channel, user, False)
            raise LimitExceeded(f"a user may have {MOST_SUBSCRIPTIONS} subscriptions; end one first")

    async def unsubscribe(self, channel: str, user: str) -> None:
        """Forget the user's position in the channel, if there is one."""
        await self._places("drop", user, channel, "", 0)
        await self._agree(channel, user, False)

    async def fetch(self, user: str, limit: int, allowed: Callable[[str], bool] = lambda channel: True) -> Pending:
        """Up to `limit` events behind the user's positions, where they are `allowed` to see; moves nothing."""
        places = await self._subscribed(user)
        places = {name: row for name, row in places.items() if name != INBOX and allowed(name)} | {
            inbox_of(user): places.get(INBOX, "")
        }
        counts = await self._look(user, places)
        chosen = {name: (places[name], most) for name, most in _planned(counts, limit).items()}
        share = FRAME_BYTES // max(1, len(chosen))
        replies = await self._everywhere("inbox_pending", (self._settings.inbox_ms, share), chosen)
        piles = [_Pile(row) for reply in replies for row in reply[1:]]
        piles.sort(key=lambda pile: _rank(pile.place))
        _deal(piles)
        more = len(piles) < len(counts) or any(pile.more or pile.dealt < pile.count for pile in piles)
        return Pending([pile.shown() for pile in piles if pile.begun], more)

    async def ack(self, user: str, channel: str, cursor: tuple[str, int]) -> None:
        """Move the user's position in the channel (or `@inbox`) to the cursor. Never backwards, and a cursor of an
        epoch that nobody knows any more moves nothing. NotFound without a subscription; BadRequest where it is ahead
        of the last event."""
        place = inbox_of(user) if channel == INBOX else channel
        _, born, epochs = await self._call("inbox_locate", self._keys.partition(place), place)
        known = born.decode(), epochs.decode(), int(channel != INBOX)
        reply = await self._call("inbox_ack", self._keys.user_partition(user), user, channel, *cursor, *known)
        if reply[0] == b"none":
            raise NotFound("the user is not subscribed to this channel")
        if reply[0] == b"ahead":
            raise BadRequest("cursor is ahead of the channel's last event")

    async def erase(self, user: str) -> None:
        """Forget the user's mailbox and all their subscriptions; messages that are sent meanwhile may stay."""
        for channel in await self._subscribed(user):
            if channel != INBOX:
                await self._subscribe(0, channel, user)
        await self._call("inbox_erase", self._keys.user_partition(user), user, inbox_of(user))

    async def _look(self, user: str, places: dict[str, str]) -> dict[str, int]:
        """Where something waits behind these positions, and how many events at the most, in the order of answers."""
        rows = {name: (row,) for name, row in places.items()}
        strange: list[str] = []
        counts: dict[str, int] = {}
        for _, unknown, found in await self._everywhere("inbox_look", (user, self._settings.inbox_ms), rows):
            strange += [name.decode() for name in unknown]
            counts.update((name.decode(), int(count)) for name, count in zip(found[::2], found[1::2], strict=True))
        if strange:  # lost data, or an unsubscription that crossed this
            still = await self._subscribed(user)
            for name in strange:
                if name not in still:
                    await self._agree(name, user, False)
        return {name: counts[name] for name in sorted(counts, key=_rank)}

    async def _agree(self, channel: str, user: str, there: bool) -> None:
        """Let the channel keep its events for the user if, and only if, there is a position; `there`: whether there
        was one just now. Who changes that meanwhile does the same afterwards, so that the last one gets it right."""
        while True:
            await self._subscribe(int(there), channel, user)
            now = bool((await self._places("has", user, channel, "", 0))[1])
            if now == there:
                return
            there = now

    async def _subscribed(self, user: str) -> dict[str, str]:
        """The user's positions, by channel."""
        flat = (await self._places("list", user, "", "", 0))[1:]
        return {name.decode(): row.decode() for name, row in zip(flat[::2], flat[1::2], strict=True)}

    async def _subscribe(self, on: int, channel: str, user: str) -> Reply:
        times = (self._settings.inbox_ms, self._settings.history_ms)
        return await self._call("inbox_subscribe", self._keys.partition(channel), on, channel, user, *times)

    async def _places(self, what: str, user: str, channel: str, place: str, most: int) -> Reply:
        return await self._call("inbox_places", self._keys.user_partition(user), what, user, channel, place, most)

    async def _everywhere(
        self, name: str, head: tuple[str | int, ...], rows: Mapping[str, tuple[str | int, ...]]
    ) -> list[Reply]:
        """One call for each partition with some of these channels, which are given with their rows."""
        partitions: dict[int, list[str | int]] = defaultdict(list)
        for channel, row in rows.items():
            partitions[self._keys.partition(channel)] += [channel, *row]
        return await asyncio.gather(*(self._call(name, number, *head, *flat) for number, flat in partitions.items()))

    async def _call(self, name: str, partition: int, *arguments: str | int) -> Reply:
        reply = await self._scripts.call(name, self._keys.script(partition), arguments)
        if reply[0] == b"settling":
            raise Unavailable("Redis has lost its data; presence is being gathered again", retry_ms=2000)
        return reply


class _Pile:
    """What one channel has for the user, as `inbox_pending` tells it, and how much of that is dealt out."""

    def __init__(self, row: Reply) -> None:
        self.place = row[0].decode()
        self.recovered, self.more = row[2] == 1, row[3] == 1
        self.begun = False
        self.dealt = 0
        self._behind = int(row[1])
        self._epoch, self._held, self._end = row[4].decode(), int(row[5]), int(row[6])
        self._events = list(zip(map(int, row[7::2]), row[8::2], strict=True))  # seq, text

    @property
    def count(self) -> int:
        return len(self._events)

    def next_bytes(self) -> int:
        """How much longer the answer would be with the next event, or without any."""
        event = len(self._events[self.dealt][1]) + 1 if self.count else 0
        return event if self.begun else event + HEAD_BYTES + len(self.place.encode())

    def deal(self) -> bool:
        """Show one event more; whether there is another."""
        self.begun = True
        self.dealt = min(self.dealt + 1, self.count)
        return self.dealt < self.count

    def shown(self) -> Waiting:
        """What is dealt out of it; what is gone before that is counted."""
        last = self._end if self.dealt == self.count else self._events[self.dealt - 1][0]
        missed = self._held + last - self._behind - self.dealt
        texts = [text.decode() for _, text in self._events[: self.dealt]]
        name = INBOX if self.place.startswith("@") else self.place
        return Waiting(name, f"{self._epoch}:{last}", missed, self.recovered, texts)


def _rank(place: str) -> tuple[bool, bytes]:
    """The order of an answer: the user's own mailbox first."""
    return not place.startswith("@"), place.encode()


def _planned(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """How many events to read where so many wait: one of each in turn, so that a full channel keeps none waiting."""
    planned: dict[str, int] = {}
    turn = deque(counts)
    while turn and limit:
        name = turn.popleft()
        planned[name] = planned.get(name, 0) + 1
        limit -= 1
        if planned[name] < counts[name]:
            turn.append(name)
    return planned


def _deal(piles: Iterable[_Pile]) -> None:
    """One event of each in turn, while there is room for their bytes."""
    room, turn = FRAME_BYTES, deque(piles)
    while turn:
        pile = turn.popleft()
        room -= pile.next_bytes()
        if room < 0:
            return
        if pile.deal():
            turn.append(pile)
