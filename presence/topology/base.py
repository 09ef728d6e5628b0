"""Which server is the primary of a key right now: the base of all topologies, and all of it for one Redis.

A topology is asked every half second, and at once when a server behaved as if it had lost its role. Everything that
talks to Redis asks `home` first and is told of changes, so that nobody goes on writing to yesterday's primary.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from presence.addresses import Address, RedisUrl
from presence.logs import get

log = get(__name__)

LOOK_S = 0.5
HURRY_S = 0.1  # between two looks, however often somebody suspects a change
ASK_S = 0.4
STALL_S = 1.2  # more than lies between two looks
CONNECT_S = 0.9


class Topology:
    """One Redis at one address, for ever; the base of the others."""

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.sharded = False  # whether announcements stay within a shard: SPUBLISH instead of PUBLISH
        self._options = connection_options(url.plain)
        self._looked_at = time.monotonic()
        self._suspected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[bool] | None = None
        self._home: Address | None = self._only_address()
        self.on_change: list[Callable[[], None]] = []

    def home(self, key: str) -> Address | None:
        """Address of the key's primary; None while nobody knows one."""
        return self._home

    def homes(self) -> set[Address]:
        """Addresses of all primaries."""
        return {self._home} if self._home else set()

    def client(self, address: Address, timeout_s: float | None) -> redis.asyncio.Redis:
        """A new client of that server, without any retries: a script that a library repeats runs twice."""
        return make_client(self._options | _place(address), timeout_s)

    async def start(self) -> None:
        """Return when every primary is known; from then on keep looking until `stop`."""
        while not await self._look_once():
            log.warning(
                "primary_unknown", kind=self.url.kind, asked=[str(seed) for seed in self.url.seeds], why=self._why()
            )
            await asyncio.sleep(1.0)
        self._task = asyncio.get_running_loop().create_task(self._look_for_ever())

    async def stop(self) -> None:
        """End the loop."""
        for task in (self._task, self._looking):
            while task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)

    def suspect(self) -> None:
        """Somebody met a server that behaves as if it were no primary any more, or was gone: look now."""
        self._suspected.set()

    async def confirm(self) -> None:
        """Called before each batch: a process that stood still looks before it writes to whom it knew."""
        if self._looking is None and time.monotonic() - self._looked_at > STALL_S:
            self._looking = asyncio.get_running_loop().create_task(self._look_once())
        if self._looking is not None:  # one look for all who wait
            await asyncio.wait([self._looking])
            self._looking = None

    # ---- for those who can change ----

    async def _look(self) -> bool:
        """Ask who is primary and `_changed` if it is another; returns whether every primary is known."""
        return self._home is not None

    def _why(self) -> list[str]:
        """Kinds of errors with which those who were asked last have failed."""
        return []

    def _changed(self) -> None:
        for tell in self.on_change:
            tell()

    def _only_address(self) -> Address | None:
        if self.url.kind != "redis":
            return None
        options = self._options
        if "path" in options:
            return Address(options["path"], 0)
        return Address(options.get("host", "localhost"), int(options.get("port", 6379)))

    # ---- below: private ----

    async def _look_once(self) -> bool:
        try:
            return await self._look()
        except Exception as error:  # whatever it is, nobody else looks
            log.warning("topology_unclear", error=type(error).__name__)
            return False
        finally:
            self._looked_at = time.monotonic()

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HURRY_S)
            self._suspected.clear()
            await self._look_once()
            try:
                await asyncio.wait_for(self._suspected.wait(), LOOK_S - HURRY_S)
            except TimeoutError:
                continue


class Askers:
    """One connection to each server that is asked who is who; an answer takes at most 0.4 s."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._clients: dict[Address, redis.asyncio.Redis] = {}
        self._errors: dict[Address, Exception] = {}

    async def ask(self, addresses: Iterable[Address], *commands: tuple[str, ...]) -> dict[Address, list[Any]]:
        """Replies of those that answered."""
        asked = list(addresses)
        answers = await asyncio.gather(*(self._ask(address, commands) for address in asked))
        return {address: answer for address, answer in zip(asked, answers, strict=True) if answer is not None}

    def errors(self) -> list[str]:
        """Kinds of errors that the servers gave last; their texts may quote what was sent."""
        return sorted({type(error).__name__ for error in self._errors.values()})

    async def _ask(self, address: Address, commands: tuple[tuple[str, ...], ...]) -> list[Any] | None:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = make_client(self._options | _place(address), ASK_S)
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(ASK_S):
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._errors[address] = error
            await client.connection_pool.disconnect()
            return None
        refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refused is not None:
            self._errors[address] = refused
            return None
        self._errors.pop(address, None)
        return replies

    async def keep(self, addresses: set[Address]) -> None:
        """Close the connections to all others."""
        for address in self._clients.keys() - addresses:
            self._errors.pop(address, None)
            await self._clients.pop(address).aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self.keep(set())


def make_client(options: dict[str, Any], timeout_s: float | None) -> redis.asyncio.Redis:
    """A client that never retries, speaks RESP2 and gives up after `timeout_s`."""
    pool = redis.asyncio.ConnectionPool(
        **options
        | {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": min(CONNECT_S, timeout_s or CONNECT_S),
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
    )
    return redis.asyncio.Redis.from_pool(pool)


def connection_options(plain: str) -> dict[str, Any]:
    """What a redis:// address says of a connection, in the library's words."""
    return dict(parse_url(plain))


def _place(address: Address) -> dict[str, Any]:
    return {"host": address.host, "port": address.port} if address.port else {}
