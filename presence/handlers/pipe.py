"""A detached socket on the loop: what the kernel does not take at once is kept, and nothing more.

Before changing it: while bytes are unsent nothing is taken from the mailbox, so the mailbox's bound is the bound of
what a slow client costs, plus one batch. Input is handed on as it comes: idle connections hold no buffer.
"""

from __future__ import annotations

import socket

from tornado.ioloop import IOLoop

READ_BYTES = 64 << 10

# Life of a wire. ENDING: the end is decided, frames may still be queued. The last three: the last byte is
# written or unsent, and then the client's answer is awaited, or our half is shut, or the socket is closed.
OPENING, OPEN, ENDING, AWAIT_PEER, SHUT, HANG_UP, CLOSED = range(7)


class Pipe:
    """A non-blocking socket on the loop, its unsent remainder and what it is watched for."""

    __slots__ = ("_paused", "_sock", "_state", "_unsent")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._state = OPENING
        self._unsent: memoryview | None = None
        self._paused = False

    @property
    def is_open(self) -> bool:
        return self._state == OPEN

    @property
    def is_paused(self) -> bool:
        return self._paused

    def send_control(self, data: bytes) -> bool:
        """Write these bytes now; False, and nothing done, when earlier ones are still unsent."""
        if self._unsent is not None or self._state not in (OPEN, ENDING):
            return False
        self._send(data)
        return True

    def pause(self) -> None:
        """Read no more until the session (or the next turn of the loop) resumes."""
        self._paused = True
        self._watch()

    def _lost(self, error: OSError | None) -> None:
        """The connection is gone: end of input, or an error."""
        raise NotImplementedError

    def _take_in(self, data: bytes) -> None:
        """Input has come."""
        raise NotImplementedError

    def _all_sent(self) -> None:
        """The remainder has gone out."""
        raise NotImplementedError

    def _send(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._watch()

    def _flush(self, unsent: memoryview) -> None:
        try:
            sent = self._sock.send(unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if sent < len(unsent):
            self._unsent = unsent[sent:]
            return
        self._unsent = None
        self._all_sent()

    def _watch(self) -> None:
        if self._state == CLOSED:
            return
        interest = 0 if self._paused else IOLoop.READ
        if self._unsent is not None:
            interest |= IOLoop.WRITE
        IOLoop.current().update_handler(self._sock.fileno(), interest)

    def _on_event(self, fd: int, events: int) -> None:
        if events & IOLoop.WRITE and self._unsent is not None:
            self._flush(self._unsent)
        if events & IOLoop.READ and self._state != CLOSED and not self._paused:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not data:
            self._lost(None)
            return
        self._take_in(data)
