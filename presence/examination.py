"""What a given Redis answers to the questions that matter to this server; a part of `presence check`.

It changes nothing but one key of its own, which ends at once, so it may run beside live nodes. To ask one
more question, add a step to `_Examination.run`; a step lets its errors pass, `findings.refusal` names them.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from presence.embedded import MIN_VERSION
from presence.findings import Findings, refusal
from presence.keys import SCHEMA, Keys
from presence.settings import Settings, masked_url

TIMEOUT_S = 2.0
NEWS_S = 1.0
SLOW_MS = 20.0
PINGS = 10

# One command of every kind that the server's scripts use, on one key that is gone a millisecond later.
PROBE = """
redis.pcall('INFO', 'replication')
redis.call('TIME')
redis.call('HSET', KEYS[1], 'field', '1') redis.call('HGETALL', KEYS[1]) redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], 1, 'one') redis.call('ZSCAN', KEYS[1], 0) redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], '1-0', 'field', '1') redis.call('XRANGE', KEYS[1], '-', '+')
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[1], 'check')
redis.call('SET', KEYS[1], '1', 'PX', 1)
return 1
"""


async def examine_redis(settings: Settings, findings: Findings) -> None:
    """Ask the Redis of these settings everything that matters here; each answer comes within two seconds."""
    try:
        client = redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # what even a server that is too old speaks, so that it can say its version
            decode_responses=True,
        )
    except (ValueError, exceptions.RedisError) as error:
        findings.add("bad_url", f"PRESENCE_REDIS_URL: {error}", "write redis://[user:password@]host:port/0")
        return
    try:
        await _Examination(settings, client, findings).run()
    finally:
        await client.aclose()


class _Examination:
    """One round of questions to one Redis; each step notes what it finds, a refused one what it was told."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis, findings: Findings) -> None:
        self.settings = settings
        self.client = client
        self.findings = findings
        self.address = masked_url(settings.redis_url)
        self.database = int(client.connection_pool.connection_kwargs.get("db") or 0)
        keys = Keys(settings.key_prefix, settings.partitions, self.database)
        self.guard = keys.script(0)[0]
        self.probe = keys.canary(0, f"check-{secrets.token_hex(8)}")
        self.expired_channel = keys.expired_channel()
        self.flags: str | None = None
        self.may_config = False
        self.info: dict[str, Any] = {}

    async def run(self) -> None:
        """Ask everything; where it cannot even be reached, one problem says why."""
        if not await self._step(self._round_trip):
            return
        await self._step(self._server)
        if "wrong_mode" in self.findings.names():
            return  # it would answer the rest with errors that say less
        for step in (self._memory, self._config, self._state, self._scripts_and_news):
            await self._step(step)

    async def _step(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except (exceptions.RedisError, OSError, TimeoutError, ValueError) as error:
            problem = refusal(error, self.address, self.settings.key_prefix)
            if problem.name == "forbidden" or problem.name not in self.findings.names():
                self.findings.problems.append(problem)
            return False
        return True

    async def _round_trip(self) -> None:
        await self.client.ping()
        times = []
        for _ in range(PINGS):
            began = time.perf_counter()
            await self.client.ping()
            times.append(1000 * (time.perf_counter() - began))
        took_ms = statistics.median(times)
        if took_ms <= SLOW_MS:
            self.findings.good(f"{self.address} answers, round trip {took_ms:.1f} ms")
            return
        self.findings.add(
            "slow",
            f"a round trip to {self.address} takes {took_ms:.0f} ms: departures are told later by that much",
            "run the nodes in the same zone as Redis, and see `redis-cli --latency` and SLOWLOG for its load",
            fatal=False,
        )

    async def _server(self) -> None:
        try:
            self.info = await self.client.info()
        except exceptions.ResponseError as error:
            self.findings.add(
                "no_info",
                f"version, role and eviction policy cannot be seen: {error}",
                "allow this user INFO, or look at them yourself: at least 6.2, a primary, noeviction",
                fatal=False,
            )
            return
        name = "Valkey" if "valkey_version" in self.info else "Redis"
        version = str(self.info.get("valkey_version") or self.info.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MIN_VERSION:
            self.findings.add("old_version", f"{name} {version} is too old", "upgrade it to 6.2 or newer")
        else:
            self.findings.good(f"{name} {version}")
        mode = self.info.get("redis_mode") or self.info.get("server_mode") or "standalone"
        if mode != "standalone":
            advice = "give the address of one primary that is not part of a Cluster"
            self.findings.add("wrong_mode", f"this server runs as {mode}, which is not supported yet", advice)
        if self.info.get("role", "master") != "master":
            primary = f"{self.info.get('master_host')}:{self.info.get('master_port')}"
            what = f"{self.address} is a replica: it refuses every change (READONLY)"
            self.findings.add("replica", what, f"give the address of the primary; it says that is {primary}")

    async def _memory(self) -> None:
        policy = self.info.get("maxmemory_policy")
        if policy == "noeviction":
            self.findings.good("nothing is evicted (maxmemory-policy noeviction)")
        elif policy:
            self.findings.add(
                "eviction",
                f"maxmemory-policy is {policy}: when memory is full, members vanish without a word",
                "CONFIG SET maxmemory-policy noeviction, and write it into redis.conf",
            )
        limit, used = int(self.info.get("maxmemory", 0)), int(self.info.get("used_memory", 0))
        if 0.9 * limit < used < limit:  # beyond the limit the trial script is refused, which is fatal
            self.findings.add(
                "memory_nearly_full",
                f"{used >> 20} of {limit >> 20} MiB are used; beyond it every join is `unavailable`",
                "raise maxmemory",
                fatal=False,
            )

    async def _config(self) -> None:
        try:
            told = await self.client.config_get("notify-keyspace-events")
        except exceptions.ResponseError:  # no right, or a provider that has renamed the command
            return
        self.may_config = True
        self.flags = told.get("notify-keyspace-events", "")

    async def _state(self) -> None:
        """Compare with what the first node of this deployment wrote."""
        found: list[Any] = await self.client.hmget(self.guard, ["schema", "partitions"])
        schema, partitions = found
        if partitions and int(partitions) != self.settings.partitions:
            self.findings.add(
                "partitions",
                f"this deployment was started with {partitions} partitions, not {self.settings.partitions}",
                f"set PRESENCE_PARTITIONS={partitions}, or another PRESENCE_KEY_PREFIX for a new deployment",
            )
        if schema and int(schema) > int(SCHEMA):
            what = f"the data have schema {schema}, this version of the server knows {SCHEMA}"
            self.findings.add("schema", what, "run a newer version of the server, or set another PRESENCE_KEY_PREFIX")

    async def _scripts_and_news(self) -> None:
        """Run a script as the server does, and see whether its message and the end of its key are told."""
        async with self.client.pubsub() as bus, self.client.pubsub() as expired:
            hears_bus = await self._step(lambda: _subscribe(bus, self.probe))
            try:
                await _subscribe(expired, self.expired_channel)
                refused = None
            except exceptions.ResponseError as error:
                refused = str(error)
            if not await self._step(self._run_probe):
                return
            self.findings.good("scripts may run")
            if hears_bus and await _heard(bus, self.probe):
                self.findings.good("messages arrive")
            elif hears_bus:
                advice = "look for a proxy between here and Redis that does not pass on pub/sub"
                self.findings.add("bus_silent", "a published message does not arrive", advice)
            arrives = refused is None and await self._sees_expiry(expired)
            self._judge_notifications(arrives, refused)

    async def _run_probe(self) -> None:
        try:
            await self.client.evalsha(hashlib.sha1(PROBE.encode()).hexdigest(), 1, self.probe)
        except exceptions.NoScriptError:
            await self.client.eval(PROBE, 1, self.probe)

    async def _sees_expiry(self, expired: PubSub) -> bool:
        """Whether the end of the probe's key is told; asking for the key makes Redis notice that it ended."""
        await asyncio.sleep(0.005)
        await self.client.get(self.probe)
        return await _heard(expired, self.probe)

    def _judge_notifications(self, arrives: bool, refused: str | None) -> None:
        if not self.may_config:
            self.findings.add(
                "no_config",
                "this user may not read CONFIG, so notifications were tried out instead: "
                + ("they arrive" if arrives else "none arrived"),
                "nothing if they arrive; the server never needs CONFIG, it tries them out the same way",
                fatal=False,
            )
        if arrives:
            self.findings.good("keyspace notifications of expired keys arrive")
            return
        flags = _with_expired(self.flags or "")
        reason = f"notify-keyspace-events is {self.flags!r}" if self.may_config else "none arrived in a trial"
        self.findings.add(
            "notifications",
            f"expired keys are not told ({refused or reason}); the sweep finds them as punctually",
            f"CONFIG SET notify-keyspace-events {flags}, and the same without CONFIG SET in redis.conf"
            + (f"; let this user subscribe to {self.expired_channel}" if refused else ""),
            fatal=False,
        )


async def _subscribe(pubsub: PubSub, channel: str) -> None:
    await pubsub.subscribe(channel)
    ends = time.monotonic() + TIMEOUT_S
    while time.monotonic() < ends:
        message = await pubsub.get_message(timeout=0.1)
        if message and message["type"] == "subscribe":
            return
    raise TimeoutError


async def _heard(pubsub: PubSub, text: str) -> bool:
    """Whether this key, or a message on this channel, is told in time; others' news are passed over."""
    ends = time.monotonic() + NEWS_S
    while time.monotonic() < ends:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
        if message and text in (message["channel"], message["data"]):
            return True
    return False


def _with_expired(flags: str) -> str:
    """The flags with what they lack of E (events by key name) and x (expired; A contains it)."""
    return flags + ("" if "E" in flags else "E") + ("" if {"x", "A"} & set(flags) else "x")
