"""A receiver of webhooks: a real server that takes them, or misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections import deque
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook

from tests.support.clients import Frame

SECRET, OLD_SECRET = (f"whsec_{b64encode(letter * 32).decode()}" for letter in (b"n", b"o"))
TAKEN = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Call:
    """One POST as it came; header names in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Its webhook-id."""
        return self.headers["webhook-id"]

    @property
    def data(self) -> Frame:
        """Cursor and events."""
        return dict(json.loads(self.body)["data"])

    @property
    def events(self) -> list[Frame]:
        """The events of the batch."""
        return list(self.data["events"])

    def verify(self, secret: str) -> Any:
        """Check the signature with the library of the standard; raises if it is wrong."""
        return Webhook(secret).verify(self.body, self.headers)


def answer(status: int, *lines: str, body: bytes = b"") -> bytes:
    """An answer, written out."""
    head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body)}", "Connection: close"))
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


class Receiver:
    """Answers 204, unless `answers` has something else for the next call: bytes to write, None to close without an
    answer, or an event to wait for before the 204."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.calls: list[Call] = []
        self.answers: deque[bytes | asyncio.Event | None] = deque()
        self.always: bytes = TAKEN
        self._host = host
        self._context = context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._context, limit=1 << 21)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def events(self) -> list[Frame]:
        """All events of all calls, repeated ones too."""
        return [event for call in self.calls for event in call.events]

    @property
    def fresh(self) -> list[Frame]:
        """Each event as it came first."""
        return list({event["id"]: event for event in reversed(self.events)}.values())[::-1]

    def seen(self, field: str) -> list[Any]:
        """A field of each event."""
        return [event[field] for event in self.events]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.calls.append(Call(first.split(" ")[1], headers, body))
            reply = self.answers.popleft() if self.answers else self.always
            if isinstance(reply, asyncio.Event):
                await reply.wait()
                reply = TAKEN
            if reply is not None:
                writer.write(reply)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side went away
        finally:
            writer.close()
