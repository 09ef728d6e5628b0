"""P9: a client that does not read is closed with 4108, costs a bounded amount of memory, and delays nobody."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import tokens
from tests.support.hostile import JSON, Arena, memory_kb, metric
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

SIZE = 12_000
BATCH = 40
FLOOD_BATCHES = 35  # 17 MB for each that does not read: kernels hold some of it, the node a mailbox at most
MAILBOX_KB = 1024
SLACK_KB = 6_000  # what the allocator and the readers' frames take beside the mailboxes


@pytest.fixture(scope="module")
def node(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with times long enough for a flood, and no limit of commands."""
    settings = {"ttl_ms": 60_000, "ping_ms": 20_000, "max_commands_per_second": 0, "key_prefix": secrets.token_hex(4)}
    preload = "tests.support.impatient"
    node = Node.start(tmp_path_factory.mktemp("slow"), redis_server.url, preload=preload, **settings)
    yield node
    node.kill()
    assert not node.complaints(), node.tail()


class Slow:
    """A raw connection with a tiny window, that reads only when told to."""

    def __init__(self, node: Node, request: bytes) -> None:
        parts = urlsplit(node.url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(5)
        self._socket.connect((parts.hostname, parts.port))
        self._socket.sendall(request)
        self.data = b""

    def send(self, data: bytes) -> int:
        """Send what the kernel takes."""
        self._socket.setblocking(False)
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def read_until(self, mark: bytes) -> None:
        """Read until the mark has come."""
        while mark not in self.data:
            self.data += self._piece()

    async def rest(self) -> bytes:
        """Everything until the end; a reset ends it too."""
        while piece := await asyncio.to_thread(self._piece):
            self.data += piece
        return self.data

    def close(self) -> None:
        self._socket.close()

    def _piece(self) -> bytes:
        self._socket.settimeout(5)
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""


class SlowArena(Arena):
    """An arena that closes the slow connections opened on it."""

    def __init__(self, nodes: list[Node], redis: RedisServer) -> None:
        super().__init__(nodes, redis)
        self._slow: list[Slow] = []

    def open(self, request: bytes) -> Slow:
        """A connection that has sent this."""
        self._slow.append(Slow(self.a, request))
        return self._slow[-1]

    async def aclose(self) -> None:
        for each in self._slow:
            each.close()
        await super().aclose()


@pytest.fixture
def arena(node: Node, redis_server: RedisServer) -> SlowArena:
    return SlowArena([node], redis_server)


def frame(command: Any) -> bytes:
    """A command as a masked WebSocket frame."""
    text = json.dumps(command).encode()
    head = bytes([0x81, 0x80 | len(text)]) if len(text) < 126 else b"\x81\xfe" + struct.pack("!H", len(text))
    return head + b"\x00" * 4 + text


def slow_socket(arena: SlowArena, user: str) -> Slow:
    """A member over WebSocket that has read its `joined` and reads no more."""
    head = (
        f"GET /v1/ws?token={tokens.make_token(user)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    slow = arena.open(head.encode() + frame({"type": "join", "channel": arena.channel}))
    slow.read_until(b'"joined"')
    return slow


def slow_stream(arena: SlowArena, user: str) -> Slow:
    """A member over SSE that has read its `joined` and reads no more."""
    target = f"/v1/events?channel={arena.channel}&token={tokens.make_token(user)}"
    slow = arena.open(f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
    slow.read_until(b'"joined"')
    return slow


def ends_with_4108_socket(data: bytes) -> bool:
    """Whether the last frame is a close frame with 4108."""
    at = data.rfind(struct.pack("!H", 4108))
    return at > 2 and data[at - 2] == 0x88 and at - 2 + 2 + data[at - 1] == len(data)


def ends_with_4108_stream(data: bytes) -> bool:
    """Whether the last event is a `close` frame with 4108."""
    last = json.loads(data.strip().rpartition(b"data: ")[2])
    return bool(last["type"] == "close" and last["code"] == 4108)


@pytest.mark.parametrize(
    ("opened", "ended"),
    [(slow_socket, ends_with_4108_socket), (slow_stream, ends_with_4108_stream)],
    ids=["websocket", "sse"],
)
@run_async
async def test_members_that_do_not_read_are_closed_with_4108_at_a_bounded_cost_and_delay_nobody(
    arena: SlowArena, opened: Callable[[SlowArena, str], Slow], ended: Callable[[bytes], bool]
) -> None:
    readers = [await arena.member(kind, arena.a, kind) for kind in ("websocket", "sse", "longpoll")]
    writer = await arena.connect("websocket", arena.a, "writer")
    await _flood(arena, writer, readers[0], 4)  # what the first messages take is taken for good
    closed, files = await _closed(arena), _files(arena.a)
    before_kb = memory_kb(arena.a)
    slow = [await asyncio.to_thread(opened, arena, f"slow-{number}") for number in range(3)]

    peak_kb, delays = await _flood(arena, writer, readers[0], FLOOD_BATCHES)

    assert await _closed(arena) - closed == len(slow)
    assert peak_kb - before_kb < len(slow) * MAILBOX_KB + SLACK_KB
    assert sorted(delays)[len(delays) // 2] < 0.25 and max(delays) < 1.5, delays
    for reader in readers:
        await reader.event(arena.channel, "message", name=f"last-{FLOOD_BATCHES}", within_s=10)
        assert reader.closed is None
        if reader.transport != "longpoll":  # between two polls there may be more than one answer holds: a snapshot
            assert len(reader.events(arena.channel, "message")) == BATCH * (4 + FLOOD_BATCHES) + 2
    told = await slow[0].rest()
    assert told.count(b'"flood"') < BATCH * FLOOD_BATCHES, "it was no slow reader"
    assert ended(told)
    # Those that go on not reading are let go of, too, in a few seconds.
    await eventually(lambda: _files(arena.a) <= files, within_s=10, what="the sockets of the slow to be closed")


@run_async
async def test_a_client_that_sends_commands_and_reads_no_reply_is_closed_at_a_bounded_cost(arena: SlowArena) -> None:
    for number in range(20):
        state = {"k": f"{number}" + "x" * 900}
        await arena.ask("PUT", "channels", arena.channel, "members", f"user-{number}", json={"state": state})
    before_kb, closed = memory_kb(arena.a), await _closed(arena)
    slow = slow_socket(arena, "slow")
    asking = frame({"type": "who", "channel": arena.channel, "limit": 1000}) * 100

    async def is_closed() -> bool:
        slow.send(asking)
        assert (await arena.probe("/healthz", within_s=1)).status == 200
        return await _closed(arena) > closed

    await eventually(is_closed, within_s=20, every_s=0.005)
    assert memory_kb(arena.a) - before_kb < MAILBOX_KB + SLACK_KB


@run_async
async def test_an_answer_to_many_large_questions_is_bounded_and_says_so(arena: SlowArena) -> None:
    writer = await arena.connect("websocket", arena.a, "writer")
    await _flood(arena, writer, await arena.watcher(), 10)
    question = {"type": "history", "channel": arena.channel, "limit": 1000}
    before_kb = memory_kb(arena.a)

    answer = await arena.command(arena.a, "alice", "session-of-alice", [question] * 50)

    assert len(answer.body) < 10_000_000
    replies = answer.json()
    assert len(replies) == 50
    assert replies[0]["type"] == "history" and replies[0]["events"]
    assert {reply.get("code") for reply in replies if reply["type"] == "error"} == {"limit"}
    assert memory_kb(arena.a) - before_kb < 60_000


@run_async
async def test_past_events_that_are_too_many_for_one_answer_are_the_newest_ones(arena: SlowArena) -> None:
    writer = await arena.connect("websocket", arena.a, "writer")
    await _flood(arena, writer, await arena.watcher(), 10)

    log = await arena.log()

    assert len(log) < 10 * BATCH, "they fit into one answer"
    assert (await arena.ask("GET", "channels", arena.channel))["cursor"].endswith(f":{log[-1]['seq']}")
    assert [event["seq"] for event in log] == list(range(log[0]["seq"], log[-1]["seq"] + 1))


@run_async
async def test_an_answer_that_nobody_reads_is_given_up(arena: SlowArena) -> None:
    writer = await arena.connect("websocket", arena.a, "writer")
    await _flood(arena, writer, await arena.watcher(), 10)
    files = _files(arena.a)
    target = f"/v1/channels/{arena.channel}/events?limit=1000"
    headers = "".join(f"{name}: {value}\r\n" for name, value in {**tokens.bearer(tokens.API_KEY), **JSON}.items())
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()
    for _ in range(5):
        arena.open(request)

    await eventually(lambda: _files(arena.a) > files)
    await eventually(lambda: _files(arena.a) <= files, within_s=10, what="the unread answers to be given up")
    assert (await arena.log())[-1]["name"] == "last-10"


async def _flood(arena: SlowArena, writer: Any, reader: Any, batches: int) -> tuple[int, list[float]]:
    """Many messages, as fast as the server takes them, and a last one; the highest memory seen, and how late the reader heard."""
    peak_kb, delays = 0, []
    publish = {"type": "publish", "channel": arena.channel, "data": "x" * SIZE}
    for batch in range(batches):
        sent = time.monotonic()
        await asyncio.gather(
            *(writer.send({**publish, "name": "flood", "id": 1000 + number}) for number in range(BATCH - 1)),
            writer.send({**publish, "name": f"mark-{batch}", "id": 999}),
        )
        await reader.event(arena.channel, "message", name=f"mark-{batch}")
        delays.append(time.monotonic() - sent)
        peak_kb = max(peak_kb, memory_kb(arena.a))
    await writer.send({**publish, "name": f"last-{batches}", "data": None, "id": 998})
    return peak_kb, delays


async def _closed(arena: SlowArena) -> float:
    return await metric(arena, "presence_slow_clients_total")


def _files(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))
