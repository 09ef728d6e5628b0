"""Exactly once, whatever happens: a random run of many clients on four nodes, and an oracle that knows what must be.

`PRESENCE_SEED=… pytest tests/chaos/test_exactly_once.py` repeats the acts of a run (not its timing).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import statistics
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio

from tests.chaos.callers import BackEnd, Caller
from tests.chaos.guards import VARIABLE
from tests.chaos.journal import Journal
from tests.chaos.lane import GRACE_MS, PING_MS, TTL_MS, Lane, World
from tests.chaos.oracle import LATE_MS, Oracle
from tests.chaos.page import Page
from tests.chaos.raw_socket import Closed, Frame, RawSocket, now_ms
from tests.support import tokens
from tests.support.clients.rooms import Room
from tests.support.http import request
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import path
from tests.support.waiting import eventually

SHORT_S, LONG_S = 11.0, 40.0
USERS = 26
SEEDS = range(1, 13)
SETTINGS = {"ttl_ms": TTL_MS, "grace_ms": GRACE_MS, "ping_ms": PING_MS, "partitions": 4}

NOTICED = (
    "liveness-check-of-a-claim", "sweep", "registry-check-of-a-refresh", "order-of-numbers-in-connect",
    "order-of-numbers-of-a-message", "order-of-numbers-in-leave", "mark-of-a-closing-connection", "check-of-that-mark",
)  # fmt: skip
"""Guards that are needed so often that any run twice as long shows their absence; test_guards.py has a proof for every one."""


class Watcher:
    """An observer of all channels on one node, from their first event on."""

    def __init__(self, node: Node, channels: list[str]) -> None:
        self.rooms = {channel: Room(channel) for channel in channels}
        self.socket = RawSocket(node, "watcher", "watcher-" + secrets.token_hex(4), tokens.make_token("watcher"))
        self.socket.on_frame = self._take

    async def watch(self) -> None:
        """Connect and see everything empty."""
        try:
            await self.socket.connect()
            for channel, room in self.rooms.items():
                await self.socket.ask(type="join", channel=channel, **{"as": "observer"})
                assert (room.seq, room.members) == (0, {})
        except Closed as end:
            raise AssertionError(f"a watcher was closed with {end}") from end

    def history(self, channel: str, mark: str) -> list[Frame]:
        """All events up to this message; nothing if it has not come yet."""
        log = self.rooms[channel].log
        names = [event.get("name") for event in log]
        return log[: names.index(mark) + 1] if mark in names else []

    def _take(self, frame: Frame) -> None:
        if frame["type"] == "joined":
            self.rooms[frame["channel"]].take_joined(frame)
        elif frame["type"] == "events":
            self.rooms[frame["channel"]].take_events(frame)


class Run:
    """One random run from its seed to the oracle's verdict."""

    def __init__(self, seed: str, nodes: list[Node], server: RedisServer) -> None:
        self.rng = random.Random(seed)
        self.world = World(nodes, [f"room-{number}" for number in range(4)], Journal(), self._deafen)
        kinds = enumerate(self._kinds())  # two lanes of a user are two sessions: each has a number of its own
        self.lanes = [self._lane(f"user-{user:02}", kind, number, seed) for number, (user, kind) in kinds]
        self.watchers = [Watcher(node, self.world.channels) for node in nodes]
        self.trouble = 0
        self._redis = redis.asyncio.from_url(server.url)

    async def play(self, seconds: float) -> None:
        """Let everybody act, wait until all is quiet, and compare."""
        for watcher in self.watchers:
            await watcher.watch()
        self.world.until_ms = now_ms() + 1000 * seconds
        disturbing = asyncio.create_task(self._disturb())
        staying: list[asyncio.Task[None]] = []
        try:
            lasting = await asyncio.gather(*(lane.run() for lane in self.lanes))
            staying = [asyncio.ensure_future(stay()) for stay in lasting if stay is not None]
            await eventually(lambda: self._is_quiet(staying), 12, 0.1)
            ended_ms, told = now_ms(), await self._fence()
        finally:
            self.world.finish.set()
            disturbing.cancel()
            await asyncio.gather(disturbing, *staying, return_exceptions=True)
            await self._redis.aclose()
        await self._judge(ended_ms, told)

    def end(self) -> None:
        """Close all connections."""
        for socket in [*self.world.journal.sockets, *(watcher.socket for watcher in self.watchers)]:
            with suppress(Closed):
                socket.reset()

    # ---- below: private ----

    def _kinds(self) -> list[tuple[int, type[Lane]]]:
        first = [(number, self.rng.choice((Page, Page, Caller))) for number in range(USERS)]
        second = [(number, self.rng.choice((Page, Caller, BackEnd, BackEnd))) for number in range(0, USERS, 2)]
        return [*first, *second]

    def _lane(self, user: str, kind: type[Lane], number: int, seed: str) -> Lane:
        return kind(self.world, user, f"{kind.__name__.lower()}{number}", seed)

    async def _disturb(self) -> None:
        while not self.world.over:
            await asyncio.sleep(self.rng.uniform(0.3, 1.2))
            if self.rng.random() < 0.6:
                await self._deafen()
            else:
                await self._redis.script_flush()
                self.trouble += 1

    async def _deafen(self) -> None:
        self.trouble += 1
        self.world.journal.kills_ms.append(now_ms())
        await self._redis.client_kill_filter(_type="pubsub")

    async def _is_quiet(self, staying: list[asyncio.Task[None]]) -> bool:
        """Whether exactly those are listed who stay."""
        for task in staying:
            if task.done():
                task.result()
        for channel in self.world.channels:
            answer = await self._ask("GET", "channels", channel, "members", limit="1000")
            listed = sorted(member["user"] for member in answer["members"])
            wanted = {lane.user for lane in self.lanes if channel in self._places(lane)}
            assert listed == sorted(wanted), channel
        return True

    def _places(self, lane: Lane) -> list[str]:
        """The places in which the lane certainly is now; none if it went away."""
        return [channel for channel, held in lane.places.items() if held.until > now_ms()]

    async def _fence(self) -> list[dict[str, list[Frame]]]:
        """The history of all channels as each watcher was told it, up to now."""
        marks = {channel: secrets.token_hex(4) for channel in self.world.channels}
        for channel, mark in marks.items():
            await self._ask("POST", "channels", channel, "messages", body={"name": mark, "data": None})

        def told() -> list[dict[str, list[Frame]]] | None:
            heard = [{ch: watcher.history(ch, mark) for ch, mark in marks.items()} for watcher in self.watchers]
            return heard if all(all(histories.values()) for histories in heard) else None

        return list(await eventually(told, 5, what="all watchers to be told everything"))

    async def _ask(self, method: str, *parts: str, body: Any = None, **query: str) -> Any:
        url, headers = self.world.nodes[0].url, tokens.bearer(tokens.API_KEY)
        answer = await request(url, method, path(*parts), query=query, headers=headers, json_body=body)
        assert answer.status == 200, answer
        return answer.json()

    async def _judge(self, ended_ms: float, told: list[dict[str, list[Frame]]]) -> None:
        late_ms = LATE_MS + TTL_MS if await self._held() else LATE_MS
        breaches, oracle = self._compare(told), Oracle(self.world.journal, told[0], late_ms)
        breaches += oracle.check(ended_ms)
        print(self._figures(oracle, told[0]))
        assert not breaches, f"{len(breaches)} breaches:\n" + "\n".join(map(str, breaches[:20]))
        assert oracle.graces, "no grace was measured"

    async def _held(self) -> bool:
        """Whether the machine stood still for half a second: then the server rightly waits for one more ttl."""
        texts = [(await request(node.url, "GET", "/metrics")).body.decode() for node in self.world.nodes]
        lines = [line for text in texts for line in text.splitlines() if line.startswith("presence_holds_total")]
        held = any(not line.endswith(" 0.0") for line in lines)
        print("a hold took place: leaves may be one ttl later" if held else "no hold took place")
        return held

    def _compare(self, told: list[dict[str, list[Frame]]]) -> list[str]:
        """All nodes must have told the same, in one epoch, without closing a watcher."""
        breaches = []
        for watcher, histories in zip(self.watchers, told, strict=True):
            breaches += [f"{watcher.socket.node.name} told of other events"] if histories != told[0] else []
            for channel, room in watcher.rooms.items():
                breaches += room.breaches
                breaches += [f"{channel}: a snapshot where events were due"] if len(room.joined) != 1 else []
            if not watcher.socket.is_open:
                breaches.append(f"a watcher was closed with {watcher.socket.code}")
        return breaches

    def _figures(self, oracle: Oracle, histories: dict[str, list[Frame]]) -> str:
        late = sorted(oracle.lateness_ms) or [0.0]
        codes = [socket.code for socket in self.world.journal.sockets]
        counted = {code: codes.count(code) for code in sorted({code for code in codes if code})}
        return (
            f"{len(self.lanes)} lanes, {sum(map(len, histories.values()))} events, {len(codes)} connections, closed "
            f"{counted}, {len(self.world.journal.snapshots)} snapshots, {oracle.graces} graces, {self.trouble} faults; "
            f"leaves late by {statistics.median(late):.0f} ms (median), {late[-1]:.0f} ms (max) of {len(late)}"
        )


def play(seed: str, seconds: float, nodes: list[Node], server: RedisServer) -> None:
    """One run, whose seed stands in the output of a failure."""
    print(f"PRESENCE_SEED={seed}")

    async def run() -> None:
        one = Run(seed, nodes, server)
        try:
            async with asyncio.timeout(seconds + 40):
                await one.play(seconds)
        finally:
            one.end()

    asyncio.run(run())


def test_random_clients_on_four_nodes_are_announced_exactly_once(
    own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer
) -> None:
    seed = os.environ.get("PRESENCE_SEED") or secrets.token_hex(4)
    play(seed, SHORT_S, own_nodes(4, **SETTINGS), fresh_redis)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_many_seeds(seed: int, own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer) -> None:
    play(f"long-{seed}", LONG_S, own_nodes(4, **SETTINGS), fresh_redis)


@pytest.mark.long
@pytest.mark.parametrize("guard", NOTICED)
def test_a_random_run_notices_a_missing_guard(
    guard: str, own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, guard)
    nodes = own_nodes(4, preload="tests.chaos.unguarded", **SETTINGS)
    with pytest.raises(AssertionError):
        play(f"without-{guard}", 2 * SHORT_S, nodes, fresh_redis)
