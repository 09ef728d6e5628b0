"""A WebSocket of which the test decides every byte: whether it answers pings, and how it ends.

The scenarios need clients that are silent without being closed, dozens of them in one process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import struct
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support import tokens
from tests.support.http import reset_transport
from tests.support.node import Node

Frame = dict[str, Any]
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
ABNORMAL = 1006


class Closed(Exception):
    """The connection is over."""


def now_ms() -> float:
    """The clock of this machine, which is Redis's too."""
    return time.time() * 1000


class RawSocket(asyncio.Protocol):
    """One connection. `sent_ms` has the time of every sign of life that left; `asked_ms` that of the handshake."""

    def __init__(self, node: Node, user: str, session: str, token: str) -> None:
        self.node, self.user, self.session = node, user, session
        self.asked_ms = 0.0
        self.welcomed_ms: float | None = None
        self.closed_ms: float | None = None
        self.code: int | None = None  # with which the server closed it, None where the client did
        self.sent_ms: list[float] = []
        self.pongs = True
        self.on_frame: Callable[[Frame], None] = lambda frame: None
        self.on_sent: Callable[[float], None] = lambda sent_ms: None
        self._token = token
        self._buffer = b""
        self._open = False
        self._transport: asyncio.Transport | None = None
        self._welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replies: dict[int, asyncio.Future[Frame]] = {}
        self._last_id = 0

    async def connect(self, within_s: float = 10.0) -> None:
        """Open it and wait for the welcome; raises Closed where the server closes it instead."""
        parts = urlsplit(self.node.url)
        self.asked_ms = now_ms()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, parts.hostname, parts.port)
        target = "/v1/ws?" + urlencode({"session": self.session})
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            **tokens.bearer(self._token),
        }
        head = "".join([f"GET {target} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items())])
        transport.write(head.encode() + b"\r\n")
        async with asyncio.timeout(within_s):
            await self._welcome

    @property
    def is_open(self) -> bool:
        """Whether nobody has ended it."""
        return self.closed_ms is None

    async def ask(self, within_s: float = 10.0, **command: Any) -> Frame:
        """Send a command and wait for the frame with its id; raises Closed."""
        self._last_id += 1
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        if not self.is_open:
            raise Closed(self.code)
        self._replies[self._last_id] = reply
        self._send(TEXT, json.dumps({**command, "id": self._last_id}).encode(), sign=command["type"] != "bye")
        async with asyncio.timeout(within_s):
            return await reply

    def say(self, **command: Any) -> None:
        """Send a command and let nobody wait for the answer."""
        if self.is_open:
            self._send(TEXT, json.dumps(command).encode())

    def close(self) -> None:
        """End it as a browser does whose page is closed: a close frame, then the connection."""
        self._end(lambda transport: (self._send(CLOSE, struct.pack("!H", 1001), sign=False), transport.close()))

    def hang_up(self) -> None:
        """End it without a close frame."""
        self._end(lambda transport: transport.close())

    def reset(self) -> None:
        """End it by RST."""
        self._end(reset_transport)

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._note_end(ABNORMAL)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                self._note_end(ABNORMAL)
                return
            self._open, self._buffer = True, rest
        while (message := self._next()) is not None:
            self._take(*message)

    # ---- below: private ----

    def _next(self) -> tuple[int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        size, at = data[1], 2
        if size == 126:
            at = 4
            size = int.from_bytes(data[2:4], "big")
        elif size == 127:
            at = 10
            size = int.from_bytes(data[2:10], "big")
        if len(data) < at + size:
            return None
        self._buffer = data[at + size :]
        return data[0] & 15, data[at : at + size]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING and self.pongs and self.is_open:
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self._note_end(int.from_bytes(payload[:2], "big") or ABNORMAL)
            if self._transport is not None:
                self._transport.close()
        elif opcode == TEXT:
            frame = json.loads(payload)
            if frame["type"] == "welcome" and not self._welcome.done():
                self.welcomed_ms = now_ms()
                self._welcome.set_result(None)
            if self.is_open:
                self.on_frame(frame)
            reply = self._replies.pop(frame.get("id"), None)
            if reply is not None and not reply.done():
                reply.set_result(frame)

    def _send(self, opcode: int, payload: bytes, sign: bool = True) -> None:
        assert self._transport is not None
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else b""
        head = head or struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        if sign:
            self.sent_ms.append(now_ms())
            self.on_sent(self.sent_ms[-1])
        self._transport.write(head + bytes(4) + payload)  # a mask of zeros leaves the payload as it is

    def _end(self, how: Callable[[asyncio.Transport], object]) -> None:
        if self.is_open and self._transport is not None:
            how(self._transport)
            self._note_end(None)

    def _note_end(self, code: int | None) -> None:
        if self.closed_ms is not None:
            return
        self.closed_ms, self.code = now_ms(), code
        for future in (self._welcome, *self._replies.values()):
            if not future.done():
                future.set_exception(Closed(code))
                future.exception()
        self._replies.clear()
