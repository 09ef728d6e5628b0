"""Commands of a client that has no connection here: `POST /v1/commands`, for streams, polls and beacons.

Whatever it knows of the session stands in the session's record, so any node can answer; it acts under whatever
number the session has. Joining here makes a member; events come to the stream or poll that names the channel.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from presence import events
from presence.answers import OBSERVING, Held, Record, View
from presence.auth import Identity
from presence.backlog import Command
from presence.codec import channel_name
from presence.commands import history_for, newer_identity, publish_as, who_for
from presence.errors import BadRequest, LimitExceeded, PresenceError, Unavailable
from presence.events import parse_cursor
from presence.fields import channel_of, id_of, role_of, state_of, ttl_of
from presence.keys import entry
from presence.pickup import ack_for, fetch_for
from presence.places import granted, joined_frame
from presence.services import Services

MAX_ANSWER_BYTES = 4 << 20  # after so much no further command of the request is done


class Caller:
    """One request's view of a session."""

    def __init__(self, services: Services, identity: Identity, session_id: str) -> None:
        self._services = services
        self._identity = identity
        self._id = session_id
        self._record = Record("", {})

    async def answer(self, commands: list[object]) -> list[bytes]:
        """Do the commands in order; each gets its reply. Any but a lone `bye` is a sign of life."""
        words: dict[str, str] = {}
        problem: PresenceError | None = None
        only_bye = all(isinstance(command, dict) and command.get("type") == "bye" for command in commands)
        try:
            self._record = await self._services.directory.record(self._identity.user, self._id) or self._record
            words = {} if only_bye else await self._show_life()
        except PresenceError as error:
            problem = error
            if isinstance(error, Unavailable) and not only_bye:
                await self._show_life_elsewhere()
        replies, bytes_left = [], MAX_ANSWER_BYTES
        for command in commands:
            if bytes_left <= 0 and problem is None:
                problem = LimitExceeded("this answer is full: send this command again")
            replies.append(await self._answer(command, words, problem))
            bytes_left -= len(replies[-1])
        return replies

    async def _answer(self, value: object, words: dict[str, str], problem: PresenceError | None) -> bytes:
        command_id, command = None, value if isinstance(value, dict) else {}
        started = time.monotonic()
        try:
            if not isinstance(value, dict):
                raise BadRequest("a command must be a JSON object")
            command_id = id_of(command)
            kind = command.get("type")
            verb = VERBS.get(kind) if isinstance(kind, str) else None
            if verb is None:
                raise BadRequest(f"type must be one of {', '.join(VERBS)}")
            if problem is not None:
                raise problem
            reply = await verb(self, command, words)
            self._services.metrics.command_seconds[str(kind)].observe(time.monotonic() - started)
            return reply
        except PresenceError as error:
            return events.error(error, command_id, channel_of(command))

    async def _show_life(self) -> dict[str, str]:
        channels = {name: held for name, held in self._record.channels.items() if not held.left and held.ttl_ms}
        tracker, user = self._services.tracker, self._identity.user
        items = [(tracker.keys.partition(name), entry(name, user, self._id), "", "") for name in channels]
        words = await tracker.heartbeats.refresh(items) if items else []
        longest = max((held.ttl_ms for held in channels.values()), default=0)
        if items and self._record.left_ms < max(60_000, 3 * longest) - longest:  # once per ttl
            await tracker.note(user, self._id, "", None, channels, limit=False)
        return dict(zip(channels, words, strict=True))

    async def _show_life_elsewhere(self) -> None:
        """The record cannot be read: the node that has the connection knows where the session is."""
        services, user = self._services, self._identity.user
        if not services.registry.show_life(user, self._id):
            await services.directory.tell_alive(user, self._id)

    async def _join(self, command: Command, words: dict[str, str]) -> bytes:
        channel, role = channel_name(command.get("channel")), role_of(command)
        cursor, ttl_ms, state = parse_cursor(command.get("cursor")), ttl_of(command), state_of(command)
        granted(self._identity, "join" if role == "member" else "see", channel)
        tracker, sees = self._services.tracker, self._identity.may("see", channel)
        if role == "observer":
            view = await tracker.view(channel, cursor)
        else:
            view = await self._join_as_member(channel, cursor if sees else None, state, ttl_ms, sees)
        words[channel] = "ok"
        if cursor is not None:
            self._services.metrics.resumes[view.recovered].inc()
        return joined_frame(channel, role, view, id_of(command)).json

    async def _join_as_member(
        self, channel: str, cursor: tuple[str, int] | None, state: str, ttl_ms: int | None, sees: bool
    ) -> View:
        tracker, user = self._services.tracker, self._identity.user
        held = self._record.channels.get(channel)
        ttl = ttl_ms or (held.ttl_ms if held else self._services.settings.ttl_ms)
        await tracker.note(user, self._id, "", None, {channel: Held(ttl, False)}, limit=True)
        joined = await tracker.join(
            *(channel, user, self._id, ""),
            ttl_ms=ttl,
            info=self._identity.info,
            state=state,
            show=sees,
            settled=True,
            cursor=cursor,
        )
        self._record.channels[channel] = Held(joined.ttl_ms, False)
        return joined.view

    async def _leave(self, command: Command, words: dict[str, str]) -> bytes:
        channel = channel_name(command.get("channel"))
        tracker, user = self._services.tracker, self._identity.user
        held = self._record.channels.get(channel)
        words.pop(channel, None)
        if held == OBSERVING:
            await tracker.note(user, self._id, "", None, {channel: Held(0, True)}, limit=False)
            await self._services.directory.unwatch(user, self._id, channel)
            return events.ok(id_of(command))
        if held is not None:
            # Before the leave: its event wakes the session's poll, which comes again at once and reads the record.
            await tracker.note(user, self._id, "", None, {channel: Held(held.ttl_ms, True)}, limit=False)
        try:
            await tracker.leave(channel, user, self._id, "")
        except Unavailable:
            if held is not None:
                with suppress(Unavailable):
                    await tracker.note(user, self._id, "", None, {channel: held}, limit=False)
            raise
        return events.ok(id_of(command))

    async def _set(self, command: Command, words: dict[str, str]) -> bytes:
        channel, state = channel_name(command.get("channel")), state_of(command, required=True)
        await self._services.tracker.set_state(channel, self._identity.user, self._id, "", state)
        return events.ok(id_of(command))

    async def _publish(self, command: Command, words: dict[str, str]) -> bytes:
        return await publish_as(self._services, self._identity, command)

    async def _history(self, command: Command, words: dict[str, str]) -> bytes:
        return await history_for(self._services, self._identity, command)

    async def _who(self, command: Command, words: dict[str, str]) -> bytes:
        return await who_for(self._services, self._identity, command)

    async def _fetch(self, command: Command, words: dict[str, str]) -> bytes:
        return await fetch_for(self._services, self._identity, command)

    async def _ack(self, command: Command, words: dict[str, str]) -> bytes:
        return await ack_for(self._services, self._identity, command)

    async def _beat(self, command: Command, words: dict[str, str]) -> bytes:
        gone = [name for name, word in words.items() if word in ("lost", "ended")]
        return events.ok(id_of(command), sorted(gone))

    async def _bye(self, command: Command, words: dict[str, str]) -> bytes:
        for channel, held in self._record.channels.items():
            if not held.left and held.ttl_ms:
                await self._services.tracker.close(channel, self._identity.user, self._id, "")
        return events.ok(id_of(command))

    async def _refresh(self, command: Command, words: dict[str, str]) -> bytes:
        """The connection that the session may have on any node goes on with the newer token."""
        identity = newer_identity(self._services, self._identity.user, command)
        await self._services.directory.renew_token(identity, self._id)
        return events.ok(id_of(command))


Verb = Callable[[Caller, Command, dict[str, str]], Awaitable[bytes]]
VERBS: dict[str, Verb] = {
    "join": Caller._join,
    "leave": Caller._leave,
    "set": Caller._set,
    "publish": Caller._publish,
    "history": Caller._history,
    "who": Caller._who,
    "beat": Caller._beat,
    "bye": Caller._bye,
    "refresh": Caller._refresh,
    "fetch": Caller._fetch,
    "ack": Caller._ack,
}
