"""What one client, and all of them together, may take: commands a second and connections a node.

Both only count; nothing here waits or runs by itself, so a limit costs no timer per client.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from presence.errors import Unavailable

FULL_RETRY_MS = 5_000


class TokenBucket:
    """Allows ``rate_per_s`` takes a second and ``burst`` at once; a rate of 0 allows everything."""

    __slots__ = ("_burst", "_clock", "_filled_at_s", "_level", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._filled_at_s = clock()

    def take(self) -> bool:
        """Take one and return True, or return False and take nothing."""
        if not self._rate_per_s:
            return True
        self._fill()
        if self._level < 1:
            return False
        self._level -= 1
        return True

    @property
    def retry_ms(self) -> int:
        """Milliseconds until one may be taken again."""
        if not self._rate_per_s:
            return 0
        self._fill()
        return math.ceil(max(0.0, 1 - self._level) / self._rate_per_s * 1000)

    def _fill(self) -> None:
        now_s = self._clock()
        self._level = min(self._burst, self._level + (now_s - self._filled_at_s) * self._rate_per_s)
        self._filled_at_s = now_s


class Admission:
    """Counts the connections of the node; every ``enter`` that returned needs its ``leave``."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self.connections = 0

    def enter(self) -> None:
        """Count one connection, or raise Unavailable when the node is full."""
        if self.connections >= self._max_connections:
            raise Unavailable("this node has all the connections it accepts", retry_ms=FULL_RETRY_MS)
        self.connections += 1

    def leave(self) -> None:
        """Give the place of a connection back."""
        self.connections -= 1
