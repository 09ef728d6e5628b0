"""One session's place in one channel, as its node keeps it: heartbeats go out from here and come back here.

A heartbeat's answer counts only for the membership it was sent for: every join raises `generation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from presence.heartbeats import Touch
from presence.keys import entry
from presence.mailbox import Frame
from presence.topic import Topic
from presence.wheel import NEVER

if TYPE_CHECKING:
    from presence.session import Session

Heard = Callable[["Membership", str | None], None]


class Membership:
    """A member or observer; with a topic it is the topic's subscriber."""

    __slots__ = (
        "again", "asked_at", "channel", "entry", "epoch", "generation", "good_until", "heard_end", "joining",
        "partition", "proven", "rejoining", "role", "seq", "session", "state", "topic", "touching", "ttl_ms",
    )  # fmt: skip

    def __init__(self, session: Session, channel: str, partition: int, role: str, ttl_ms: int) -> None:
        self.session = session
        self.channel = channel
        self.partition = partition
        self.entry = entry(channel, session.user, session.id)
        self.role = role
        self.ttl_ms = ttl_ms
        self.state = ""
        self.generation = 0
        self.epoch = ""
        self.seq = 0
        self.topic: Topic | None = None
        self.touching = False
        self.again = False  # a further heartbeat is wanted behind the one on its way
        self.joining = False  # no heartbeat before the join's answer
        self.rejoining = False
        self.proven = False  # joined by this connection, or a heartbeat of it was taken
        self.good_until = 0.0  # monotonic
        self.asked_at = NEVER  # when this connection asked for the join that made it (monotonic)
        self.heard_end = False

    @property
    def transport(self) -> str:
        return self.session.transport

    def put(self, frame: Frame) -> None:
        """Pass a frame of the channel on."""
        self.session.mailbox.put(frame)

    def touch(self, heard: Heard | None = None) -> bool:
        """Show life. One heartbeat at a time is kept until it is answered; `heard` gets a word for its own."""
        if self.role == "observer" or self.joining or (self.touching and heard is None):
            return False
        kept = not self.touching
        self.touching = True
        done = partial(self._touched, self.generation, kept, heard)
        keep = partial(self._wanted, self.generation) if kept else None
        heartbeats = self.session.services.tracker.heartbeats
        heartbeats.put(Touch(self.partition, self.entry, self.session.number, self.ttl_ms, done, keep))
        return True

    def lives_on(self) -> None:
        """Redis has taken a join or heartbeat: until a ttl from now the session cannot time out."""
        self.proven = True
        self.heard_end = False
        self.good_until = time.monotonic() + self.ttl_ms / 1000

    def verify(self) -> None:
        """Somebody announced our end: ask Redis, and anew, for a heartbeat on its way may have been answered
        before that."""
        self.heard_end = True
        if not self.touch():
            self.again = self.touching

    def part(self) -> None:
        """The client said `bye`: heartbeats sent so far count for nothing, and a timeout is what it asked for."""
        self.generation += 1
        self.touching = self.proven = False

    def _wanted(self, generation: int) -> bool:
        return generation == self.generation and self.session.channels.get(self.channel) is self

    def _touched(self, generation: int, kept: bool, heard: Heard | None, word: str | None) -> None:
        if kept and word is not None and generation == self.generation:
            self.touching = False
            if self.again:
                self.again = False
                self.touch()
        current = self._wanted(generation)  # guard: generation of touch replies
        if current and word is not None:
            self.session.touched(self, word)
        if heard is not None:
            heard(self, word if current else "ok")
