"""What the server answers, as values. Fields that a newer server adds are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """One announced fact of a channel; what its type has not is None.

    `at`, `since` and `last_seen` are Unix times in ms by the server's clock. `generation` grows with every new
    presence of that user in that channel. `id` and `deliveries` (1 the first time) are set where a queue gave it.
    """

    type: str
    channel: str
    epoch: str
    seq: int
    at: int
    user: str | None = None
    info: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    since: int | None = None
    last_seen: int | None = None
    reason: str | None = None
    generation: int | None = None
    name: str | None = None
    data: Any = None
    id: str = ""
    deliveries: int = 0

    @property
    def cursor(self) -> str:
        """The position of this event in its channel."""
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Member:
    """A user with at least one live session in a channel; `since` is a Unix time in ms."""

    user: str
    info: dict[str, Any]
    state: dict[str, Any]
    sessions: int
    since: int


@dataclass(frozen=True, slots=True)
class Put:
    """What putting a member did: `joined` says that this call made the user a member (False also for a repetition
    whose first answer was lost)."""

    joined: bool
    cursor: str


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel in numbers; a listing has neither `sessions` nor `cursor`."""

    channel: str
    count: int
    sessions: int | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Past events; `cursor` is that of the last one, `recovered` False: the given cursor cannot be continued."""

    epoch: str
    cursor: str
    recovered: bool
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class User:
    """Where a user is; `last_seen` (Unix ms) is None when nobody knows any more."""

    user: str
    online: bool
    sessions: int
    channels: tuple[str, ...]
    last_seen: int | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits for a user in one channel.

    `cursor` is what to acknowledge when all of it is dealt with, and each event's `cursor` when all up to it is; they
    are of one epoch, and events of the next one come after that. `missed` counts events that are gone; `recovered`
    False: nobody knows how many are.
    """

    channel: str
    cursor: str
    events: tuple[Event, ...]
    missed: int = 0
    recovered: bool = True


@dataclass(frozen=True, slots=True)
class Inbox:
    """What waits for a user, `@inbox` first; `more`: this may not be all, so acknowledge and look again."""

    channels: tuple[Pending, ...]
    more: bool = False

    def __iter__(self) -> Iterator[Pending]:
        return iter(self.channels)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of ids: `acked` are done as was asked, `refused` this consumer does not hold (any more).

    What is in neither lies in a part of the server that cannot be asked right now: ask again. After a repetition
    `refused` may name some that the first attempt did.
    """

    acked: tuple[str, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue in numbers, and what it wants (`types` None: all).

    `oldest_ms`: age of the oldest event that is not acknowledged, None where there is none; `lost`: events that had to
    go before they were acknowledged; `consumers`: how many there are.
    """

    group: str
    waiting: int
    in_flight: int
    oldest_ms: int | None
    dead: int
    lost: int
    consumers: int
    types: tuple[str, ...] | None = None
    channels: str = "*"
    max_deliveries: int = 5


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a longer list; `next` is the `after` of the following part, None at the end."""

    items: tuple[T, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def build(kind: type[T], row: Row, **more: Any) -> T:
    """A value of this class out of an answer's fields and these."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in {**row, **more}.items() if name in known})


def events_of(rows: list[Row], **more: Any) -> tuple[Event, ...]:
    """Events out of an answer; `more` are fields that stand outside of them there."""
    return tuple(build(Event, row, **more) for row in rows)
