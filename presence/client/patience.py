"""When a call goes again, and after how long: what both clients and the workers do by."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from presence.client.calls import Call
from presence.client.errors import PresenceError, Unreachable

LONGEST_PAUSE_S = 60.0  # of a worker, whatever a server asks for


@dataclass(frozen=True, slots=True)
class Patience:
    """At most `retries` further attempts, none of which begins later than `within_s` after the first.

    Before the n-th one the client waits up to `first_s` * 2^(n-1), at most `longest_s`, by chance (so that many clients
    do not come at once), and what the server asks for besides.
    """

    retries: int = 5
    within_s: float = 30.0
    first_s: float = 0.1
    longest_s: float = 5.0

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """How long to wait after that many failures in a row."""
        most = min(self.longest_s, self.first_s * 2 ** min(failures - 1, 30))
        return (retry_after_s or 0.0) + random.uniform(0, most)


def away_pause_s(failures: int, retry_after_s: float | None) -> float:
    """How long a worker waits before it asks a server again that was away so many times in a row."""
    return min(_AWAY.pause_s(failures, retry_after_s), LONGEST_PAUSE_S)


_AWAY = Patience(first_s=0.2, longest_s=10.0)


class Attempts:
    """The attempts at one call."""

    def __init__(self, call: Call[Any], patience: Patience) -> None:
        self._call = call
        self._patience = patience
        self._failures = 0
        self._ends_s = time.monotonic() + patience.within_s

    def pause_s(self, failure: PresenceError) -> float:
        """How long to wait before the next attempt; raises the failure where there is to be none."""
        self._failures += 1
        if self._failures > self._patience.retries or not self._may_go_again(failure):
            raise failure
        pause_s = self._patience.pause_s(self._failures, failure.retry_after_s)
        if time.monotonic() + pause_s > self._ends_s:
            raise failure
        return pause_s

    def _may_go_again(self, failure: PresenceError) -> bool:
        if isinstance(failure, Unreachable) and not failure.sent:
            return True
        return failure.passes and self._call.repeatable
