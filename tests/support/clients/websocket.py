"""The client over WebSocket, on the independent library `websockets`."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support import tokens
from tests.support.clients.base import ABNORMAL, WAIT_S, Client, CommandError
from tests.support.clients.rooms import Frame
from tests.support.http import Refused, Response, reset_transport


class WebSocketClient(Client):
    """One WebSocket. `freeze` stops reading, so that not even pings are answered."""

    transport = "websocket"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._replies: dict[int, asyncio.Future[Frame]] = {}

    async def send(self, frame: Frame) -> Frame:
        """Send a command and wait for the frame with its id."""
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._replies[frame["id"]] = reply
        await self.send_text(json.dumps(frame))
        try:
            async with asyncio.timeout(WAIT_S):
                return await reply
        except TimeoutError:
            raise AssertionError(f"no reply to {frame} within {WAIT_S} s for {self!r}") from None

    async def send_text(self, text: str | bytes) -> None:
        """Send one message as it is."""
        assert self.socket is not None, "not connected"
        await self.socket.send(text)

    async def abort(self) -> None:
        """Reset the connection."""
        assert self.socket is not None
        reset_transport(self.socket.transport)
        self._note_closed(ABNORMAL)

    def freeze(self) -> None:
        """Stop reading; pings stay unanswered."""
        assert self.socket is not None
        self.socket.transport.pause_reading()

    def thaw(self) -> None:
        """Read again; pings that waited are answered now."""
        assert self.socket is not None
        if not self.socket.transport.is_closing():
            self.socket.transport.resume_reading()

    async def drop(self) -> None:
        """Reset the connection and end the reader."""
        await self._end_reader()

    async def _open(self) -> None:
        self.socket = await open_socket(self.node.ws_url, {"session": self.session}, tokens.bearer(self.token))
        self._reader = asyncio.create_task(self._watched(partial(self._read_frames, self.socket)))
        before = len(self.frames)
        await self._wait(lambda: self.closed or self.frames[before:] or None, WAIT_S, "a welcome")
        if not self.frames[before:]:
            raise ConnectionResetError(f"closed with {self.closed}")

    async def _reopen(self, resume: bool) -> None:
        await self._end_reader()
        self.closed = None
        await self._open()
        for channel, role in self.roles.items():
            cursor = self.cursor(channel) if resume and channel in self.rooms else None
            await self.join(channel, role, cursor=cursor)

    async def _join(self, command: Frame) -> Frame:
        reply = await self.send({"id": self._next_id(), **command})
        if reply["type"] == "error":
            raise CommandError(reply)
        assert reply["type"] == "joined", reply
        return reply

    async def _close_connection(self) -> None:
        assert self.socket is not None
        await self.socket.close(1001)
        await self._end_reader()

    async def _end_reader(self) -> None:
        if self.socket is not None:
            reset_transport(self.socket.transport)
            await self.socket.wait_closed()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        self.socket = self._reader = None

    async def _read_frames(self, socket: ClientConnection) -> None:
        try:
            while True:
                frame = json.loads(await socket.recv())
                self._take(frame)
                reply = self._replies.pop(frame.get("id"), None)
                if reply is not None and not reply.done():
                    reply.set_result(frame)
        except ConnectionClosed as end:
            self._note_closed(end.rcvd.code if end.rcvd else ABNORMAL)
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(ConnectionResetError(f"closed with {self.closed}"))
            self._replies.clear()


async def open_socket(ws_url: str, query: dict[str, str], headers: dict[str, str], **options: Any) -> ClientConnection:
    """A plain WebSocket; a refused handshake raises Refused."""
    try:
        return await connect(
            f"{ws_url}/v1/ws?{urlencode(query)}",
            additional_headers=headers,
            ping_interval=None,
            compression=None,
            proxy=None,
            close_timeout=1,
            max_queue=None,
            **options,
        )
    except InvalidStatus as refusal:
        answer = refusal.response
        headers = {name.lower(): value for name, value in answer.headers.raw_items()}
        response = Response(answer.status_code, headers, bytes(answer.body or b""))
        code = response.json().get("code") if "json" in headers.get("content-type", "") and response.body else None
        raise Refused(answer.status_code, code, response) from None
