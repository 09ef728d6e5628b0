"""Carries commands to the primaries: one lane per server, one pipeline at a time in each.

Calls made in one turn of the event loop travel together; the next pipeline leaves when the answers to the one before
are there. So the busier the node, the larger its batches, without a timer; and a server that stands still delays
nobody who asks another. What a server refused before it changed anything goes again within the command's budget, to
the server that it named or that the topology names by then. An unknown outcome is never repeated: it is `Unavailable`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from presence.addresses import Address
from presence.errors import Unavailable
from presence.logs import get
from presence.refusals import changed_nothing, is_read_only, kind_of
from presence.topology import Topology

log = get(__name__)

TIMEOUT_S = 0.9  # twice this, a lost connection and its successor, stays below the promised 2 s
REPEAT_S = 1.0  # a call that old is not sent again: its time-out must still fit into the 2 s
PAUSE_S, MAX_PAUSE_S = 0.02, 0.2
RENEW_S = 1.0  # how often connections to a server that turned out to be a replica are opened anew
MAX_PIPELINE = 500
MAX_WAITING = 20_000
COMPLAIN_S = 5.0

Reply = Any  # nested lists of bytes and integers
Words = Sequence[str | bytes | int]


class Call:
    """One command on its way; `fallback` is sent instead if the server does not know the script."""

    __slots__ = ("asking", "born", "fallback", "future", "key", "moved", "words")

    def __init__(self, key: str, words: Words, fallback: Words | None, future: asyncio.Future[Reply]) -> None:
        self.key = key
        self.words = words
        self.fallback = fallback
        self.future = future
        self.born = time.monotonic()
        self.asking = False
        self.moved = False


class Lanes:
    """Sends commands to whoever is the primary of their key; every failure to ask is `Unavailable`."""

    def __init__(
        self, topology: Topology, is_away: Callable[[str], bool] = lambda key: False, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`is_away`: whether it is known already that the key's server does not answer; then nobody waits for it."""
        self._timeout_s = timeout_s
        self._topology = topology
        self._is_away = is_away
        self._lanes: dict[Address, _Lane] = {}
        self._again: list[Call] = []
        self._repeating: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._complained_at = -COMPLAIN_S
        self._refused: set[str] = set()  # parts of the data whose server answers, and refuses
        topology.on_change.append(self._homes_changed)

    def home(self, key: str) -> Address | None:
        """Who is asked about this key."""
        return self._topology.home(key)

    def away(self, key: str) -> bool:
        """Whether the key's server did not answer last, or went on refusing this part of the data."""
        lane = self._lanes.get(self._topology.home(key) or _NOWHERE)
        return (lane is not None and lane.away) or _part(key) in self._refused

    def send(self, key: str, *words: str | bytes | int, fallback: Words | None = None) -> asyncio.Future[Reply]:
        """Queue one command of this key's server; the future has the reply, or raises Unavailable."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._is_away(key):
            _refuse(future, "Redis cannot be asked right now; try again")
        else:
            self._put(Call(key, words, fallback, future))
        return future

    async def close(self) -> None:
        """Wait for the calls on their way, then close the connections."""
        while lanes := [lane for lane in self._lanes.values() if lane.sender is not None]:
            await asyncio.wait([lane.sender for lane in lanes if lane.sender is not None])
        for lane in self._lanes.values():
            self._end(lane)
        if self._repeating is not None:
            self._repeating.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    # ---- below: private ----

    def _put(self, call: Call, address: Address | None = None) -> None:
        address = address or self._topology.home(call.key)
        if address is None:
            _refuse(call.future, "no server has this part of the data right now; try again")
            return
        lane = self._lanes.get(address)
        if lane is None:
            client = self._topology.client(address, self._timeout_s)
            lane = self._lanes[address] = _Lane(address, client, self._topology, self._settle)
        lane.put(call)

    def _homes_changed(self) -> None:
        """Leave the servers that are nobody's primary any more at once, whatever is on its way to them."""
        homes = self._topology.homes()
        for address in [address for address in self._lanes if address not in homes]:
            lane = self._lanes.pop(address)
            for call in self._end(lane):
                self._put(call)

    def _end(self, lane: _Lane) -> list[Call]:
        waiting = lane.end()
        task = asyncio.get_running_loop().create_task(lane.closed())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return waiting

    def _settle(self, lane: _Lane, call: Call, reply: Reply) -> None:
        if call.future.done():
            return
        if not isinstance(reply, Exception):
            call.future.set_result(reply)
            if self._refused:
                self._refused.discard(_part(call.key))
            return
        old = time.monotonic() - call.born > REPEAT_S
        if isinstance(reply, MovedError | AskError) and reply.host and not (old or call.moved):
            call.asking = isinstance(reply, AskError)
            call.moved = not call.asking  # servers that name each other are left to the topology to judge
            self._topology.suspect()
            self._put(call, Address(reply.host, reply.port))
        elif changed_nothing(reply) and not old:
            self._topology.suspect()
            call.asking = False
            self._again.append(call)
            if self._repeating is None:
                self._repeating = asyncio.get_running_loop().create_task(self._repeat())
        else:
            if changed_nothing(reply):
                self._refused.add(_part(call.key))
            self._complain(lane, reply)
            _refuse(call.future, "Redis cannot be asked right now; try again")

    async def _repeat(self) -> None:
        pause_s = PAUSE_S
        try:
            while self._again:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                calls, self._again = self._again, []
                for call in calls:
                    self._put(call)
        finally:
            self._repeating = None
            for call in self._again:
                _refuse(call.future, "this node is going")

    def _complain(self, lane: _Lane, error: Exception) -> None:
        """A line now and then tells as much as one for each of a thousand calls."""
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.warning("redis_refused", server=str(lane.address), error=kind_of(error))


