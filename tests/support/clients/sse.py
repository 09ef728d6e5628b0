"""The client over server-sent events: a stream, commands by POST, and a beat, because a stream shows no life."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from typing import Any

from tests.support import tokens
from tests.support.clients.base import ABNORMAL
from tests.support.clients.http_client import HttpClient
from tests.support.http import Exchange, Response, sse_events


class SseClient(HttpClient):
    """One event stream, with a beat every third of the ttl."""

    transport = "sse"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.comments: list[str] = []
        self.exchange: Exchange | None = None
        self._reader: asyncio.Task[None] | None = None
        self._beater: asyncio.Task[None] | None = None

    async def abort(self) -> None:
        """Reset the stream."""
        assert self.exchange is not None
        self._stop_beating()
        self.exchange.reset()
        self._note_closed(ABNORMAL)

    def freeze(self) -> None:
        """Hold the stream without reading and without beats."""
        assert self.exchange is not None
        self._stop_beating()
        self.exchange.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def thaw(self) -> None:
        """Read and beat again."""
        assert self.exchange is not None
        if not self.exchange.writer.transport.is_closing():
            self.exchange.writer.transport.resume_reading()  # type: ignore[attr-defined]
        self._start_beating()

    async def drop(self) -> None:
        """End everything at once."""
        self._stop_beating()
        await self._end_connection()

    async def _begin(self, by_header: bool) -> None:
        headers = {**tokens.bearer(self.token), "Accept": "text/event-stream"}
        more = {}
        if self.next and by_header:
            headers["Last-Event-ID"] = self.next
        elif self.next:
            more["since"] = self.next
        self.exchange = await Exchange.open(self.node.url, "GET", self._query(**more), headers)
        self._reader = asyncio.create_task(self._watched(partial(self._read, self.exchange)))
        self._start_beating()

    async def _read(self, exchange: Exchange) -> None:
        try:
            await exchange.read_head()
            if exchange.status != 200:
                body = b"".join([piece async for piece in exchange.pieces()])
                self._take_refusal(Response(exchange.status, exchange.headers, body))
                return
            assert exchange.headers["content-type"].startswith("text/event-stream"), exchange.headers
            async for event in sse_events(exchange, self.comments.append):
                self._take(json.loads(event.data))
                self.next = event.id or self.next
            self._note_closed(ABNORMAL)
        finally:
            exchange.close()

    async def _close_connection(self) -> None:
        self._stop_beating()
        await self._end_connection()

    async def _end_connection(self) -> None:
        exchange, reader = self.exchange, self._reader
        self.exchange = self._reader = None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if exchange is not None:
            exchange.close()

    def _start_beating(self) -> None:
        if self.beats and self._beater is None:
            self._beater = asyncio.create_task(self._watched(self._beat_forever))

    def _stop_beating(self) -> None:
        if self._beater is not None:
            self._beater.cancel()
        self._beater = None

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self.ttl_ms / 3000)
            if self.closed is None:
                # A node or Redis that is away is what some tests are about: the next beat comes anyway.
                with contextlib.suppress(OSError, TimeoutError):
                    await self.send({"type": "beat", "id": self._next_id()})
