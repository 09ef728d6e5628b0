"""What every script that announces is told first: how long history lasts, how long the feed is, which bus it is."""

from __future__ import annotations

from presence.keys import Keys
from presence.settings import Settings

FEED_EVENTS = 10_000  # kept for back ends in any case, over all partitions


def announcing(settings: Settings, keys: Keys, partition: int) -> tuple[int, str, str]:
    """The first arguments of every script that announces."""
    return settings.history_ms, f"{feed_kept(keys)} {settings.feed_max}", keys.telling(partition)


def feed_kept(keys: Keys) -> int:
    """Events that a partition's feed keeps in any case."""
    return max(100, FEED_EVENTS // keys.partitions)
