"""A small HTTP/1.1 client on asyncio streams, and plain `curl`.

Small on purpose: tests must be able to send what a proper client refuses to send, to hold an answer without
reading it, and to end a connection by reset.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Response:
    """A whole answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def problem(self) -> tuple[int, str]:
        """Status and code of an `application/problem+json` answer, after checking its whole shape."""
        assert self.headers.get("content-type", "").startswith("application/problem+json"), self
        body = self.json()
        assert {"status", "title", "code", "detail"} <= body.keys(), body
        assert body["status"] == self.status, self
        return self.status, body["code"]


@dataclass(frozen=True)
class Refused(Exception):
    """The server refused to open a connection: its status, code (None without a problem body) and answer."""

    status: int
    code: str | None
    response: Response


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, as a crashed or unplugged client's kernel does."""
    reset_transport(writer.transport)


def reset_transport(transport: asyncio.BaseTransport) -> None:
    """End a transport's connection by RST."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()  # type: ignore[attr-defined]


class Exchange:
    """One request on a connection of its own, whose answer is read at the caller's pace."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.bodiless = False

    @classmethod
    async def open(
        cls, base_url: str, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Exchange:
        """Connect and send the request; the answer is not awaited."""
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        exchange = cls(reader, writer)
        exchange.bodiless = method == "HEAD"
        lines = {"Host": parts.netloc, "Connection": "close", **headers}
        if body is not None:
            lines.setdefault("Content-Length", str(len(body)))
        head = "".join([f"{method} {target} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n"])
        writer.write(head.encode() + (body or b""))
        return exchange

    async def read_head(self) -> None:
        """Read status line and headers."""
        line = await self.reader.readline()
        if not line:
            raise ConnectionResetError("closed before the answer")
        self.status = int(line.split()[1])
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; ends with it. A body that is cut short raises ConnectionResetError."""
        if self.bodiless or self.status in (204, 304):
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._line()).split(b";")[0], 16):
                yield await self._exactly(size)
                await self._exactly(2)
            return
        if "content-length" in self.headers:
            yield await self._exactly(int(self.headers["content-length"]))
            return
        while piece := await self.reader.read(65536):
            yield piece

    async def whole(self) -> Response:
        """The whole answer; the connection is closed afterwards."""
        try:
            await self.read_head()
            body = b"".join([piece async for piece in self.pieces()])
            return Response(self.status, self.headers, body)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection (FIN)."""
        self.writer.close()

    def reset(self) -> None:
        """End the connection by RST."""
        reset(self.writer)

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line:
            raise ConnectionResetError("the body was cut short")
        return line

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the body was cut short") from error


async def request(
    base_url: str,
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | list[tuple[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    json_body: Any = None,
    body: bytes | None = None,
    within_s: float = 10.0,
) -> Response:
    """One whole exchange. `json_body` is sent as `application/json`; `body` goes out exactly as it is."""
    lines = dict(headers or {})
    if json_body is not None:
        body = json.dumps(json_body).encode()
        lines.setdefault("Content-Type", "application/json")
    target = f"{path}?{urlencode(query)}" if query else path
    if body is None and method in ("POST", "PUT"):
        body = b""
    async with asyncio.timeout(within_s):
        exchange = await Exchange.open(base_url, method, target, lines, body)
        try:
            return await exchange.whole()
        finally:
            exchange.close()


@dataclass(frozen=True)
class SseEvent:
    """One dispatched event of a stream: its data and the id it carried ("" for none)."""

    data: str
    id: str


async def sse_events(exchange: Exchange, on_comment: Any = None) -> AsyncIterator[SseEvent]:
    """The events of an event stream; comments go to `on_comment(text)`."""
    data: list[str] = []
    event_id = ""
    buffer = b""
    async for piece in exchange.pieces():
        *lines, buffer = (buffer + piece).split(b"\n")
        for raw in lines:
            line = raw.decode().removesuffix("\r")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line and data:
                yield SseEvent("\n".join(data), event_id)
                data, event_id = [], ""
            elif line.startswith(":") and on_comment is not None:
                on_comment(value)
            elif field == "data":
                data.append(value)
            elif field == "id":
                event_id = value


def curl(*arguments: str) -> subprocess.Popen[str]:
    """Start plain curl, silent and unbuffered, its output on a pipe. The caller ends it."""
    program = shutil.which("curl")
    assert program, "curl is missing"
    return subprocess.Popen(
        [program, "--silent", "--show-error", "--no-buffer", *arguments], stdout=subprocess.PIPE, text=True
    )
