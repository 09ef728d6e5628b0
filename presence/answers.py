"""What Redis answers, as values: the one place that knows the order of a script's reply from Python's side."""

from __future__ import annotations

from dataclasses import dataclass

from presence.errors import NotJoined, PresenceError
from presence.lane import Reply


class Replaced(PresenceError):
    """A newer connection of the session has taken over; this one has no say any more."""

    code, status, title = "conflict", 409, "Replaced by a newer connection"


class Ended(NotJoined):
    """The session left or was taken out on purpose; only a new `join` brings it back."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a session's record says of one channel."""

    ttl_ms: int
    left: bool


OBSERVING = Held(0, False)  # who only watches has no ttl


@dataclass(frozen=True, slots=True)
class Record:
    """A session as any node may read it: the number of its connection and its channels."""

    number: str
    channels: dict[str, Held]
    left_ms: int = 0  # how long the record still lives
    streaming: bool = False  # whether its newest connection is a WebSocket or stream that has not ended
    node: str = ""  # the node that has it, or had it
    kicked: int = 0  # number of the connection up to which a back end disconnected it
    inbox: tuple[str, int] = ("", 0)  # where the user's own mailbox stands; no epoch: nothing was ever sent


@dataclass(frozen=True, slots=True)
class View:
    """A channel at one instant: members, or with `recovered` the events after the given cursor."""

    epoch: str
    seq: int
    recovered: bool = False
    count: int = 0
    truncated: bool = False
    items: tuple[bytes, ...] = ()

    @property
    def cursor(self) -> str:
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer of a join; `first` says that it made the user a member."""

    first: bool
    ttl_ms: int
    number: str
    view: View


@dataclass(frozen=True, slots=True)
class Roster:
    """One page of members, as JSON texts; `now` in ms by Redis's clock."""

    epoch: str
    cursor: str
    count: int
    members: list[str]
    next: str | None
    now: int


@dataclass(frozen=True, slots=True)
class History:
    """Past events, as JSON texts; `cursor` is that of the last one given."""

    epoch: str
    cursor: str
    recovered: bool
    events: list[str]


@dataclass(frozen=True, slots=True)
class Put:
    """Answer of a back end's join."""

    joined: bool
    cursor: str


def view_of(reply: Reply) -> View:
    epoch, seq = reply[0].decode(), int(reply[1])
    if len(reply) == 2:
        return View(epoch, seq)
    return View(epoch, seq, reply[2] == 1, reply[3], reply[4] == 1, tuple(reply[5]))


def record_of(reply: Reply) -> Record:
    """What a connection is told when it becomes the newest."""
    number, kicked, epoch, seq, *rows = reply
    return Record(number.decode(), held_channels(rows), kicked=int(kicked), inbox=(epoch.decode(), int(seq)))


def held_channels(flat: list[bytes]) -> dict[str, Held]:
    """Channels of a record, from (name, `ttl left end`) pairs."""
    held = {}
    for name, row in zip(flat[::2], flat[1::2], strict=True):
        ttl, left, _ = row.decode().split("\x1f")
        held[name.decode()] = Held(int(ttl), left == "1")
    return held
