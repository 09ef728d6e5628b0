"""Stand-ins for what no machine has at hand: a far Redis, an old one, and a server that is none."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from typing import Any


class listening:
    """A TCP server in a thread, for the time of a `with` block: stands in for what cannot be installed here."""

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Any:
        self.thread.start()
        return self.server

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Slow(socketserver.BaseRequestHandler):
    """A long way to the real Redis: what is asked travels for 30 ms."""

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as redis_side:  # type: ignore[attr-defined]
            back = threading.Thread(target=self._back, args=(redis_side,))
            back.start()
            while data := self.request.recv(65536):
                time.sleep(0.03)
                redis_side.sendall(data)
            redis_side.shutdown(socket.SHUT_WR)
            back.join()

    def _back(self, redis_side: socket.socket) -> None:
        while data := redis_side.recv(65536):
            self.request.sendall(data)


class Old(socketserver.StreamRequestHandler):
    """A Redis of long ago, as far as INFO tells; no package of it can be installed beside the new one."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self._word() for _ in range(int(line[1:]))]
            text = f"redis_version:{self.server.version}\r\nredis_mode:standalone\r\nrole:master\r\n"  # type: ignore[attr-defined]
            if words[0] == b"INFO":
                self.wfile.write(f"${len(text)}\r\n{text}\r\n".encode())
            else:
                self.wfile.write(b"+PONG\r\n" if words[0] == b"PING" else b"-ERR unknown command\r\n")

    def _word(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:length]


class Web(socketserver.StreamRequestHandler):
    """A web server, by mistake."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
