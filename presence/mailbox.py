"""What waits to be written to one connection: encoded frames, bounded in number and in bytes.

Before changing it: ten thousand idle connections hold one Mailbox each, so it owns no queue while nothing
waits, and a Frame is shared by every mailbox of a channel, so nothing in it may depend on who receives it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable

from presence.errors import CloseCode

MAX_FRAMES = 256
MAX_BYTES = 1 << 20
BATCH_BYTES = 64 << 10  # one send; also the most that a slow client's unsent remainder grows to, plus one frame

GONE = (CloseCode.UNAVAILABLE, "connection lost")


class Frame:
    """One JSON object on its way to clients; `channel`, `epoch`, `seq` tell how far a stream has got with it.

    `at_ms` is the time of its first event by Redis's clock, 0 for a frame that is not about an event.
    `writes` counts the sockets it was given to: delivery times are sampled by it.
    """

    __slots__ = ("_ws", "at_ms", "channel", "epoch", "json", "seq", "writes")

    def __init__(
        self, json: bytes, *, channel: str | None = None, epoch: str = "", seq: int = 0, at_ms: int = 0
    ) -> None:
        self.json = json
        self.channel = channel
        self.epoch = epoch
        self.seq = seq
        self.at_ms = at_ms
        self.writes = 0
        self._ws: bytes | None = None

    @property
    def ws(self) -> bytes:
        """The frame as one unmasked WebSocket text frame: built once, the same bytes for every socket."""
        if self._ws is None:
            self._ws = websocket_frame(self.json)
        return self._ws


class Mailbox:
    """Bounded queue of one connection. `wake` is called when there is something to do where there was
    nothing."""

    __slots__ = ("_bytes", "_max_bytes", "_max_frames", "_queue", "closing", "on_overflow", "wake")

    def __init__(
        self,
        wake: Callable[[], None] | None = None,
        max_frames: int = MAX_FRAMES,
        max_bytes: int = MAX_BYTES,
        on_overflow: Callable[[], None] | None = None,
    ) -> None:
        self.wake = wake
        self.on_overflow = on_overflow
        self.closing: tuple[CloseCode, str] | None = None
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._queue: deque[Frame] | None = None
        self._bytes = 0

    def __len__(self) -> int:
        return 0 if self._queue is None else len(self._queue)

    @property
    def half_full(self) -> bool:
        """Whether who writes on request should wait: only what nobody asked for may fill a mailbox."""
        return self._bytes > self._max_bytes // 2 or len(self) > self._max_frames // 2

    def put(self, frame: Frame) -> None:
        """Queue the frame. One more than the bound holds: everything is dropped and the connection closed,
        because a hole in a stream is worse than its end, from which a client comes back with its cursor."""
        if self.closing is not None:
            return
        queue = self._queue
        if queue is None:
            self._queue = deque((frame,))
            self._bytes = len(frame.json)
            self._wake()
            return
        self._bytes += len(frame.json)
        if len(queue) >= self._max_frames or self._bytes > self._max_bytes:
            self._overflow()
            return
        queue.append(frame)

    def take(self, max_bytes: int = BATCH_BYTES) -> list[Frame]:
        """The next frames, in order: up to `max_bytes` of them, but at least one when one is there."""
        queue = self._queue
        if queue is None:
            return []
        if self._bytes <= max_bytes or len(queue) == 1:
            self._queue = None
            self._bytes = 0
            return list(queue)
        frames = [queue.popleft()]
        size = len(frames[0].json)
        while queue and size + len(queue[0].json) <= max_bytes:
            frames.append(queue.popleft())
            size += len(frames[-1].json)
        self._bytes -= size
        if not queue:
            self._queue = None
        return frames

    def close(self, code: CloseCode, message: str) -> None:
        """End the connection after what is queued; later frames are ignored, and so is a second close."""
        if self.closing is not None:
            return
        self.closing = (code, message)
        self._wake()

    def drop(self) -> None:
        """The connection is gone: forget what is queued and ignore what still comes, without waking
        anybody."""
        self.wake = None
        self._queue = None
        self._bytes = 0
        self.closing = self.closing or GONE

    def _overflow(self) -> None:
        self._queue = None
        self._bytes = 0
        if self.on_overflow is not None:
            self.on_overflow()
        self.close(CloseCode.TOO_SLOW, "too many frames unread")

    def _wake(self) -> None:
        if self.wake is not None:
            self.wake()


def websocket_frame(payload: bytes, opcode: int = 1) -> bytes:
    """One final, unmasked frame (RFC 6455, section 5.2)."""
    first, size = 0x80 | opcode, len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
