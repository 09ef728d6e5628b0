"""Questions that reach over several partitions: which channels there are, where a user is.

Each partition is read at one instant, the whole is not. A partition that is gathering its members again answers
nothing, so the whole is `Unavailable` then: a half-filled list must never look like a full one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from presence.answers import Record, held_channels
from presence.auth import Identity
from presence.errors import NotJoined, Unavailable
from presence.keys import Keys, entry, inbox_of
from presence.lanes import Lanes
from presence.tracker import Tracker

SESSIONS_ASKED = 200
AT_ONCE = 1000
KICKED_MS = 180_000  # by then every node has subscribed again and read it


@dataclass(frozen=True, slots=True)
class ChannelSummary:
    """One channel in numbers."""

    channel: str
    count: int
    sessions: int
    cursor: str


@dataclass(frozen=True, slots=True)
class UserPresence:
    """Where a user is; `last_seen` in ms by Redis's clock, None if not known any more."""

    user: str
    online: bool
    sessions: int
    channels: list[str]
    last_seen: int | None


class Directory:
    """Reads that no single script can answer."""

    def __init__(self, lanes: Lanes, keys: Keys, tracker: Tracker) -> None:
        self._lanes = lanes
        self._keys = keys
        self._tracker = tracker

    async def channel(self, channel: str) -> ChannelSummary:
        """Members, sessions and position of one channel."""
        roster = await self._tracker.roster(channel, 1, None)
        (sessions,) = await self._read([("HLEN", self._keys.sessions(channel))])
        return ChannelSummary(channel, roster.count, sessions, roster.cursor)

    async def channels(self, prefix: str, limit: int, after: str | None) -> tuple[list[tuple[str, int]], str | None]:
        """Channels with members, in byte order, and the last of them if there are more."""
        low = b"[" + prefix.encode()
        if after is not None and after.encode() >= prefix.encode():
            low = b"(" + after.encode()
        high = b"[" + prefix.encode() + b"\xff"
        everywhere = range(self._keys.partitions)
        pages = await self._read(
            [("ZRANGEBYLEX", self._keys.channels(p), low, high, "LIMIT", 0, limit + 1) for p in everywhere],
            everywhere,
        )
        names = sorted(name for page in pages for name in page)
        shown = [name.decode() for name in names[:limit]]
        counts = await self._read([("ZCARD", self._keys.roster(name)) for name in shown])
        return list(zip(shown, counts, strict=True)), shown[-1] if len(names) > limit else None

    async def users(self, users: list[str]) -> list[UserPresence]:
        """Presence of each user, in the same order."""
        distinct = list(dict.fromkeys(users))
        own = {self._keys.user_partition(user) for user in distinct}
        lists = await self._read(
            [("ZREVRANGE", self._keys.user(user), 0, SESSIONS_ASKED, "WITHSCORES") for user in distinct], own
        )
        sessions = {
            user: [name.decode() for name in listed[::2]]
            for user, listed in zip(distinct, map(_flat, lists), strict=True)
        }
        seen = {user: _newest(_flat(listed)) for user, listed in zip(distinct, lists, strict=True)}
        records = await self._records([(user, session) for user in distinct for session in sessions[user]])
        asked = [(u, s, channel) for (u, s), record in records.items() for channel in record.channels]
        calls: list[tuple[str, ...]] = []
        for user, session, channel in asked:
            calls.append(("ZSCORE", self._keys.due(channel), entry(channel, user, session)))
            calls.append(("HGET", self._keys.sessions(channel), f"{user}\x1f{session}"))
        rows = await self._read(calls, {self._keys.partition(channel) for _, _, channel in asked})
        live: dict[str, list[tuple[str, str, int]]] = {user: [] for user in distinct}
        for (user, session, channel), deadline, row in zip(asked, rows[::2], rows[1::2], strict=True):
            if deadline is not None and row is not None:
                live[user].append((session, channel, _last_seen(float(deadline), row)))
        return [_presence(user, live[user], seen[user]) for user in users]

    async def record(self, user: str, session: str) -> Record | None:
        """The session's record, or None where there is none."""
        name = self._keys.record(user, session)
        fields, left_ms = await self._read([("HGETALL", name), ("PTTL", name)])
        return _record(fields, left_ms) if fields else None

    async def numbers(self, sessions: list[tuple[str, str]]) -> list[tuple[int, int]]:
        """Of each session the number of its newest connection, and the one up to which a back end ended it; or 0."""
        rows = await self._read(
            [("HMGET", self._keys.record(user, session), "number", "kicked") for user, session in sessions]
        )
        return [(int(number or 0), int(kicked or 0)) for number, kicked in rows]

    async def inboxes(self, users: list[str]) -> list[tuple[str, int]]:
        """Where each user's own mailbox stands; no epoch: nothing was ever sent."""
        rows = await self._read([("HMGET", self._keys.meta(inbox_of(user)), "epoch", "seq") for user in users])
        return [((epoch or b"").decode(), int(seq or 0)) for epoch, seq in rows]

    async def unwatch(self, user: str, session: str, channel: str) -> None:
        """Tell the node that has the session's connection that it stops observing."""
        await self._tell("unwatch", user, session, channel)

    async def registered(self, places: list[tuple[str, str, str]]) -> list[bool]:
        """Whether each (channel, user, session) is a live session."""
        calls = [
            ("ZSCORE", self._keys.due(channel), entry(channel, user, session)) for channel, user, session in places
        ]
        return [score is not None for score in await self._read(calls)]

    async def renew_token(self, identity: Identity, session: str) -> None:
        """Tell the node that has the session's connection, whichever it is, of a newer token."""
        await self._tell("token", identity.user, session, str(identity.expires_at), identity.grants.to_text())

    async def tell_alive(self, user: str, session: str) -> None:
        """Tell the node that has the session's connection of a sign of life, over a server that answers: the one
        that has the session's record does not."""
        tried = {None, self._lanes.home(self._keys.script(self._keys.user_partition(user))[0])}
        for number in range(self._keys.partitions):
            home = self._lanes.home(self._keys.script(number)[0])
            if home not in tried:
                tried.add(home)
                with suppress(Unavailable):
                    command, bus = self._keys.telling(number).split(" ", 1)
                    await self._lanes.send(bus, command, bus, "\x1f".join(("alive", user, session)))
                    return

    async def listens(self, node: str) -> bool:
        """Whether a node of this name hears its canary; one that was killed does not, one that stands still does."""
        canary = self._keys.canary(0, node)  # the lowest partition of whichever server it is on
        return bool(await self._lanes.send(canary, "SPUBLISH" if self._keys.sharded else "PUBLISH", canary, "1"))

    async def disconnect(self, user: str, channel: str | None) -> int:
        """Take the user out of one channel, or out of all and close the connections; returns sessions ended."""
        if channel is not None:
            return len(await self._take_out(user, channel))
        (listed,) = await self._read([("ZREVRANGE", self._keys.user(user), 0, -1)])  # a thousand at the most
        records = await self._records([(user, name.decode()) for name in listed])
        channels = {name for record in records.values() for name in record.channels}
        # Told first: a poll or stream must end with this, not with the news that it was taken out of a channel.
        # The records say it, too: the message may meet a node that is just subscribing again.
        kicks: list[tuple[str | int, ...]] = []
        for key, record in records.items():
            kicks.append(("HSET", self._keys.record(*key), "kicked", record.number))
            kicks.append(("PEXPIRE", self._keys.record(*key), KICKED_MS))
        await self._read(kicks)
        await self._tell("close", user)
        ended: set[str] = set()
        for name in channels:
            ended |= set(await self._take_out(user, name))
        return len(ended)

    async def note_seen(self, seen: Iterable[tuple[str, str, int]]) -> None:
        """Remember when ended sessions were last seen: a hint, so nothing happens where Redis does not answer."""
        calls = [("ZADD", self._keys.user(user), "XX", "GT", last_seen, session) for user, session, last_seen in seen]
        try:
            await self._read(calls)
        except Unavailable:
            return

    async def _tell(self, word: str, user: str, *more: str) -> None:
        """Publish on the bus of the user's partition."""
        command, bus = self._keys.telling(self._keys.user_partition(user)).split(" ", 1)
        await self._lanes.send(bus, command, bus, "\x1f".join((word, user, *more)))

    async def _take_out(self, user: str, channel: str) -> list[str]:
        try:
            return (await self._tracker.leave(channel, user, "", "", "disconnected"))[1]
        except NotJoined:
            return []

    async def _records(self, sessions: list[tuple[str, str]]) -> dict[tuple[str, str], Record]:
        rows = await self._read([("HGETALL", self._keys.record(user, session)) for user, session in sessions])
        found = zip(sessions, rows, strict=True)
        return {key: _record(row, 0) for key, row in found if row}

    async def _read(self, calls: list[Any], partitions: Iterable[int] = ()) -> list[Any]:
        """Replies to plain commands, each sent to the home of its key (the word behind its name); Unavailable while
        one of `partitions` is gathering again."""
        replies: list[Any] = []
        for at in range(0, len(calls), AT_ONCE):
            replies += await asyncio.gather(*(self._lanes.send(call[1], *call) for call in calls[at : at + AT_ONCE]))
        # Asked last: what was read after a loss of data must not pass for all there is.
        guards = [self._keys.script(number)[0] for number in partitions]
        clocks = [self._lanes.send(guard, "TIME") for guard in guards]
        marks = [self._lanes.send(guard, "HMGET", guard, "birth", "settling") for guard in guards]
        for clock, mark in zip(await asyncio.gather(*clocks), await asyncio.gather(*marks), strict=True):
            (seconds, micros), (birth, settling) = clock, mark
            now = int(seconds) * 1000 + int(micros) // 1000
            if not birth or now < int(settling or 0) <= now + 2000:
                raise Unavailable("Redis has lost its data; presence is being gathered again", retry_ms=2000)
        return replies


