"""RFC 6455 frames of clients, without any socket: bytes in, messages out.

Before changing it: the tests split its input at every byte, because a network does.
"""

from __future__ import annotations

from tornado.util import _websocket_mask  # the C routine with which Tornado itself unmasks frames

from presence.mailbox import websocket_frame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_MESSAGE_BYTES = 64 << 10
MAX_CONTROL_BYTES = 125


class ProtocolError(Exception):
    """The client broke RFC 6455; `code` is the close code to tell it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Parser:
    """Client frames out of a byte stream, however it is cut: `feed` bytes, then call `next` until it gives
    None.

    It holds at most one incomplete message and what was fed beyond it. After a ProtocolError it is of no more
    use.
    """

    __slots__ = ("_at", "_data", "_message", "_opcode")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._opcode = 0
        self._message: bytearray | None = None  # fragments so far

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0

    def next(self) -> tuple[int, bytes] | None:
        """The next whole message or control frame as (opcode, payload)."""
        while (frame := self._frame()) is not None:
            first, payload = frame
            opcode = first & 15
            if first & 0x80 and opcode:
                return opcode, payload
            if (message := self._join(first, opcode, payload)) is not None:
                return message
        return None

    def _frame(self) -> tuple[int, bytes] | None:
        data, at = self._data, self._at
        left = len(data) - at
        if left < 2:
            return None
        first, second = data[at], data[at + 1]
        self._check(first, second)
        size, body = second & 127, at + 2
        if size == 126:
            if left < 4:
                return None
            body += 2
            size = int.from_bytes(data[body - 2 : body])
        elif size == 127:
            if left < 10:
                return None
            body += 8
            size = int.from_bytes(data[body - 8 : body])
        if size + (len(self._message) if self._message and not first & 8 else 0) > MAX_MESSAGE_BYTES:
            raise ProtocolError(1009, f"a message is at most {MAX_MESSAGE_BYTES} bytes")
        end = body + 4 + size
        if len(data) < end:
            return None
        if end == len(data):
            self._data, self._at = b"", 0
        else:
            self._at = end
        return first, _websocket_mask(data[body : body + 4], data[body + 4 : end])

    def _check(self, first: int, second: int) -> None:
        opcode = first & 15
        if first & 0x70:
            raise ProtocolError(1002, "reserved bits are set")
        if not second & 0x80:
            raise ProtocolError(1002, "client frames must be masked")
        if opcode >= 8:
            if opcode > PONG:
                raise ProtocolError(1002, "unknown opcode")
            if not first & 0x80 or second & 127 > MAX_CONTROL_BYTES:
                raise ProtocolError(1002, "a control frame is whole and at most 125 bytes")
        elif opcode > BINARY:
            raise ProtocolError(1002, "unknown opcode")
        elif (opcode == CONTINUATION) == (self._message is None):
            raise ProtocolError(1002, "fragments out of order")

    def _join(self, first: int, opcode: int, payload: bytes) -> tuple[int, bytes] | None:
        if self._message is None:
            self._opcode, self._message = opcode, bytearray(payload)
            return None
        self._message += payload
        if not first & 0x80:
            return None
        message = bytes(self._message)
        self._message = None
        return self._opcode, message


def close_frame(code: int, message: str) -> bytes:
    """A close frame; the message is cut to what a control frame holds, at a character's edge."""
    reason = message.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return websocket_frame(code.to_bytes(2) + reason, CLOSE)


def close_reply(payload: bytes) -> bytes:
    """The answer to a client's close frame: its code again, unless it is no code that may be sent."""
    if not payload:
        return websocket_frame(b"", CLOSE)
    code = int.from_bytes(payload[:2])
    known = 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return close_frame(1007, "the reason is not UTF-8")
    if len(payload) < 2 or not known:
        return close_frame(1002, "no such close code")
    return websocket_frame(payload[:2], CLOSE)
