"""The only door to who is present: each method is one transition, one script, one atomic step.

JSON values travel as compact text, names as str, connection numbers as text (they exceed what Lua prints).
Every method raises `Unavailable` when Redis cannot be asked; then the change may have been applied, and
repeating it is safe.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from presence.announcing import announcing
from presence.answers import (
    Ended,
    Held,
    History,
    Joined,
    Put,
    Record,
    Replaced,
    Roster,
    View,
    record_of,
    view_of,
)
from presence.codec import compact
from presence.errors import Conflict, LimitExceeded, NotJoined, Unavailable
from presence.heartbeats import BATCH, Heartbeats
from presence.keys import Keys, entry
from presence.lane import Reply
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings

SNAPSHOT_LIMIT = 1000
RECORD_MS = 60_000  # least life of a session's record
FRAME_BYTES = 256 * 1024 - 4096  # of members or events in a `joined` frame; the rest is its head
PAGE_BYTES = 4 * 1024 * 1024
READ_KEEP_MS = 60_000  # how long a channel that was only asked for keeps its epoch
USER_KEEP_MS = 24 * 3600 * 1000  # how long `last_seen` of a user is known
OBSERVING_MS = 24 * 3600 * 1000  # how long a record names a channel that a stream only watches
ONCE_KEEP_MS = 24 * 3600 * 1000
BACKEND_SESSION = "back-end"

Unclaimed = Callable[[str, str, str], None]  # channel, user, generation of a member whose last state the archive has


class Tracker:
    """Transitions of sessions, members and channels."""

    def __init__(self, scripts: Scripts, keys: Keys, settings: Settings, node: str, metrics: Metrics) -> None:
        self._scripts = scripts
        self._settings = settings
        self._node = node
        self.keys = keys
        self._events = metrics.events
        self.on_unclaimed: Unclaimed = lambda channel, user, generation: None
        self.heartbeats = Heartbeats(scripts, keys, metrics.heartbeats.inc)

    async def connect(self, user: str, session: str, token_end_ms: int, streaming: bool, number: str = "") -> Record:
        """Make the caller the newest connection of the session; older ones are told to close. One that has a number
        already gets the next one only if nobody has a newer: else it raises Replaced."""
        partition = self.keys.user_partition(user)
        life = max(RECORD_MS, 3 * self._settings.ttl_ms)
        bus = self.keys.telling(partition)
        reply = await self._call(
            *("connect", partition, user, session, self._node, token_end_ms, life, bus),
            *(USER_KEEP_MS, int(streaming), number),
        )
        if reply[0] == b"replaced":
            raise Replaced("a newer connection of this session is open")
        return record_of(reply)

    async def release(self, user: str, session: str, number: str) -> None:
        """Say that this connection of the session is over."""
        await self._call("release", self.keys.user_partition(user), user, session, number)

    async def note(
        self,
        user: str,
        session: str,
        number: str,
        token_end_ms: int | None,
        channels: dict[str, Held],
        *,
        limit: bool,
        going_on: bool = False,
        life_ms: int = RECORD_MS,
    ) -> None:
        """Write the channels into the session's record; with `limit`, as the entry into one more channel, which takes
        the mark of an earlier leave away unless the session only goes on there."""
        life = max([life_ms, *(3 * held.ttl_ms for held in channels.values())])
        token_end = "" if token_end_ms is None else token_end_ms
        most = self._settings.max_channels if limit else ""
        rows = [value for ch, held in channels.items() for value in (ch, held.ttl_ms, int(held.left))]
        reply = await self._call(
            *("record", self.keys.user_partition(user), user, session, number, self._node, token_end, life),
            *(USER_KEEP_MS, most, int(limit and not going_on), *rows),
        )
        if reply[0] == b"replaced":
            raise Replaced("a newer connection of this session is open")
        if reply[0] == b"channels":
            raise LimitExceeded(f"a session may be in {self._settings.max_channels} channels; leave one first")

    async def join(
        self,
        channel: str,
        user: str,
        session: str,
        number: str,
        *,
        ttl_ms: int | None = None,
        info: str = "",
        state: str = "",
        revive: bool = False,
        replace_info: bool = False,
        show: bool = True,
        settled: bool = False,
        cursor: tuple[str, int] | None = None,
    ) -> Joined:
        """Enter or refresh. `revive`: not over a tombstone (raises Ended), as for a session that never left;
        `settled`: not while the partition gathers its members again (raises Unavailable)."""
        partition = self.keys.partition(channel)
        epoch, seq = cursor or ("", -1)
        reply = await self._call(
            *("join", partition, *self._common(partition), channel, user, session, number),
            *("" if ttl_ms is None else ttl_ms, self._settings.ttl_ms, compact(user), info, state),
            *(int(not revive), int(replace_info), self._settings.max_sessions, self._settings.max_members),
            *("show" if show else "settled" if settled else "", epoch, seq, SNAPSHOT_LIMIT, FRAME_BYTES),
            int(bool(self._settings.archive_url)),
        )
        self._refuse(reply[0])
        if reply[5]:
            self.on_unclaimed(channel, user, reply[5].decode())
        if reply[1]:
            self._events[("join" if reply[1] == 1 else "update"), ""].inc()
        return Joined(reply[1] == 1, int(reply[2]), reply[3].decode(), view_of(reply[4]))

    async def leave(
        self, channel: str, user: str, session: str, number: str, reason: str = "left"
    ) -> tuple[bool, list[str]]:
        """End one session (`session` empty: all of the user); returns whether the user left, and who was ended."""
        partition = self.keys.partition(channel)
        common = self._common(partition)
        reply = await self._call("leave", partition, *common, channel, user, session, number, reason)
        self._refuse(reply[0])
        if reply[1]:
            self._events["leave", reason].inc()
        return reply[1] == 1, [session_id.decode() for session_id in reply[2]]

    async def close(self, channel: str, user: str, session: str, number: str, *, silent_ms: int | str = "") -> None:
        """Start the grace: the client closed its connection or said `bye`, `silent_ms` after its last sign of life."""
        partition = self.keys.partition(channel)
        await self._call("close", partition, channel, user, session, number, self._settings.grace_ms, silent_ms)

    async def set_state(self, channel: str, user: str, session: str, number: str, state: str) -> bool:
        """Replace the member's state; true where it changed."""
        partition = self.keys.partition(channel)
        reply = await self._call("set", partition, *self._common(partition), channel, user, session, number, state)
        self._refuse(reply[0])
        if reply[1]:
            self._events["update", ""].inc()
        return bool(reply[1])

    async def publish(
        self,
        channel: str,
        name: str,
        data: str,
        *,
        user: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Announce a `message`; returns its cursor. The same key with another body raises Conflict."""
        partition = self.keys.partition(channel)
        digest = hashlib.sha256(f"{name}\x1f{data}".encode()).hexdigest()
        reply = await self._call(
            *("publish", partition, *self._common(partition), channel, compact(name), data),
            *(compact(user) if user else "", user or "", idempotency_key or "", digest),
            *(ONCE_KEEP_MS, self._settings.inbox_ms),
        )
        if reply[0] == b"conflict":
            raise Conflict("this Idempotency-Key was used with another body")
        if reply[3]:
            self._events["message", ""].inc()
        return f"{reply[1].decode()}:{int(reply[2])}"

    async def view(self, channel: str, cursor: tuple[str, int] | None = None) -> View:
        """What an observer is shown: snapshot, or the events after the cursor if there is no hole."""
        reply = await self._snapshot("view", channel, cursor, SNAPSHOT_LIMIT, "", FRAME_BYTES)
        return view_of(reply[1])

    async def roster(self, channel: str, limit: int, after: str | None, *, deadlines: bool = False) -> Roster:
        """Members behind `after` in byte order, if wanted with their deadlines."""
        what = "deadlines" if deadlines else "roster"
        reply = await self._snapshot(what, channel, None, limit, after or "", PAGE_BYTES)
        epoch, seq, count, following, texts, now = reply[1:7]
        cursor = f"{epoch.decode()}:{int(seq)}"
        return Roster(epoch.decode(), cursor, count, [t.decode() for t in texts], following.decode() or None, int(now))

    async def history(self, channel: str, cursor: tuple[str, int] | None, limit: int) -> History:
        """Events after the cursor, without one the last ones; not recovered: none."""
        reply = await self._snapshot("history", channel, cursor, limit, "", PAGE_BYTES)
        epoch, seq, recovered, texts = reply[1:5]
        cursor_text = f"{epoch.decode()}:{int(seq)}"
        return History(epoch.decode(), cursor_text, recovered == 1, [t.decode() for t in texts])

    async def put_member(
        self,
        channel: str,
        user: str,
        session: str,
        *,
        info: str | None,
        state: str | None,
        ttl_ms: int | None,
    ) -> Put:
        """A back end's join or refresh, under whatever number the session has."""
        held = {channel: Held(ttl_ms or self._settings.ttl_ms, False)}
        await self.note(user, session, "", None, held, limit=False)
        joined = await self.join(
            *(channel, user, session, ""),
            ttl_ms=ttl_ms,
            info=info or "",
            state=state or "",
            replace_info=info is not None,
            show=False,
        )
        if joined.ttl_ms != held[channel].ttl_ms:  # it has kept its own
            await self.note(user, session, "", None, {channel: Held(joined.ttl_ms, False)}, limit=False)
        return Put(joined.first, joined.view.cursor)

    async def remove_member(self, channel: str, user: str, session: str | None) -> bool:
        """A back end's leave; true if this ended the membership."""
        try:
            return (await self.leave(channel, user, session or "", ""))[0]
        except NotJoined:
            return False

    async def heartbeats_of(self, items: list[tuple[str, str, str]]) -> list[str]:
        """Heartbeats for (channel, user, session): `refreshed` or `not_joined`, in order."""
        touches = ((self.keys.partition(ch), entry(ch, user, session), "", "") for ch, user, session in items)
        words = await self.heartbeats.refresh(touches)
        refreshed = [item for item, word in zip(items, words, strict=True) if word == "ok"]
        with suppress(Unavailable):  # the heartbeats were taken; the next ones renew the records
            await self._renew(refreshed)
        return ["refreshed" if word == "ok" else "not_joined" for word in words]

    async def _renew(self, items: list[tuple[str, str, str]]) -> None:
        partitions: dict[int, list[str]] = defaultdict(list)
        for channel, user, session in items:
            partitions[self.keys.user_partition(user)] += [user, session, channel]
        head = (self._settings.ttl_ms, RECORD_MS, USER_KEEP_MS)
        calls = [
            self._call("renew", partition, *head, *flat[at : at + 3 * BATCH])
            for partition, flat in partitions.items()
            for at in range(0, len(flat), 3 * BATCH)
        ]
        await asyncio.gather(*calls)

    def _common(self, partition: int) -> tuple[int, str, str]:
        return announcing(self._settings, self.keys, partition)

    async def _call(self, name: str, partition: int, *arguments: str | int) -> Reply:
        return await self._scripts.call(name, self.keys.script(partition), arguments)

    async def _snapshot(
        self, what: str, channel: str, cursor: tuple[str, int] | None, limit: int, after: str, max_bytes: int
    ) -> Reply:
        epoch, seq = cursor or ("", -1)
        keep = self._settings.history_ms if what == "view" else min(READ_KEEP_MS, self._settings.history_ms)
        partition = self.keys.partition(channel)
        reply = await self._call("snapshot", partition, what, channel, epoch, seq, limit, after, max_bytes, keep)
        self._refuse(reply[0])
        return reply

    def _refuse(self, word: bytes) -> None:
        if word == b"ok":
            return
        if word == b"settling":
            raise Unavailable("Redis has lost its data; presence is being gathered again", retry_ms=2000)
        if word == b"replaced":
            raise Replaced("a newer connection of this session is open")
        if word == b"ended":
            raise Ended("this session left the channel or was taken out of it; join again")
        if word == b"sessions":
            raise LimitExceeded(f"a user may have {self._settings.max_sessions} sessions in a channel")
        if word == b"members":
            raise LimitExceeded(f"the channel is full: it may have {self._settings.max_members} members")
        raise NotJoined("this session is not in the channel; join it first")
