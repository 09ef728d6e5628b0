"""The client over long polls: one waiting request after the other, commands by POST."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support import tokens
from tests.support.clients.base import ABNORMAL
from tests.support.clients.http_client import HttpClient
from tests.support.clients.rooms import Frame
from tests.support.http import Exchange, Response

WAIT_PARAMETER_S = 20  # the server clamps it to two thirds of the ttl
RETRY_S = 0.2
PARKED_S = 0.15  # without an answer for so long, a poll is surely waiting


class LongPollClient(HttpClient):
    """A loop of polls. `close` sends the `bye` of a page that goes; `abort` just never polls again."""

    transport = "longpoll"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unavailable = 0
        self.exchange: Exchange | None = None
        self._poller: asyncio.Task[None] | None = None
        self._living = asyncio.Event()
        self._living.set()

    async def abort(self) -> None:
        """Reset the waiting poll; no further one comes."""
        if self.exchange is not None:
            self.exchange.reset()
        await self._end_connection()
        self._note_closed(ABNORMAL)

    async def parked(self) -> None:
        """Wait until a poll hangs at the server: it was sent and is not answered for a while."""
        while (exchange := self.exchange) is None or await self._is_answered(exchange):
            await asyncio.sleep(0.01)

    async def leave(self, channel: str) -> Frame:
        """Leave by command; there is nothing to poll for without a channel."""
        reply = await super().leave(channel)
        if not self.channels:
            await self._end_connection()
        return reply

    def freeze(self) -> None:
        """Answered or not, no new poll is sent."""
        self._living.clear()

    def thaw(self) -> None:
        """Poll again."""
        self._living.set()

    async def drop(self) -> None:
        """End the loop."""
        await self._end_connection()

    async def _reopen(self, resume: bool) -> None:
        """Poll on: a poll that has a position waits for the next event, so there is no answer to wait for."""
        if not resume:
            return await super()._reopen(resume)
        await self._end_connection()
        self.closed = None
        await self._begin(by_header=False)
        return None

    async def _begin(self, by_header: bool) -> None:
        self._poller = asyncio.create_task(self._watched(self._poll_forever))

    async def _close_connection(self) -> None:
        await self._end_connection()
        await self.bye()

    async def _end_connection(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)

    async def _poll_forever(self) -> None:
        while self.closed is None:
            await self._living.wait()
            response = await self._poll()
            if response.status == 503:
                self.unavailable += 1
                await asyncio.sleep(RETRY_S)
            elif response.status != 200:
                self._take_refusal(response)
            else:
                self._take_answer(response.json())
                await asyncio.sleep(RETRY_S if self._is_refused(response.json()) else 0)

    async def _poll(self) -> Response:
        more: dict[str, Any] = {"wait": WAIT_PARAMETER_S}
        if self.next:
            more["since"] = self.next
        self.exchange = await Exchange.open(self.node.url, "GET", self._query(**more), tokens.bearer(self.token))
        try:
            return await self.exchange.whole()
        finally:
            self.exchange.close()
            self.exchange = None

    async def _is_answered(self, exchange: Exchange) -> bool:
        await asyncio.sleep(PARKED_S)
        return exchange is not self.exchange

    def _take_answer(self, answer: dict[str, Any]) -> None:
        assert answer["session"] == self.session, answer
        for frame in answer["frames"]:
            self._take(frame)
        self.next = answer["next"]

    def _is_refused(self, answer: dict[str, Any]) -> bool:
        """Nothing but errors: to ask again at once would be to ask in a circle."""
        return bool(answer["frames"]) and all(frame["type"] == "error" for frame in answer["frames"])
