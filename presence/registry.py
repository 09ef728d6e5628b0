"""The sessions that have a connection on this node, and what the buses say about them.

A session is put here before it asks for its number: what arrives about it meanwhile must not be missed.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from presence.errors import Unavailable
from presence.events import Event
from presence.keys import Keys

if TYPE_CHECKING:
    from presence.membership import Membership
    from presence.session import Session

REASSERT_S = 1.0
REASSERT_STEPS = 20
CAUGHT_UP_AT_ONCE = 500
RETRY_S = 0.2

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Numbers = Callable[[list[tuple[str, str]]], Awaitable[list[tuple[int, int]]]]
Registered = Callable[[list[tuple[str, str, str]]], Awaitable[list[bool]]]


class Registry:
    """Local sessions by user."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._users: dict[str, list[Session]] = defaultdict(list)
        self._reasserting: dict[int, asyncio.Task[None]] = {}

    def add(self, session: Session) -> None:
        """Let the session hear of what concerns it."""
        self._users[session.user].append(session)

    def remove(self, session: Session) -> None:
        """The connection is over."""
        sessions = self._users.get(session.user)
        if sessions and session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._users[session.user]

    def all(self) -> list[Session]:
        """Every local session."""
        return [session for sessions in self._users.values() for session in sessions]

    def of_user(self, user: str) -> list[Session]:
        """The user's local sessions."""
        return list(self._users.get(user, ()))

    def heard_event(self, event: Event) -> None:
        """A `leave` may be of a session that is connected here; a state is kept in case it must be brought back."""
        if event.user not in self._users or event.type not in ("update", "leave"):
            return
        for session in self._users[event.user]:
            session.heard_state(event.channel, event.state)
        if event.type == "leave":
            self._verify(event.channel, event.user, event.session)

    def heard_control(self, parts: list[str]) -> None:
        """Take a control message: kind, then what the script or method that published it says."""
        kind, rest = parts[0], parts[1:]
        if kind == "ended":
            self._verify(*rest[:3])
        elif kind == "replaced":
            for session in self._of(rest[0], rest[1]):
                session.heard_number(int(rest[2]))
        elif kind == "alive":
            self.show_life(rest[0], rest[1])
        elif kind == "unwatch":
            for session in self._of(rest[0], rest[1]):
                session.unwatch(rest[2])
        elif kind == "close":
            for session in list(self._users.get(rest[0], ())):
                session.disconnected()
        elif kind == "token":
            for session in self._of(rest[0], rest[1]):
                session.take_grants(float(rest[2]), rest[3])

    def show_life(self, user: str, session_id: str) -> bool:
        """A sign of life came another way than over the session's connection; returns whether it has one here."""
        sessions = self._of(user, session_id)
        for session in sessions:
            session.alive()
        return bool(sessions)

    def reassert(self, partition: int) -> None:
        """Redis lost data or rolled back: show that our sessions live, all within a second, jittered."""
        running = self._reasserting.get(partition)
        if running is None or running.done():
            work = self._reassert(partition)
            self._reasserting[partition] = asyncio.get_running_loop().create_task(work)

    async def catch_up(self, numbers: Numbers, registered: Registered, partitions: Collection[int]) -> None:
        """News of newer connections, and of ended sessions, may have been lost in these partitions: Redis knows."""
        sessions = [session for session in self.all() if self._keys.user_partition(session.user) in partitions]
        places = [place for session in self.all() for place in _unproved(session)]
        places = [place for place in places if self._keys.partition(place.channel) in partitions]
        await asyncio.gather(self._catch_up_sessions(sessions, numbers), self._catch_up_places(places, registered))

    async def _catch_up_sessions(self, sessions: list[Session], numbers: Numbers) -> None:
        for at in range(0, len(sessions), CAUGHT_UP_AT_ONCE):
            part = sessions[at : at + CAUGHT_UP_AT_ONCE]
            newest = await _answered(numbers, [(session.user, session.id) for session in part])
            for session, (number, kicked) in zip(part, newest, strict=True):
                session.take_number(number)
                if session.number and kicked >= int(session.number):
                    session.disconnected()

    async def _catch_up_places(self, places: list[Membership], registered: Registered) -> None:
        for at in range(0, len(places), CAUGHT_UP_AT_ONCE):
            part = places[at : at + CAUGHT_UP_AT_ONCE]
            live = await _answered(registered, [(p.channel, p.session.user, p.session.id) for p in part])
            for place, lives in zip(part, live, strict=True):
                if not lives:
                    place.session.verify(place.channel)

    async def stop(self) -> None:
        """End the tasks under way."""
        for task in self._reasserting.values():
            task.cancel()
        await asyncio.gather(*self._reasserting.values(), return_exceptions=True)

    async def _reassert(self, partition: int) -> None:
        sessions = self.all()
        random.shuffle(sessions)
        step = max(1, -(-len(sessions) // REASSERT_STEPS))
        for at in range(0, len(sessions), step):
            for session in sessions[at : at + step]:
                session.reassert(lambda channel: self._keys.partition(channel) == partition)
            await asyncio.sleep(REASSERT_S / REASSERT_STEPS)

    def _verify(self, channel: str, user: str, session_id: str) -> None:
        # The message may be older than what this node did since: Redis is asked, by a heartbeat.
        for session in self._of(user, session_id):
            session.verify(channel)

    def _of(self, user: str, session_id: str) -> list[Session]:
        return [session for session in self._users.get(user, ()) if session.id == session_id]


def _unproved(session: Session) -> list[Membership]:
    """Places in which this node shows no life by itself, so that it would not notice their end."""
    if session.transport == "websocket":
        return []
    return [place for place in session.channels.values() if place.role == "member"]


async def _answered(ask: Callable[[Asked], Awaitable[Answer]], what: Asked) -> Answer:
    """The answer, however long Redis takes to give one."""
    while True:
        try:
            return await ask(what)
        except Unavailable:
            await asyncio.sleep(RETRY_S)
