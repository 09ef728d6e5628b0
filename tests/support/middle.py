"""A man in the middle: a TCP proxy that counts what passes, loses answers, and can be away."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit

METHODS = (b"GET", b"PUT", b"POST", b"DELETE")


class Middle:
    """Listens on a free loopback port and passes everything on to `url`, with the faults that a test asks for."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.requests: list[str] = []
        """Method and target of each, in order; each head must come in one piece."""
        self.lose = 0
        """So many of the next answers get lost: the server has got the request, the client only an end."""
        self.away = False
        """Whether connections end at once."""
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for connection in list(self._ends):
            end(connection)

    def close(self) -> None:
        """End it."""
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                if self.away:
                    near.close()
                else:
                    threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        far = socket.create_connection(self._target)
        self._ends += (near, far)
        threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()
        with near, far, contextlib.suppress(OSError):
            while part := near.recv(1 << 20):
                if part.split(b" ", 1)[0] in METHODS:
                    self.requests.append(part.partition(b" HTTP/")[0].decode())
                far.sendall(part)

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := far.recv(1 << 20):
                if self.lose:
                    self.lose -= 1
                    break
                near.sendall(part)
        end(near)
        end(far)


def end(connection: socket.socket) -> None:
    """End a connection in both directions; whoever waits for it notices."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
