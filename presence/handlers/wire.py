"""One client's socket after it has left Tornado's HTTP stack: reads, drains a Mailbox, ends in bounded time.

Before changing it: there may be ten thousand of these, mostly idle, so a wire holds no task, future, timer or
buffer while nothing happens, and it registers with the loop once. Everything here runs in the loop and never
waits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from asyncio import Future
from typing import TYPE_CHECKING, ClassVar, cast

from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from presence import logs
from presence.errors import CloseCode
from presence.handlers.pipe import AWAIT_PEER, CLOSED, ENDING, HANG_UP, OPEN, OPENING, READ_BYTES, SHUT, Pipe
from presence.mailbox import Frame, Mailbox

if TYPE_CHECKING:
    from presence.services import Services
    from presence.session import Session

AHEAD_BYTES = 4 * READ_BYTES  # more than Tornado reads beyond the end of a request's head
END_S = 1.0  # for the last bytes and the client's answer, once the server has decided to close
SLOW_END_S = 5.0  # a client too slow to read may still want to read why
SAMPLE = 32  # the delivery time of every 32nd write of a frame is observed, beginning with the first

log = logs.get(__name__)


def detach(handler: RequestHandler) -> tuple[socket.socket, bytes] | None:
    """Take the connection away from Tornado: its socket, and the bytes that came after the request and were
    already read into the stream's buffer. None when the client is gone. Not for TLS in this process.

    Only public calls: a partial read is done at once exactly if there are such bytes (else nothing is lost:
    it also looked into the kernel, and what arrives later stays there). Closing the stream closes its
    descriptor, the connection lives on in the duplicate.
    """
    stream = handler.detach()
    handler.ui = None  # type: ignore[assignment]  # breaks the handler's reference cycle
    try:
        ahead = cast("Future[bytes]", stream.read_bytes(AHEAD_BYTES, partial=True))
        if stream.closed() and not ahead.done():
            return None
        data = ahead.result() if ahead.done() else b""
        if stream.closed():
            return None
        old = stream.socket
        sock = socket.socket(old.family, old.type, old.proto, fileno=os.dup(old.fileno()))
    except (StreamClosedError, OSError):
        return None
    finally:
        stream.close()
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, data


class Wire(Pipe):
    """What all detached connections share; a transport adds its encoding, its farewell and what it does with
    input.

    With a session it also holds one admission, which the handler entered, and gives it back when the socket
    closes. Without one (the handshake already failed) its mailbox must be closed: it only says goodbye.
    """

    transport: ClassVar[str]

    __slots__ = (
        "_ended",
        "_entry",
        "_holding",
        "heard_s",
        "mailbox",
        "services",
        "session",
    )

    def __init__(self, services: Services, sock: socket.socket, session: Session | None, mailbox: Mailbox) -> None:
        super().__init__(sock)
        self.services = services
        self.session = session
        self.mailbox = mailbox
        self.heard_s = services.wheel.awake_s
        self._holding = False  # input is being worked off: replies are collected and go out together
        self._ended = session is None
        self._entry = services.wheel.add(END_S, self._on_tick)

    def start(self, head: bytes, ahead: bytes = b"") -> None:
        """Send the head of the response with the first frames, then treat `ahead` as the first input."""
        self._state = OPEN
        IOLoop.current().add_handler(self._sock.fileno(), self._on_event, IOLoop.READ)
        self.mailbox.wake = self._wake
        if self.session is not None:
            self.session.backlog.resume = self._resume
            self.services.wheel.move(self._entry, self.interval_s(self.session))
        self._drain(head)
        if ahead and self._state != CLOSED:
            self._take_in(ahead)

    # ---- what a transport defines ----

    def interval_s(self, session: Session) -> float:
        """How long after its start the wire wants its first tick."""
        raise NotImplementedError

    def tick(self, session: Session) -> None:
        """The wheel came round; the transport moves its entry on."""
        raise NotImplementedError

    def encode(self, frames: list[Frame]) -> bytes:
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Input of the client, also after the end was decided; b"" when work on earlier input may go on."""
        raise NotImplementedError

    def farewell(self, code: CloseCode, message: str) -> None:
        """Write the transport's last words by `part`."""
        raise NotImplementedError

    def placed(self, session: Session) -> None:
        """A frame told where the session is in a channel: its times may have changed. It passes here anyway,
        so nobody has to tell the wire."""

    def flushed(self) -> None:
        """A remainder has gone out: say what could not be said meanwhile."""

    # ---- what a transport uses ----

    def move_tick(self, delay_s: float) -> None:
        self.services.wheel.move(self._entry, delay_s)

    def resume_soon(self) -> None:
        IOLoop.current().add_callback(self._resume)

    def drain(self) -> None:
        """Send what is queued although input is still being worked off."""
        if self._unsent is None and self._state != CLOSED:
            self._drain()

    def part(self, data: bytes, then: int, *, by_client: bool = False) -> None:
        """Write the last bytes; `then` is what follows them. The session ends now."""
        if self._state in (OPEN, ENDING):
            self._state = then
            self._end_session(by_client)
            self._resume_reading()
            self.services.wheel.move(self._entry, END_S)
            if self._unsent is not None:
                self._unsent = memoryview(bytes(self._unsent) + data)
                return
            self._send(data)
            if self._unsent is None:
                self._parted()

    def peer_done(self) -> None:
        """The client has said its last word too: hang up as soon as ours is written."""
        if self._state == AWAIT_PEER:
            self._state = HANG_UP
            if self._unsent is None:
                self._parted()

    def close(self) -> None:
        """Close the socket now and let go of everything."""
        if self._state == CLOSED:
            return
        if self._state != OPENING:
            IOLoop.current().remove_handler(self._sock.fileno())
        self._state = CLOSED
        self._end_session(by_client=False)
        self._sock.close()
        self._unsent = None
        self._entry.cancel()
        self.mailbox.drop()
        if self.session is not None:
            self.services.admission.leave()

    # ---- output ----

    def _wake(self) -> None:
        if self.mailbox.closing is not None and self._state == OPEN:
            self._begin_end(self.mailbox.closing[0])
        if self._unsent is None and not self._holding:
            self._drain()

    def _drain(self, head: bytes = b"") -> None:
        mailbox = self.mailbox
        while self._unsent is None and self._state in (OPEN, ENDING):
            frames = mailbox.take()
            if not frames:
                break
            self._send(head + self.encode(frames))
            head = b""
            self._count(frames)
        if head:
            self._send(head)
        if mailbox.closing is None:
            return
        if self._state == OPEN:
            self._begin_end(mailbox.closing[0])
        if self._state == ENDING and self._unsent is None:
            self.farewell(*mailbox.closing)

    def _all_sent(self) -> None:
        self.flushed()
        if self._unsent is None:
            self._drain()
        if self._state != CLOSED and self._unsent is None:
            self._watch()
            self._parted()

    def _parted(self) -> None:
        """Everything is written: do what the state asks for."""
        if self._state == HANG_UP:
            self.close()
        elif self._state == SHUT:
            # Not closed yet: with unread input that would reset the connection and might lose the last words.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _count(self, frames: list[Frame]) -> None:
        placed = False
        for frame in frames:
            if frame.at_ms:
                if not frame.writes % SAMPLE:
                    self.services.metrics.delivery.observe(max(0.0, time.time() - frame.at_ms / 1000))
                frame.writes += 1
            elif frame.channel is not None:
                placed = True
        if placed and self.session is not None and self._state == OPEN:
            self.placed(self.session)

    # ---- input ----

    def _take_in(self, data: bytes) -> None:
        self.heard_s = self.services.wheel.awake_s
        self._holding = True
        try:
            self.received(data)
        except Exception as error:  # a fault here must end this connection only; its text may quote the client
            log.error("input_failed", transport=self.transport, error=type(error).__name__)
            self.mailbox.close(CloseCode.UNAVAILABLE, "internal error")
        finally:
            self._holding = False
        self.drain()

    def _resume(self) -> None:
        if not self._paused or self._state == CLOSED:
            return
        self._paused = False
        self._take_in(b"")
        self._resume_reading()

    def _resume_reading(self) -> None:
        if self._state >= ENDING:
            self._paused = False  # what comes now is only looked through for the client's own end
        if not self._paused and self._state != CLOSED:
            self._watch()

    # ---- the end ----

    def _begin_end(self, code: CloseCode) -> None:
        self._state = ENDING
        if code == CloseCode.TOO_SLOW and not self._ended:
            self.services.metrics.slow_clients.inc()
        self._end_session(by_client=False)
        self._resume_reading()
        self.services.wheel.move(self._entry, SLOW_END_S if code == CloseCode.TOO_SLOW else END_S)

    def _end_session(self, by_client: bool) -> None:
        if self._ended or self.session is None:
            return
        self._ended = True
        self.session.backlog.resume = None
        self.services.start(self.session.end(by_client))

    def _lost(self, error: OSError | None) -> None:
        """End of input, or an error. Grace begins only where the client's side closed or reset the
        connection: a network that died is no sign that the user went away."""
        by_client = error is None or isinstance(error, ConnectionError)
        self._end_session(by_client)
        self.close()

    def _on_tick(self) -> None:
        if self._state == OPEN and self.session is not None:
            self.tick(self.session)
        else:
            self.close()
