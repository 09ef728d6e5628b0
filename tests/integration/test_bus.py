"""What comes over the bus reaches every subscriber once and in order, whatever else is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

import presence.broker
import presence.subscription
from presence.answers import View
from presence.heartbeats import Touch
from presence.hub import RECENT
from presence.keys import entry
from presence.node import Node
from tests.chaos.workbench import ROOM, Gate
from tests.support.parts import Ear, Parts
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async


@pytest.fixture
def parts(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(presence.broker, "CANARY_S", 0.1)  # a node that listens says so sooner
    return Parts(redis_server)


async def _say(node: Node, times: int = 1) -> int:
    """Publish so many messages; the seq of the last."""
    cursors = [await node.tracker.publish(ROOM, "word", "1") for _ in range(times)]
    return int(cursors[-1].rpartition(":")[2])


async def _first_ear(node: Node) -> Ear:
    """A subscriber that is where the channel is."""
    ear = Ear(node.hub, ROOM)
    node.hub.attach(ear.topic, ear, await node.tracker.view(ROOM))
    return ear


@run_async
async def test_who_is_brought_up_from_the_log_while_events_go_on_gets_each_once_and_in_order(parts: Parts) -> None:
    node = await parts.node(listening=True)
    first, late = await _first_ear(node), Ear(node.hub, ROOM)
    seen = await node.tracker.view(ROOM)  # the answer that is read late
    await first.reaches(await _say(node, RECENT + 20))

    gate = Gate(node.scripts, "snapshot")
    node.hub.attach(late.topic, late, seen)
    await gate.holds()
    for _ in range(4):  # each in a frame of its own
        await first.reaches(await _say(node))
    gate.release()
    await late.reaches(first.heard[-1])
    assert gate.held == 1, "one read is enough for all of them"
    last = await _say(node)
    await asyncio.gather(first.reaches(last), late.reaches(last))

    assert first.heard == list(range(1, last + 1))
    assert late.heard == list(range(1, last + 1))


@run_async
async def test_a_subscriber_whose_answer_is_of_an_older_epoch_is_brought_up_to_the_topic(parts: Parts) -> None:
    node = await parts.node(listening=True)
    first, late = await _first_ear(node), Ear(node.hub, ROOM)
    await first.reaches(await _say(node))

    node.hub.attach(late.topic, late, View("0ld", 7))
    await eventually(lambda: late.epoch == first.epoch, 5, what="the late one to be in the topic's epoch")
    last = await _say(node)
    await asyncio.gather(first.reaches(last), late.reaches(last))

    assert [frame["type"] for frame in late.frames] == ["joined", "events"]
    assert late.heard == [last]


@run_async
async def test_a_malformed_message_leaves_the_subscription_running(parts: Parts) -> None:
    node = await parts.node(listening=True)
    ear, tab = await _first_ear(node), await parts.tab(node)
    gaps = node.metrics.subscription_gaps._value.get()

    token = f"token\x1falice\x1f{tab.session.id}\x1fsoon\x1f{{}}".encode()
    for message in (token, b"event\x1fshort", b"close", b"ended\x1fx", b"\xff"):
        assert await parts.redis.publish(node.keys.bus(0), message) == 1
    await ear.reaches(await _say(node))

    assert node.metrics.subscription_gaps._value.get() == gaps
    assert node.broker.delivering and tab.closed is None


@run_async
async def test_a_fault_of_one_heartbeats_sender_costs_no_other_its_answer(parts: Parts) -> None:
    node = await parts.node()
    await parts.join("alice")
    words: list[str | None] = []

    def fails(word: str | None) -> None:
        raise RuntimeError(word)

    alice, nobody = entry(ROOM, "alice", "session-1"), entry(ROOM, "nobody", "session-1")
    for name, done in ((nobody, fails), (alice, words.append), (nobody, words.append)):
        node.tracker.heartbeats.put(Touch(0, name, "1000", 60_000, done))
    await eventually(lambda: len(words) == 2, 3, what="two answers")

    assert words == ["ok", "lost"]


class HalfOpen:
    """Passes connections on to Redis until `freeze`: what is open then stays open and is never heard of again, and
    until `thaw` so is what opens later."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self._pipes: set[asyncio.Task[None]] = set()
        self._frozen: list[asyncio.Event] = []
        self._freezing = False
        self.accepted = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HalfOpen]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._pipes):
                task.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)

    def freeze(self) -> None:
        """Swallow whatever is said, in both directions."""
        self._freezing = True
        for frozen in self._frozen:
            frozen.set()

    def thaw(self) -> None:
        """Let new connections through; the others stay as they are."""
        self._freezing = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._target)
        frozen = asyncio.Event()
        self.accepted += 1
        self._frozen.append(frozen)
        if self._freezing:
            frozen.set()
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._pass_on(source, sink, frozen))
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, frozen: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                if not frozen.is_set():
                    sink.write(data)
        except OSError:
            pass
        finally:
            sink.close()


@pytest.mark.parametrize("lost_meanwhile", [0, 3], ids=["at-once", "after-new-ones-were-lost-too"])
@run_async
async def test_a_node_whose_connections_are_half_open_sings_again_on_new_ones(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, lost_meanwhile: int
) -> None:
    monkeypatch.setattr(presence.broker, "CANARY_S", 0.1)
    monkeypatch.setattr(presence.subscription, "CANARY_S", 0.1)
    monkeypatch.setattr(presence.subscription, "SILENT_S", 1.0)
    monkeypatch.setattr(presence.subscription, "SUBSCRIBE_S", 0.5)
    async with HalfOpen(redis_server.url).running() as proxy:
        parts = Parts(proxy)  # type: ignore[arg-type]
        try:
            node = await parts.node(listening=True)
            before = proxy.accepted
            proxy.freeze()
            await eventually(lambda: proxy.accepted >= before + lost_meanwhile, 5, what="attempts that are lost, too")
            proxy.thaw()

            await eventually(lambda: not node.broker.delivering, 5, what="the silence to be noticed")
            await eventually(lambda: node.broker.delivering, 8, what="the canary to be heard again")

            assert proxy.accepted >= before + 2  # one to listen, one to sing
        finally:
            proxy.thaw()
            await parts.aclose()
