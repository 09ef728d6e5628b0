"""What a worker of the archive shows: numbers for Prometheus, and its progress to somebody at a terminal."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, start_http_server

from presence.client import AsyncQueue, PresenceError
from presence.logs import get

EACH_S = 5.0
LOG_EACH_S = 30.0
BACKLOG = 1000  # events that wait from which on progress is worth showing

log = get(__name__)


class Numbers:
    """The numbers of one worker."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._rows = Counter("presence_archive_rows_total", "Ended presences committed", registry=registry)
        self._refused = Counter("presence_archive_refused_total", "Rows the database refused", registry=registry)
        self._lag = Gauge(
            "presence_archive_lag_seconds", "Age of the oldest leave that is not archived", registry=registry
        )
        self._waiting = Gauge("presence_archive_backlog", "Leaves that are not archived", registry=registry)
        self._up = Gauge("presence_archive_database_up", "1 while the database takes rows", registry=registry)
        self._up.set(1)
        self.total = 0

    def archived(self, rows: int, newest_ms: int) -> None:
        """A batch is committed."""
        self._rows.inc(rows)
        self.total += rows

    def refused(self, rows: int) -> None:
        """The database refused rows."""
        self._refused.inc(rows)

    def away(self, is_away: bool) -> None:
        """The database is away, or back."""
        self._up.set(0 if is_away else 1)

    def stands(self, waiting: int, oldest_ms: int | None) -> None:
        """How the queue stands."""
        self._waiting.set(waiting)
        self._lag.set((oldest_ms or 0) / 1000)

    def serve(self, host: str, port: int) -> int:
        """Answer `GET /metrics` in a thread; returns the port, which 0 leaves to the system."""
        server, _ = start_http_server(port, host, registry=self.registry)
        return int(server.server_port)


class Progress:
    """Asks every few seconds how the queue stands, and says so: on a terminal in one line, else in the log."""

    def __init__(
        self, queue: AsyncQueue, numbers: Numbers, out: TextIO = sys.stderr, *, each_s: float = EACH_S
    ) -> None:
        self._queue = queue
        self._numbers = numbers
        self._out = out
        self._each_s = each_s
        self._line = False
        self._logged_s = -LOG_EACH_S
        self._was = 0, time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._each_s)
                with suppress(PresenceError):
                    status = await self._queue.status()
                    waiting = status.waiting + status.in_flight
                    self._numbers.stands(waiting, status.oldest_ms)
                    self._show(waiting)
        finally:
            self._end_line()

    def _show(self, waiting: int) -> None:
        total, now_s = self._numbers.total, time.monotonic()
        rate = (total - self._was[0]) / (now_s - self._was[1])
        if self._out.isatty():
            self._was = total, now_s
            if waiting < BACKLOG:
                self._end_line()
                return
            text = progress_text(total, rate, waiting)
            self._out.write(f"\r{text}\x1b[K")
            self._out.flush()
            self._line = True
        elif waiting >= BACKLOG and now_s - self._logged_s >= LOG_EACH_S:
            self._was, self._logged_s = (total, now_s), now_s
            log.info("archiving", rows=total, rows_per_s=round(rate), left=waiting)

    def _end_line(self) -> None:
        if self._line:
            self._out.write("\n")
            self._line = False


def progress_text(total: int, rate: float, left: int) -> str:
    """What somebody at a terminal wants to know, in one line."""
    text = f"{total:,} archived · {rate:,.0f} rows/s · {left:,} left"
    if rate < 1:
        return text
    minutes, seconds = divmod(round(left / rate), 60)
    return f"{text} · about {minutes}:{seconds:02d}"
