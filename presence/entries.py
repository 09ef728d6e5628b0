"""Entries of the feed as back ends get them: their ids, and the events that they hold."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_ID = re.compile(r"([0-9]{1,4})-([0-9]{1,15}-[0-9]{1,10})(-r)?")
_FIELDS = ("user", "info", "state", "since", "last_seen", "reason", "generation")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an event is kept: partition, stream (`f` the feed, `a` a queue's own), id in that stream."""

    partition: int
    source: str
    stored: str

    @classmethod
    def parse(cls, text: str, partitions: int) -> Entry | None:
        """The entry that an event's `id` names; None where it is no such id."""
        match = _ID.fullmatch(text)
        if match is None or int(match[1]) >= partitions:
            return None
        return cls(int(match[1]), "a" if match[3] else "f", match[2])

    @classmethod
    def of_script(cls, partition: int, text: bytes) -> Entry:
        """The entry as scripts name it: source and id."""
        return cls(partition, text[:1].decode(), text[1:].decode())

    @property
    def text(self) -> str:
        """The `id` that back ends see."""
        return f"{self.partition}-{self.stored}" + ("-r" if self.source == "a" else "")


def event_of(entry: Entry, fields: list[bytes], deliveries: int | None = None) -> dict[str, Any]:
    """The event with every field, None where its type has none; `deliveries` None: as the entry says."""
    row = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    event: dict[str, Any] = {"id": entry.text, "channel": row["channel"].decode(), "epoch": row["epoch"].decode()}
    event |= {"seq": None, "at": None, "type": None, **dict.fromkeys(_FIELDS)}
    event |= json.loads(row["event"])
    for name in ("generation", "since"):
        if name in row:
            event[name] = int(row[name])
    for name in ("info", "state"):
        if name in row:
            event[name] = json.loads(row[name])
    if "unclaimed" in row:  # nobody set a state, and whether an earlier presence left one was never learnt
        event["state"] = None
    event["deliveries"] = int(row["deliveries"]) if deliveries is None else deliveries
    return event


def age(event: dict[str, Any]) -> tuple[int, str, int]:
    """What events are ordered by: their time, and within a channel their number."""
    return event["at"], event["channel"], event["seq"]
