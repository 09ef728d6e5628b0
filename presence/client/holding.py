"""What a worker holds: events that wait for a hand, that are being handled, and what is to be said of the others.

Nothing here waits or sends. Moments are monotonic seconds of this process; an event counts as ours only until its
lease ends as reckoned from before the request that gave it, so a process that stood still does not begin with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from presence.client.answers import Event, Settled

AT_ONCE = 200  # ids in one request
MOST_AWAY = 4  # times `most`: what is held at the utmost while parts of the server are away


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be said of some events: `ack`, `release`, or `extend` by `lease_ms`; `last`: they go with that."""

    what: str
    ids: tuple[str, ...]
    lease_ms: int = 0
    last: bool = True


@dataclass(slots=True)
class _Held:
    event: Event
    ours_until_s: float
    begun: bool = False
    verdict: tuple[str, int] | None = None  # what, lease_ms


class Holding:
    """The events of one worker, at most `most`, each leased for `lease_ms`.

    `away` names parts of the server that cannot be asked. They hand nothing out, so what is held of them leaves its
    room to others.
    """

    def __init__(self, most: int, lease_ms: int) -> None:
        self._most = most
        self._lease_ms = lease_ms
        self._held: dict[str, _Held] = {}
        self.away: set[str] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """How many more there may be."""
        there = sum(1 for name in self._held if not self._is_away(name)) if self.away else len(self._held)
        return min(self._most - there, MOST_AWAY * self._most - len(self._held))

    @property
    def begs(self) -> bool:
        """Whether it is time to take more: nothing waits for a hand, or a quarter is free."""
        waiting = any(
            not held.begun and held.verdict is None and not self._is_away(name) for name, held in self._held.items()
        )
        return self.room > 0 and (not waiting or 4 * self.room >= self._most)

    def add(self, events: Iterable[Event], sent_s: float) -> None:
        """These came as the answer to a request that was sent then. What is held already is only held anew."""
        for event in events:
            held = self._held.setdefault(event.id, _Held(event, 0.0))
            held.ours_until_s = sent_s + self._lease_ms / 1000

    def begin(self, now_s: float) -> Event | None:
        """The next event to handle, if one waits that is certainly ours."""
        for held in self._held.values():
            if not held.begun and held.verdict is None and held.ours_until_s > now_s:
                held.begun = True
                return held.event
        return None

    def done(self, event: Event) -> None:
        """It was handled."""
        self._judge(event.id, "ack", 0)

    def failed(self, event: Event, back_off_ms: int) -> None:
        """It was not, and is to come back after this time."""
        self._judge(event.id, "extend", back_off_ms)

    def give_back(self) -> None:
        """What was not begun is to go to others."""
        for held in self._held.values():
            if not held.begun and held.verdict is None:
                held.verdict = ("release", 0)

    def verdicts(self, part: str | None = None) -> list[Order]:
        """What is to be said of those that are done, failed or given back: of one part of the server, or of all that
        are not away."""
        ids: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, held in self._held.items():
            if held.verdict is not None and self._concerns(name, part):
                ids[held.verdict].append(name)
        return [Order(what, part, ms) for (what, ms), named in ids.items() for part in _parts(named)]

    def extensions(self, part: str | None = None) -> list[Order]:
        """What keeps the others."""
        named = [name for name, held in self._held.items() if held.verdict is None and self._concerns(name, part)]
        return [Order("extend", part, self._lease_ms, last=False) for part in _parts(named)]

    def carried_out(self, order: Order, settled: Settled, sent_s: float) -> int:
        """The server did so, with a request sent then; what it refused is not ours any more: how many that were."""
        lost = sum(self._held.pop(name, None) is not None for name in settled.refused)
        for name in settled.acked:
            if order.last:
                self._held.pop(name, None)
            elif name in self._held:
                self._held[name].ours_until_s = sent_s + self._lease_ms / 1000
        return lost

    def _concerns(self, name: str, part: str | None) -> bool:
        return not self._is_away(name) if part is None else part_of(name) == part

    def _is_away(self, name: str) -> bool:
        return part_of(name) in self.away

    def _judge(self, name: str, what: str, lease_ms: int) -> None:
        if name in self._held:  # else it was lost meanwhile
            self._held[name].verdict = (what, lease_ms)


def part_of(name: str) -> str:
    """The part of the server in which an event lies, by its id; parts can be away one by one."""
    return name.partition("-")[0]


def _parts(names: list[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(names[at : at + AT_ONCE]) for at in range(0, len(names), AT_ONCE))
