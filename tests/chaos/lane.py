"""What all clients of a random run share: each does whatever comes to its mind and writes down what it did.

A lane is one session of a user, driven by one coroutine with a random stream of its own, so that the acts of a run
follow from its seed, whatever their timing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.journal import End, Journal, Life, Snapshot
from tests.chaos.raw_socket import Frame, now_ms
from tests.support import tokens
from tests.support.clients.rooms import Room
from tests.support.node import Node

TTL_MS, GRACE_MS, PING_MS = 2000, 300, 500
TTLS = (1000, 1500, 2000, 4000)


@dataclass
class World:
    """What all clients share."""

    nodes: list[Node]
    channels: list[str]
    journal: Journal
    deafen: Callable[[], Awaitable[object]]  # lets all nodes lose their subscription
    until_ms: float = 0.0
    finish: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return now_ms() >= self.until_ms


@dataclass
class Held:
    """A session's place in a channel: its ttl, and until when it is certainly there."""

    ttl: float
    until: float


class Lane:
    """One session after the other of one user."""

    def __init__(self, world: World, user: str, name: str, seed: str) -> None:
        self.world, self.user, self.name = world, user, name
        self.rng = random.Random(f"{seed}/{user}/{name}")
        self.token = tokens.make_token(user, info={"name": user})
        self.session = ""
        self.places: dict[str, Held] = {}
        self._sessions = 0

    async def run(self) -> Callable[[], Awaitable[None]] | None:
        """Act until time is up; returns what goes on after it, if this lane stays."""
        raise NotImplementedError

    def begin(self) -> None:
        """Become a new session."""
        self._sessions += 1
        self.session = f"{self.user}-{self.name}-{self._sessions:03}"
        self.places = {}

    def node(self) -> Node:
        return self.rng.choice(self.world.nodes)

    async def pause(self, low_s: float, high_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(low_s, high_s))

    def jitter_ms(self) -> float:
        """Around a deadline: mostly before it, often after."""
        return self.rng.uniform(-120, 60)

    def lives(self, channel: str, sent: float, ttl: float, **more: Any) -> Life:
        life = Life((self.user, channel), self.session, sent, None, ttl, **more)
        self.world.journal.lives.append(life)
        return life

    def ends(self, channel: str, sent: float, acked: float, reason: str, **more: Any) -> None:
        session = more.pop("session", self.session)
        self.world.journal.ends.append(End((self.user, channel), session, sent, acked, reason, **more))

    def refused(self, channel: str, sent: float, acked: float, ttl: float) -> None:
        self.world.journal.refused.append(Life((self.user, channel), self.session, sent, acked, ttl))

    def complain(self, what: str) -> None:
        self.world.journal.breaches.append(f"{self.user}/{self.session}: {what}")


def note_snapshot(journal: Journal, frame: Frame, who: str) -> None:
    """Keep the members that somebody was shown, to be compared with the events before them."""
    if "members" in frame and not frame.get("truncated"):
        members = {member["user"]: (member["info"], member["state"]) for member in frame["members"]}
        journal.snapshots.append(Snapshot(frame["channel"], frame["cursor"], members, who))


def continued(room: Room, cursor: str) -> Room:
    """What the client of an earlier connection knew, for the next one to go on with."""
    copy = Room(room.channel)
    epoch, _, seq = cursor.rpartition(":")
    copy.epoch, copy.seq = epoch, int(seq)
    copy.members, copy.partial = dict(room.members), room.partial or room.cursor != cursor
    copy.joined = room.joined[-1:]
    return copy
