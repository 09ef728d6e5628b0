"""The address under which browsers find the server: a proxy before its nodes, with a page to test and its tokens.

Every connection carries one request, so that each of them can go to another node or meet another fault.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Sequence
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support import tokens
from tests.support.middle import Middle, end
from tests.support.node import Node

SITE = Path(__file__).resolve().parents[1] / "browser" / "site"
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript"}
STRICT = "default-src 'self'; img-src data:"
LIMIT_BYTES = 65536


class Front(Middle):
    """Serves /page.html, /page.js and /token?user=U itself; the rest goes to the nodes in turn, as it came."""

    def __init__(self, nodes: Sequence[Node] = ()) -> None:
        super().__init__("http://127.0.0.1:1")
        self.nodes = list(nodes)
        self.barred: set[str] = set()
        """The transports whose requests are answered with 403."""
        self.muted: set[str] = set()
        """The transports whose answers are kept back, as a proxy does that buffers them."""
        self.refused: list[str] = []
        """The transport of each of these requests, in order."""
        self.token_ttl_s = 600.0
        self.policy = STRICT
        """The content security policy of the page."""
        self.given: list[str] = []
        """The users to whom a token was given, in order."""
        self._turn = itertools.count()
        self._stuck: set[socket.socket] = set()

    def opened(self, path: str) -> int:
        """How many requests to that path came through to a node, so far."""
        return sum(1 for request in list(self.requests) if urlsplit(request.split(" ", 1)[1]).path == path)

    def posted(self, session: str) -> int:
        """How many requests with commands of that session came through, so far."""
        return sum(1 for request in list(self.requests) if request.startswith("POST") and session in request)

    def close(self) -> None:
        """End it and all connections."""
        super().close()
        for each in self._ends:
            each.close()

    def strand(self) -> None:
        """From now on nothing passes on the connections that are there, and neither side is told."""
        self._stuck.update(self._ends)

    def _pass_on(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            head, rest = _head(near)
            if not head:
                return
            line, _, fields = head.partition(b"\r\n")
            method, target, _ = line.decode().split(" ", 2)
            headers = BytesParser().parsebytes(fields + b"\r\n\r\n")
            answer = self._own(target, headers)
            if answer is None:
                self.requests.append(f"{method} {target}")
                if transport_of(urlsplit(target).path, headers) in self.muted:
                    while near.recv(LIMIT_BYTES):
                        pass
                else:
                    self._forward(near, _closing(head, headers) + rest)
            else:
                near.sendall(answer)
                near.shutdown(socket.SHUT_WR)
                while near.recv(LIMIT_BYTES):  # what is unread when a socket is closed resets it
                    pass

    def _own(self, target: str, headers: Message) -> bytes | None:
        parts = urlsplit(target)
        if parts.path in ("/page.html", "/page.js"):
            file = SITE / parts.path[1:]
            return _answer(200, KINDS[file.suffix], file.read_bytes(), f"Content-Security-Policy: {self.policy}\r\n")
        if parts.path == "/token":
            (user,) = parse_qs(parts.query)["user"]
            self.given.append(user)
            return _answer(200, "text/plain", tokens.make_token(user, ttl_s=self.token_ttl_s).encode())
        if (transport := transport_of(parts.path, headers)) in self.barred:
            self.refused.append(transport)
            return _answer(403, "text/plain", b"not through this proxy")
        return None

    def _forward(self, near: socket.socket, request: bytes) -> None:
        far = self._connect()
        self._ends += (near, far)
        threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()
        try:
            far.sendall(request)
            self._pass(near, far)
        finally:
            if near not in self._stuck:
                far.close()

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._pass(far, near)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        """Until the source ends, which the sink is told."""
        try:
            while part := source.recv(LIMIT_BYTES):
                if source not in self._stuck:
                    sink.sendall(part)
        finally:
            if source not in self._stuck:
                end(sink)

    def _connect(self) -> socket.socket:
        for _ in range(len(self.nodes)):
            parts = urlsplit(self.nodes[next(self._turn) % len(self.nodes)].url)
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection((parts.hostname, parts.port))
        raise ConnectionRefusedError("no node is there")


def transport_of(path: str, headers: Message) -> str:
    """The transport to which a request belongs; "" for those of all."""
    if path == "/v1/ws":
        return "websocket"
    if path == "/v1/events":
        return "sse" if "text/event-stream" in headers.get("Accept", "") else "longpoll"
    return ""


def _head(near: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request without its empty line, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = near.recv(LIMIT_BYTES)
        if not part:
            return b"", b""
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _closing(head: bytes, headers: Message) -> bytes:
    """The head as it came, but for an end of the connection after the answer."""
    if headers.get("Upgrade"):
        return head + b"\r\n\r\n"
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _answer(status: int, kind: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode() + body
