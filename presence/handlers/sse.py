"""Server-sent events: the wire of a stream. The request that starts one is answered in longpoll.py.

Before changing it: EventSource comes back by itself with the last `id:` it has seen, so every frame that
moves the stream on carries one, and the last words of a stream do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tornado.httputil import format_timestamp

from presence import codec
from presence.errors import CloseCode
from presence.handlers.pipe import SHUT
from presence.handlers.wire import Wire
from presence.mailbox import Frame

if TYPE_CHECKING:
    from presence.session import Session

COMMENT = b": \n\n"
COMMENT_S = 10.0  # promised is one in 15 s; proxies cut what is silent for longer than they like


def stream_head(headers: Mapping[str, str]) -> bytes:
    """The head of the response; `headers` are what the handler adds (CORS)."""
    lines = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would else collect events until its buffer is full
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        "Date": format_timestamp(time.time()),
        **headers,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 200 OK\r\n{text}\r\n".encode("latin-1")


class SseWire(Wire):
    """Frames out, nothing in: what a client sends after its request is read and thrown away."""

    transport = "sse"

    __slots__ = ()

    def interval_s(self, session: Session) -> float:
        return COMMENT_S

    def tick(self, session: Session) -> None:
        self.send_control(COMMENT)
        self.move_tick(COMMENT_S)

    def encode(self, frames: list[Frame]) -> bytes:
        session = self.session
        if session is None:
            return b""
        return b"".join([b"id: %b\ndata: %b\n\n" % (session.next_for(frame).encode(), frame.json) for frame in frames])

    def received(self, data: bytes) -> None:
        """Nothing: only the end of input means something here."""

    def farewell(self, code: CloseCode, message: str) -> None:
        text = codec.compact({"type": "close", "code": int(code), "message": message})
        self.part(f"data: {text}\n\n".encode(), SHUT)
