"""The ways to change the state, all over the same connections to Redis, and so all with the same durability."""

from __future__ import annotations

from dataclasses import dataclass

from presence.directory import Directory
from presence.inboxes import Inboxes
from presence.keys import Keys
from presence.lanes import Lanes
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.queues import Queues
from presence.settings import Settings
from presence.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Doors:
    """One for each durability."""

    scripts: Scripts
    tracker: Tracker
    directory: Directory
    queues: Queues
    inboxes: Inboxes


def make_doors(
    keys: Keys, settings: Settings, node: str, metrics: Metrics, commands: Lanes, reads: Lanes, work: Lanes
) -> Doors:
    """Doors whose changes travel by `commands`, whose reads over many partitions by `reads`, and by `work` what may
    take Redis longer, so that it delays no join: queues and inboxes."""
    scripts, slower = Scripts(commands), Scripts(work)
    tracker = Tracker(scripts, keys, settings, node, metrics)
    return Doors(
        scripts=scripts,
        tracker=tracker,
        directory=Directory(reads, keys, tracker),
        queues=Queues(slower, keys, metrics, whole=work is commands),
        inboxes=Inboxes(slower, keys, settings),
    )
