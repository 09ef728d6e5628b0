"""P9: a client that does not read is closed with 4108, costs a bounded amount of memory, and delays nobody."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
MOST_BATCHES = 60  # 29 MB: far more than kernels hold for a client that does not read
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
        self.port = self._socket.getsockname()[1]
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
        self.slow: list[Slow] = []

    def open(self, request: bytes) -> Slow:
        """A connection that has sent this."""
        self.slow.append(Slow(self.a, request))
        return self.slow[-1]

    async def aclose(self) -> None:
        for each in self.slow:
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
    usual = await _flood(arena, writer, readers[0], 4)  # what the first messages take is taken for good
    before_kb, closed = memory_kb(arena.a), await _closed(arena)
    slow = [await asyncio.to_thread(opened, arena, f"slow-{number}") for number in range(3)]

    flood = await _flood(arena, writer, readers[0], MOST_BATCHES, until=lambda: _all_closed(arena, closed + len(slow)))
    told = await slow[0].rest()  # come back to reading in time, it reads why; the others never do
    after = await _flood(arena, writer, readers[0], 4)

    assert await _closed(arena) - closed == len(slow)
    assert max(flood.peak_kb, after.peak_kb) - before_kb < len(slow) * MAILBOX_KB + SLACK_KB
    assert flood.median_s < 3 * usual.median_s + 0.1 and max(flood.delays) < 2.0, flood
    end = (await arena.ask("GET", "channels", arena.channel))["cursor"]
    for reader in readers:
        await reader.reaches(arena.channel, end, within_s=10)
        assert reader.closed is None
        if reader.transport != "longpoll":  # between two polls there may be more than one answer holds: a snapshot
            messages = BATCH * sum(len(each.delays) for each in (usual, flood, after)) + 3
            assert len(reader.events(arena.channel, "message")) == messages
    assert told.count(b'"flood"') < BATCH * len(flood.delays), "it was no slow reader"
    assert ended(told)
    await eventually(lambda: not _held(arena), within_s=10, what="the connections of the slow to be closed")


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
    flood = await _flood(arena, writer, await arena.watcher(), 10)
    target = f"/v1/channels/{arena.channel}/events?limit=1000"
    headers = "".join(f"{name}: {value}\r\n" for name, value in {**tokens.bearer(tokens.API_KEY), **JSON}.items())
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()
    for _ in range(5):
        arena.open(request)

    assert _held(arena) == 5
    await eventually(lambda: not _held(arena), within_s=10, what="the unread answers to be given up")
    assert (await arena.log())[-1]["name"] == flood.last


@dataclass(frozen=True)
class Flood:
    """What was seen while many messages were published: memory, and how late the reader heard of each batch."""

    last: str
    peak_kb: int
    delays: list[float]

    @property
    def median_s(self) -> float:
        return sorted(self.delays)[len(self.delays) // 2]


async def _never() -> bool:
    return False


async def _flood(
    arena: SlowArena, writer: Any, reader: Any, batches: int, until: Callable[[], Awaitable[bool]] = _never
) -> Flood:
    """Publish as fast as the server takes it, batch by batch, and a last message of another name."""
    peak_kb, delays, last = 0, [], arena.name("last")
    publish = {"type": "publish", "channel": arena.channel, "data": "x" * SIZE}
    while len(delays) < batches and not await until():
        mark, sent = arena.name("mark"), time.monotonic()
        await asyncio.gather(
            *(writer.send({**publish, "name": "flood", "id": 1000 + number}) for number in range(BATCH - 1)),
            writer.send({**publish, "name": mark, "id": 999}),
        )
        await reader.event(arena.channel, "message", name=mark)
        delays.append(time.monotonic() - sent)
        peak_kb = max(peak_kb, memory_kb(arena.a))
    await writer.send({**publish, "name": last, "data": None, "id": 998})
    return Flood(last, peak_kb, delays)


async def _all_closed(arena: SlowArena, count: float) -> bool:
    return await _closed(arena) >= count


async def _closed(arena: SlowArena) -> float:
    return await metric(arena, "presence_slow_clients_total")


def _held(arena: SlowArena) -> int:
    """How many of the slow connections the node still holds open (its own end is established)."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    node_port = urlsplit(arena.a.url).port
    ports = {slow.port for slow in arena.slow}
    ends = [(_port(row[1]), _port(row[2])) for row in table if row[3] == "01"]
    return sum(1 for local, remote in ends if local == node_port and remote in ports)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
