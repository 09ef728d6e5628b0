"""What the clients of a random run did and were told, each act between the moments of request and answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.raw_socket import RawSocket

Place = tuple[str, str]  # user, channel

UNANSWERED_MS = 500.0  # within which something without an answer was done


@dataclass
class Life:
    """A sign of life. `sure`: answered in a way that says it counted. `unbroken`: it cannot have made a new member."""

    place: Place
    session: str
    sent: float
    acked: float | None
    ttl: float
    sure: bool = False
    unbroken: bool = False
    socket: RawSocket | None = None

    def __str__(self) -> str:
        acked = f"{self.acked:.0f}" if self.acked else "?"
        words = [word for word in ("sure", "unbroken") if getattr(self, word)]
        return f"{self.sent:.0f}-{acked} {self.session} lives {self.ttl:.0f} {' '.join(words)} {_name(self.socket)}"


@dataclass
class End:
    """Something that ends a session, after `grace` where there is one. Not `sure`: it may have been refused.
    `session` empty: all of the user."""

    place: Place
    session: str
    sent: float
    acked: float
    reason: str
    grace: float = 0.0
    sure: bool = True
    socket: RawSocket | None = None

    def __str__(self) -> str:
        who = self.session or "all"
        return f"{self.sent:.0f}-{self.acked:.0f} {who} ends {self.reason} {self.sure} {_name(self.socket)}"

    def concerns(self, life: Life) -> bool:
        return self.place == life.place and self.session in ("", life.session)

    def certainly_after(self, life: Life) -> bool:
        same = self.socket is not None and self.socket is life.socket
        return self.sent >= (life.sent if same else settled(life))


@dataclass
class Snapshot:
    """The members that somebody was shown, and the cursor they were shown with."""

    channel: str
    cursor: str
    members: dict[str, tuple[Any, Any]]
    who: str


@dataclass
class Journal:
    """Acts of all clients, in the order of writing."""

    lives: list[Life] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    sockets: list[RawSocket] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    refused: list[Life] = field(default_factory=list)  # heartbeats that were told `not_joined`
    ttls: dict[RawSocket, float] = field(default_factory=dict)  # the shortest a connection ever had
    disconnects: list[tuple[str, float, float]] = field(default_factory=list)
    kills_ms: list[float] = field(default_factory=list)  # when all nodes lost their subscription
    told: list[tuple[Place, str, float, float, bool]] = field(default_factory=list)  # join/leave of a back end: was it?
    breaches: list[str] = field(default_factory=list)  # what clients noticed themselves


def settled(life: Life) -> float:
    return life.sent + UNANSWERED_MS if life.acked is None else life.acked


def _name(socket: RawSocket | None) -> str:
    return f"by connection {socket.asked_ms:.0f}" if socket else ""
