"""What every script that announces is told first: how long history lasts, how long the feed is, which bus it is."""

from __future__ import annotations

from presence.keys import Keys
from presence.settings import Settings


def announcing(settings: Settings, keys: Keys, partition: int) -> tuple[int, str, str]:
    """The first arguments of every script that announces."""
    return settings.history_ms, f"{feed_kept(settings, keys)} {settings.feed_max}", keys.telling(partition)


def feed_kept(settings: Settings, keys: Keys) -> int:
    """Events that a partition's feed keeps in any case."""
    return max(100, settings.feed_keep // keys.partitions)