class _Lane:
    """The calls to one server."""

    def __init__(
        self,
        address: Address,
        client: redis.asyncio.Redis,
        topology: Topology,
        settle: Callable[[_Lane, Call, Reply], None],
    ) -> None:
        self.address = address
        self._client = client
        self._topology = topology
        self._settle = settle
        self._waiting: list[Call] = []
        self._ended = False
        self._renewed_at = -RENEW_S
        self.sender: asyncio.Task[None] | None = None
        self.away = False

    def put(self, call: Call) -> None:
        """Send with the next pipeline."""
        if self._ended:
            _refuse(call.future, "this node is going, or Redis has another primary")
            return
        if len(self._waiting) >= MAX_WAITING:
            _refuse(call.future, "too many requests are waiting for Redis")
            return
        self._waiting.append(call)
        if self.sender is None:
            self.sender = asyncio.get_running_loop().create_task(self._send())

    def end(self) -> list[Call]:
        """Send no more; returns what was not sent yet. What is under way has an unknown outcome."""
        self._ended = True
        waiting, self._waiting = self._waiting, []
        return waiting

    async def closed(self) -> None:
        """Cut the connections, and end the pipeline under way."""
        while self.sender is not None and not self.sender.done():
            self.sender.cancel()
            await asyncio.wait([self.sender], timeout=0.1)
        with suppress(RedisError, OSError, TimeoutError):
            await asyncio.wait_for(self._client.aclose(), 1)

    async def _send(self) -> None:
        batch: list[Call] = []
        try:
            while self._waiting:
                await self._topology.confirm()
                if self._ended:
                    break
                batch, self._waiting = self._waiting[:MAX_PIPELINE], self._waiting[MAX_PIPELINE:]
                replies: list[Reply]
                try:
                    replies = await self._execute(batch)
                    self.away = False
                except Exception as error:  # whatever it is: who waits must get an answer
                    self.away = True
                    self._topology.suspect()
                    # Whoever waits behind a server that does not answer has waited long enough, too.
                    batch, self._waiting = batch + self._waiting, []
                    replies = [error] * len(batch)
                if any(is_read_only(reply) for reply in replies) and time.monotonic() - self._renewed_at > RENEW_S:
                    self._renewed_at = time.monotonic()
                    await self._client.connection_pool.disconnect()  # its name may lead to another server by now
                answered, batch = zip(batch, replies, strict=True), []
                unknown = []
                for call, reply in answered:
                    if isinstance(reply, NoScriptError) and call.fallback is not None:
                        unknown.append(call)
                    else:
                        self._settle(self, call, reply)
                for call in unknown:  # it did not run: sending its text cannot run it twice
                    call.words, call.fallback = call.fallback or (), None
                self._waiting[:0] = unknown
        finally:
            self.sender = None
            for call in [*batch, *(self._waiting if self._ended else [])]:
                _refuse(call.future, "Redis has another primary now; try again")

    async def _execute(self, batch: list[Call]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for call in batch:
            if call.asking:
                pipeline.execute_command("ASKING")
            pipeline.execute_command(*call.words)
        replies = iter(await pipeline.execute(raise_on_error=False))
        found = []
        for call in batch:
            if call.asking:
                next(replies)
            found.append(next(replies))
        return found


_NOWHERE = Address("", 0)


def _part(key: str) -> str:
    """The part of the data that a key belongs to: up to the end of its hash tag."""
    return key.partition("}")[0]


def _refuse(future: asyncio.Future[Reply], why: str) -> None:
    if not future.done():
        future.set_exception(Unavailable(why))
        future.exception()  # an abandoned request is no unhandled error
