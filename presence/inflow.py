"""Messages to users, brought to their connections on this node as they come.

A connection hears of its user's mailbox from where that stood when it was opened, or from where its NEXT says that it
was; what the bus lost is read again. It is a convenience: what counts is the position in Redis, and `fetch`. Before
changing it: there is one of this per connection, and most never hear anything, so nothing waits or ticks for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from itertools import pairwise
from typing import TYPE_CHECKING

from presence import events
from presence.answers import View
from presence.errors import Unavailable
from presence.events import Event
from presence.keys import INBOX, inbox_of, owner_of
from presence.mailbox import Frame
from presence.metrics import Metrics
from presence.registry import Registry
from presence.streams import Positions
from presence.tracker import Tracker

if TYPE_CHECKING:
    from presence.session import Session

WINDOW_S = 0.020  # the first message after quiet goes at once; what follows is collected this long
FRAME_BYTES = 60_000  # of messages that are collected; more of them do not wait for the window's end
RETRY_S = 0.2
LOOKED_AT_ONCE = 500

Stands = Callable[[list[str]], Awaitable[list[tuple[str, int]]]]


class Place:
    """How far a connection has heard of its user's mailbox."""

    __slots__ = ("begun", "behind", "catching_up", "epoch", "follows", "seq")

    def __init__(self) -> None:
        self.epoch = ""  # nothing was ever sent
        self.seq = 0
        self.begun = False
        self.follows = False  # whether messages may be passed on: not before the connection's first frame
        self.behind = False
        self.catching_up = False

    def begin(self, positions: Positions, stands: tuple[str, int]) -> None:
        """Take up where NEXT says, else where the mailbox stands now; only the first call counts."""
        if not self.begun:
            self.begun = True
            self.epoch, self.seq = positions.setdefault(INBOX, stands)
            self.behind = self.behind or (self.epoch, self.seq) != stands

    def is_next(self, event: Event) -> bool:
        """Whether the event follows without a hole; of a new epoch only its first does."""
        return event.seq == (self.seq + 1 if event.epoch == self.epoch else 1)


class Inflow:
    """All messages to users with a connection here."""

    def __init__(self, registry: Registry, tracker: Tracker, metrics: Metrics) -> None:
        self._registry = registry
        self._tracker = tracker
        self._metrics = metrics
        self._waiting: dict[str, list[Event]] = {}
        self._bytes: Counter[str] = Counter()  # of what waits
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, event: Event) -> None:
        """Take an event from the bus; only those of mailboxes count."""
        user = owner_of(event.channel)
        if user is None or not self._registry.of_user(user):
            return
        self._waiting.setdefault(user, []).append(event)
        self._bytes[user] += len(event.text)
        if self._bytes[user] > FRAME_BYTES:
            self._pass_on(user, self._waiting.pop(user))
            del self._bytes[user]
        elif self._timer is None:
            delay_s = max(0.0, self._quiet_until - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._flush)

    def follow(self, session: Session) -> asyncio.Task[None] | None:
        """Pass on from now on; returns the work of catching up, where there is some to do."""
        session.inbox.follows = True
        return self._catch_up_soon(session) if session.inbox.behind else None

    async def look_again(self, stands: Stands, partitions: Collection[int]) -> None:
        """What the buses of these partitions said may be lost: compare with where the mailboxes stand."""
        sessions = [session for session in self._registry.all() if session.inbox.begun]
        sessions = [each for each in sessions if self._tracker.keys.user_partition(each.user) in partitions]
        for at in range(0, len(sessions), LOOKED_AT_ONCE):
            part = sessions[at : at + LOOKED_AT_ONCE]
            try:
                places = await stands([session.user for session in part])
            except Unavailable:  # the subscription will be lost again, too
                return
            for session, place in zip(part, places, strict=True):
                if place != (session.inbox.epoch, session.inbox.seq):
                    self._fall_behind(session)

    async def stop(self) -> None:
        """End the tasks under way."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _flush(self) -> None:
        self._timer = None
        self._quiet_until = time.monotonic() + WINDOW_S
        waiting, self._waiting = self._waiting, {}
        self._bytes.clear()
        for user, heard in waiting.items():
            self._pass_on(user, heard)

    def _pass_on(self, user: str, heard: list[Event]) -> None:
        frames: dict[int, Frame] = {}
        for session in self._registry.of_user(user):
            self._bring(session, heard, frames)

    def _bring(self, session: Session, heard: list[Event], frames: dict[int, Frame]) -> None:
        """One frame for all who are where the others are."""
        place = session.inbox
        fresh = [event for event in heard if event.epoch != place.epoch or event.seq > place.seq]
        if not fresh:
            return
        unbroken = all(after.epoch == before.epoch and after.seq == before.seq + 1 for before, after in pairwise(fresh))
        if not place.follows or place.catching_up or not unbroken or not place.is_next(fresh[0]):
            self._fall_behind(session)
            return
        frame = frames.get(len(fresh))
        if frame is None:
            frame = frames[len(fresh)] = _frame(fresh[-1].epoch, fresh[-1].seq, [e.text for e in fresh], fresh[0].at_ms)
        self._put(session, frame)

    def _put(self, session: Session, frame: Frame) -> None:
        session.inbox.epoch, session.inbox.seq = frame.epoch, frame.seq
        session.mailbox.put(frame)
        self._metrics.deliveries[session.transport].inc()

    def _fall_behind(self, session: Session) -> None:
        session.inbox.behind = True
        if session.inbox.follows and not session.inbox.catching_up:
            self._catch_up_soon(session)

    def _catch_up_soon(self, session: Session) -> asyncio.Task[None]:
        session.inbox.catching_up = True
        task = asyncio.get_running_loop().create_task(self._catch_up(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _catch_up(self, session: Session) -> None:
        place = session.inbox
        try:
            while place.behind and not session.ended:
                place.behind = False
                try:
                    view = await self._read(session.user, place)
                except Unavailable:
                    place.behind = True
                    await asyncio.sleep(RETRY_S)
                    continue
                if (view.epoch, view.seq) != (place.epoch, place.seq) and not session.ended:
                    self._put(session, _frame(view.epoch, view.seq, view.items if view.recovered else ()))
        finally:
            place.catching_up = False

    async def _read(self, user: str, place: Place) -> View:
        """What follows the place; an empty mailbox is followed by everything in it."""
        view = await self._tracker.view(inbox_of(user), (place.epoch, place.seq))
        return view if place.epoch else await self._tracker.view(inbox_of(user), (view.epoch, 0))


def _frame(epoch: str, seq: int, texts: Collection[bytes], at_ms: int = 0) -> Frame:
    """Messages as clients get them. Without any: some were missed, and are to be fetched."""
    return Frame(events.events(INBOX, epoch, seq, texts), channel=INBOX, epoch=epoch, seq=seq, at_ms=at_ms)