def _record(row: Any, left_ms: int) -> Record:
    fields = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    flat = [part for name, value in fields.items() if name[:2] == b"c:" for part in (name[2:], value)]
    number = fields.get(b"number", b"0").decode()
    streaming, node = fields.get(b"streaming") == b"1", fields.get(b"node", b"").decode()
    return Record(number, held_channels(flat), left_ms, streaming, node)


def _flat(listed: list[Any]) -> list[Any]:
    """Members and scores in one list, whichever protocol brought them."""
    if listed and isinstance(listed[0], (list, tuple)):
        return [value for pair in listed for value in pair]
    return listed


def _newest(flat: list[Any]) -> int | None:
    return int(float(flat[1])) if flat else None


def _last_seen(deadline: float, row: bytes) -> int:
    """As `last_seen` in lua/_prelude.lua: the deadline tells, unless the client closed or a hold moved it."""
    ttl, _, closed, _, seen = (int(part) for part in row.split(b"\x1f"))
    return seen or closed or int(deadline) - ttl


def _presence(user: str, live: list[tuple[str, str, int]], seen: int | None) -> UserPresence:
    newest = max([moment for _, _, moment in live], default=seen)
    channels = sorted({channel for _, channel, _ in live}, key=str.encode)
    return UserPresence(user, bool(live), len({session for session, _, _ in live}), channels, newest)
