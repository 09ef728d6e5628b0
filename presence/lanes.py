"""Carries commands to the primaries: one lane per server, one pipeline at a time in each.

Calls made in one turn of the event loop travel together; the next pipeline leaves when the answers to the one before
are there. So the busier the node, the larger its batches, without a timer; and a server that stands still delays
nobody who asks another. What a server refused before it changed anything goes again within the command's budget, to
the server that it named or that the topology names by then. An unknown outcome is never repeated: it is `Unavailable`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from redis.exceptions import AskError, MovedError

from presence.addresses import Address
from presence.lane import Call, Lane, NotConfirmed, Reply, Words, part_of, refuse
from presence.logs import get
from presence.refusals import changed_nothing, kind_of
from presence.topology import Topology

log = get(__name__)

TIMEOUT_S = 0.9  # twice this, a lost connection and its successor, stays below the promised 2 s
REPEAT_S = 1.0  # a call that old is not sent again: its time-out must still fit into the 2 s
PAUSE_S, MAX_PAUSE_S = 0.02, 0.2
COMPLAIN_S = 5.0


class Lanes:
    """Sends commands to whoever is the primary of their key; every failure to ask is `Unavailable`."""

    def __init__(
        self,
        topology: Topology,
        is_away: Callable[[str], bool] = lambda key: False,
        timeout_s: float = TIMEOUT_S,
        replicas: int = 0,
    ) -> None:
        """`is_away`: whether it is known already that the key's server does not answer; then nobody waits for it.
        `replicas`: how many must have what was written before the answer is given, else it is Unavailable."""
        self._timeout_s = timeout_s
        self._replicas = replicas
        self._topology = topology
        self._is_away = is_away
        self._lanes: dict[Address, Lane] = {}
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
        return (lane is not None and lane.away) or part_of(key) in self._refused

    def send(self, key: str, *words: str | bytes | int, fallback: Words | None = None) -> asyncio.Future[Reply]:
        """Queue one command of this key's server; the future has the reply, or raises Unavailable."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._is_away(key):
            refuse(future, "Redis cannot be asked right now; try again")
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
            refuse(call.future, "no server has this part of the data right now; try again")
            return
        lane = self._lanes.get(address)
        if lane is None:
            client = self._topology.client(address, self._timeout_s)
            lane = self._lanes[address] = Lane(address, client, self._topology, self._settle, self._replicas)
        lane.put(call)

    def _homes_changed(self) -> None:
        """Leave the servers that are nobody's primary any more at once, whatever is on its way to them."""
        homes = self._topology.homes()
        for address in [address for address in self._lanes if address not in homes]:
            lane = self._lanes.pop(address)
            for call in self._end(lane):
                self._put(call)

    def _end(self, lane: Lane) -> list[Call]:
        waiting = lane.end()
        task = asyncio.get_running_loop().create_task(lane.closed())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return waiting

    def _settle(self, lane: Lane, call: Call, reply: Reply) -> None:
        if call.future.done():
            return
        if not isinstance(reply, Exception):
            call.future.set_result(reply)
            if self._refused:
                self._refused.discard(part_of(call.key))
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
        elif isinstance(reply, NotConfirmed):
            refuse(call.future, "it was written, but not confirmed by enough replicas; try again")
        else:
            if changed_nothing(reply):
                self._refused.add(part_of(call.key))
            self._complain(lane, reply)
            refuse(call.future, "Redis cannot be asked right now; try again")

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
                refuse(call.future, "this node is going")

    def _complain(self, lane: Lane, error: Exception) -> None:
        """A line now and then tells as much as one for each of a thousand calls."""
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.warning("redis_refused", server=str(lane.address), error=kind_of(error))


_NOWHERE = Address("", 0)
