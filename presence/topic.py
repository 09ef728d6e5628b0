"""One channel as this node knows it: its position, what is not sent yet, and who watches it."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from presence.events import Event
from presence.mailbox import Frame

EARLY = 1000  # events kept while the position is not known yet


class Subscriber(Protocol):
    """Somebody who watches a channel: a position, and somewhere to put frames."""

    epoch: str
    seq: int
    role: str

    @property
    def transport(self) -> str: ...

    def put(self, frame: Frame) -> None: ...


class Topic:
    """One channel as this node knows it: position, what is not yet sent, who watches."""

    __slots__ = (
        "again", "at_ms", "channel", "early", "epoch", "pending", "pending_bytes", "positioned", "quiet_until",
        "recent", "reconciling", "sent", "seq", "subscribers", "users",
    )  # fmt: skip

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.epoch = ""
        self.seq = 0  # last event that was applied
        self.sent = 0  # last event that went to the subscribers
        self.positioned = False
        self.early: deque[Event] = deque(maxlen=EARLY)  # heard before the position was known
        self.recent: deque[tuple[int, bytes]] | None = None
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.at_ms = 0  # of the first pending event
        self.quiet_until = 0.0
        self.subscribers: dict[Subscriber, None] = {}
        self.users = 0  # how many opened it and did not close it
        self.reconciling = False
        self.again = False
