"""WebSocket transport: the handshake, what messages mean, pings and silence.

Before changing it: per idle connection there is only the wire, its parser and one entry on the wheel.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import socket
from typing import TYPE_CHECKING

from presence import codec, logs
from presence.answers import Replaced
from presence.errors import BadRequest, CloseCode, PresenceError, Unauthorized
from presence.handlers.base import ClientHandler
from presence.handlers.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Parser,
    ProtocolError,
    close_frame,
    close_reply,
)
from presence.handlers.pipe import AWAIT_PEER, HANG_UP, SHUT
from presence.handlers.wire import Wire, detach
from presence.mailbox import Frame, Mailbox, websocket_frame
from presence.session import open_session

if TYPE_CHECKING:
    from presence.services import Services
    from presence.session import Session

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MESSAGES_PER_TURN = 64  # then the other connections have their turn
REPLIES_PER_SEND = 64  # well below the mailbox's bound: who sends many commands at once is not therefore too slow
SECOND_LOOK_S = 0.1
PING_FRAME = websocket_frame(b"", PING)

log = logs.get(__name__)


class UpgradeRequired(BadRequest):
    status = 426
    title = "Upgrade required"


class WebSocketWire(Wire):
    """A text message is a command; so is a binary one, whose bytes must be the same JSON. Text that is not
    UTF-8 is answered as `bad_json` by the session, as on every transport, instead of closing with 1007."""

    transport = "websocket"

    __slots__ = ("_parser", "_ping_s", "_pong", "_suspect")

    def __init__(self, services: Services, sock: socket.socket, session: Session | None, mailbox: Mailbox) -> None:
        super().__init__(services, sock, session, mailbox)
        self._parser: Parser | None = Parser()
        self._pong: bytes | None = None
        self._ping_s = 0.0
        self._suspect = False

    def interval_s(self, session: Session) -> float:
        self._ping_s = session.ping_every_s
        return self._ping_s

    def tick(self, session: Session) -> None:
        left_s = session.silent_after_s - (self.services.wheel.awake_s - self.heard_s)
        if self.is_paused:  # it is we who do not listen
            left_s = session.ping_every_s
        elif left_s <= 0 and not self._suspect:
            self._suspect = True  # a starved node may have input that it has not read yet
            left_s = SECOND_LOOK_S
        elif left_s <= 0:
            self.mailbox.close(CloseCode.SILENT, "nothing heard for a ttl")
            return
        else:
            self._suspect = False
        self.send_control(PING_FRAME)
        self._ping_s = session.ping_every_s
        self.move_tick(min(self._ping_s, left_s))

    def encode(self, frames: list[Frame]) -> bytes:
        if len(frames) == 1:
            return frames[0].ws
        return b"".join([frame.ws for frame in frames])

    def placed(self, session: Session) -> None:
        ping_s = session.ping_every_s
        if ping_s < self._ping_s:
            self._ping_s = ping_s
            self.move_tick(ping_s)

    def flushed(self) -> None:
        pong, self._pong = self._pong, None
        if pong is not None:
            self.send_control(pong)

    def farewell(self, code: CloseCode, message: str) -> None:
        self.part(close_frame(code, message), AWAIT_PEER)

    def received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        try:
            parser.feed(data)
            self._work_off(parser)
        except ProtocolError as error:
            self._parser = None
            self.drain()  # replies to what came before the mistake
            self.part(close_frame(error.code, error.message), SHUT)

    def _work_off(self, parser: Parser) -> None:
        for _ in range(MESSAGES_PER_TURN):
            event = parser.next()
            if event is None:
                return
            self._handle(*event)
            session = self.session
            if self.is_open and session is not None and session.busy:
                self.pause()  # the session resumes
                return
            if len(self.mailbox) >= REPLIES_PER_SEND:
                self.drain()
        if self.is_open:
            self.pause()
            self.resume_soon()

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._parser = None
            self.drain()
            self.part(close_reply(payload), HANG_UP, by_client=True)
            self.peer_done()
            return
        session = self.session
        if session is None or not self.is_open:
            return
        if opcode <= BINARY:
            session.receive(payload)
            return
        session.alive()
        if opcode == PING:
            pong = websocket_frame(payload, PONG)
            if not self.send_control(pong):
                self._pong = pong  # the latest one is enough (RFC 6455, section 5.5.3)


def upgrade_response(key: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


class WebSocketHandler(ClientHandler):
    """`GET /v1/ws`: a handshake that is refused for a bad request or origin, never for a token or the load:
    what a browser is to understand must come as a close code."""

    async def get(self) -> None:
        key = self._handshake_key()
        session_id = self.session_id() or codec.new_session_id()
        services, mailbox = self.services, Mailbox()
        detached = detach(self)
        if detached is None:
            return
        # From here on there is no HTTP response any more: whatever goes wrong is told by a close code.
        sock, ahead = detached
        try:
            session = await self._open(session_id, mailbox)
        except BaseException:  # cancelled: the node is going
            sock.close()
            raise
        WebSocketWire(services, sock, session, mailbox).start(upgrade_response(key), ahead)

    async def _open(self, session_id: str, mailbox: Mailbox) -> Session | None:
        """The opened session, holding one admission; else None, and the mailbox is closed."""
        services, admitted = self.services, False
        try:
            identity = services.auth.client(self.token())
            services.admission.enter()
            admitted = True
            return await open_session(services, identity, session_id, mailbox, transport="websocket")
        except Unauthorized as error:
            mailbox.close(CloseCode.UNAUTHORIZED, error.message)
        except Replaced as error:
            mailbox.close(CloseCode.REPLACED, error.message)
        except PresenceError as error:
            mailbox.close(CloseCode.UNAVAILABLE, error.message)
        except Exception as error:  # its text may quote the client
            log.error("open_failed", transport="websocket", error=type(error).__name__)
            mailbox.close(CloseCode.UNAVAILABLE, "internal error")
        if admitted:
            services.admission.leave()
        return None

    def _handshake_key(self) -> str:
        headers = self.request.headers
        connection = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
        if headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in connection:
            raise UpgradeRequired("this endpoint speaks WebSocket only")
        if headers.get("Sec-WebSocket-Version") != "13":
            raise UpgradeRequired("Sec-WebSocket-Version must be 13")
        key: str = headers.get("Sec-WebSocket-Key", "").strip()
        try:
            whole = len(base64.b64decode(key, validate=True)) == 16
        except (binascii.Error, ValueError):
            whole = False
        if not whole:
            raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64")
        return key
