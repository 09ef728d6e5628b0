"""The calls of work queues; the first argument of each is the queue's name. As in `calls`, nothing is sent here."""

from __future__ import annotations

from collections.abc import Iterable

from presence.client.answers import Event, Page, QueueStatus, Row, Settled, build, events_of
from presence.client.calls import Call, Durability, given, nothing, path_of

LEASE_MS = 30_000


def create(
    group: str,
    from_: str = "now",
    *,
    types: Iterable[str] | None = None,
    channels: str | None = None,
    max_deliveries: int | None = None,
    durability: Durability | None = None,
) -> Call[None]:
    """Create the queue, or change what it wants.

    `from_` (`now` or `start`, the oldest event that is known) counts only when it is created; `types` are the events
    that it gets (None: all), `channels` a pattern as in tokens, `max_deliveries` how often one is tried.
    """
    wanted = None if types is None else list(types)
    chosen = given(types=wanted, channels=channels, max_deliveries=max_deliveries, durability=durability)
    body = {"from": from_, **chosen}
    return Call("PUT", path_of("queues", group), nothing, body=body)


def end(group: str) -> Call[None]:
    """End the queue; what waits in it is lost. NotFound where there is none, also if a first attempt ended it."""
    return Call("DELETE", path_of("queues", group), nothing)


def take(
    group: str, consumer: str, count: int = 100, *, wait_ms: int = 0, lease_ms: int = LEASE_MS
) -> Call[list[Event]]:
    """Up to `count` (at most 500) events, this consumer's own for `lease_ms`; if there are none, wait that long."""
    body = {"consumer": consumer, "count": count, "wait_ms": wait_ms, "lease_ms": lease_ms}
    path = path_of("queues", group, "take")
    return Call("POST", path, lambda row: list(events_of(row["events"])), body=body, wait_s=wait_ms / 1000)


def ack(group: str, consumer: str, ids: Iterable[str]) -> Call[Settled]:
    """These are done."""
    return _settle(group, "ack", consumer, ids)


def release(group: str, consumer: str, ids: Iterable[str]) -> Call[Settled]:
    """Give these back, for whoever takes next."""
    return _settle(group, "release", consumer, ids)


def extend(group: str, consumer: str, ids: Iterable[str], *, lease_ms: int = LEASE_MS) -> Call[Settled]:
    """Keep these for `lease_ms` from now."""
    return _settle(group, "extend", consumer, ids, lease_ms)


def status(group: str) -> Call[QueueStatus]:
    """The queue in numbers."""
    path = path_of("queues", group)
    return Call("GET", path, _status)


def dead(group: str, limit: int = 100, after: str | None = None) -> Call[Page[Event]]:
    """A page of the events that were delivered too often."""
    query = {"limit": limit, **given(after=after)}
    path = path_of("queues", group, "dead")
    return Call("GET", path, lambda row: Page(events_of(row["events"]), row.get("next")), query=query)


def requeue(group: str, ids: Iterable[str]) -> Call[Settled]:
    """Try these dead letters once more."""
    path = path_of("queues", group, "dead", "requeue")
    return Call("POST", path, lambda row: _settled(row, "requeued"), body={"ids": list(ids)})


def _status(row: Row) -> QueueStatus:
    types = row.get("types")
    return build(QueueStatus, row, types=None if types is None else tuple(types))


def _settle(group: str, what: str, consumer: str, ids: Iterable[str], lease_ms: int | None = None) -> Call[Settled]:
    body = {"consumer": consumer, "ids": list(ids), **given(lease_ms=lease_ms)}
    path = path_of("queues", group, what)
    return Call("POST", path, lambda row: _settled(row, "acked"), body=body)


def _settled(row: Row, name: str) -> Settled:
    return Settled(tuple(row[name]), tuple(row["refused"]))
