"""Starting embedded servers in a test, and looking at them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from presence.embedded import EmbeddedServer
from tests.support.waiting import eventually

Start = Callable[[Path], EmbeddedServer]


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """A function that starts a server on a folder; all of them end with the block."""
    started: list[EmbeddedServer] = []

    def launch(folder: Path) -> EmbeddedServer:
        server = EmbeddedServer(folder)
        server.start()
        started.append(server)
        return server

    try:
        yield launch
    finally:
        for server in started:
            server.stop()


@contextlib.contextmanager
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the server's URL."""
    with redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5) as connection:
        yield connection


def eventually_sync(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition where no loop runs."""
    asyncio.run(eventually(condition, what=what))


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not fetched by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
