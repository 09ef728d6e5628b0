"""What one server answers to the questions that matter to a node.

It changes nothing but one key of its own, which ends at once, so it may run beside live nodes. To ask one
more question, add a step to `Examination.run`; a step lets its errors pass, `findings.refusal` names them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.client import PubSub

from presence.addresses import Address
from presence.embedded import MIN_VERSION
from presence.examination.asking import CLUSTER_MODE, KINDS, STANDALONE_MODE, connect, mode_of, right_address
from presence.examination.news import heard, subscribe, with_expired
from presence.findings import Findings, refusal
from presence.keys import SCHEMA, Keys
from presence.settings import Settings

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
redis.call(ARGV[1], KEYS[1], 'check')
redis.call('SET', KEYS[1], '1', 'PX', 1)
return 1
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a server is to this deployment: its mode, one partition that it has, and who named it."""

    mode: str = STANDALONE_MODE
    partition: int = 0
    if_unreachable: str = ""  # advice; empty: the server stands in PRESENCE_REDIS_URL itself


async def examine_server(
    settings: Settings, keys: Keys, options: dict[str, Any], address: Address, findings: Findings, part: Part
) -> None:
    """Ask one primary everything that matters here; each answer comes within two seconds."""
    client = connect(options, address)
    try:
        await Examination(settings, keys, client, address, findings, part).run()
    finally:
        await client.aclose()


class Examination:
    """One round of questions to one server; each step notes what it finds, a refused one what it was told."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        client: redis.asyncio.Redis,
        address: Address,
        findings: Findings,
        part: Part,
    ) -> None:
        self.settings = settings
        self.client = client
        self.findings = findings
        self.address = str(address)
        self.part = part
        self.sharded = keys.sharded
        self.guard = keys.script(part.partition)[0]
        self.probe = keys.canary(part.partition, f"check-{secrets.token_hex(8)}")
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
            if problem.name == "unreachable" and self.part.if_unreachable:
                problem = dataclasses.replace(problem, advice=self.part.if_unreachable)
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
        mode = mode_of(self.info)
        if mode != self.part.mode:
            advice = await right_address(self.client, mode, self.address)
            self.findings.add(
                "wrong_mode", f"{self.address} is {KINDS.get(mode, mode)}, not {KINDS[self.part.mode]}", advice
            )
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
        if self.part.mode == CLUSTER_MODE:
            told = await self.client.config_get("cluster-require-full-coverage")
            if told.get("cluster-require-full-coverage") == "yes":
                self.findings.add(
                    "full_coverage",
                    "cluster-require-full-coverage is yes: while one primary is failed over, all partitions stop",
                    "CONFIG SET cluster-require-full-coverage no, and write it into redis.conf",
                    fatal=False,
                )

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
            hears_bus = await self._step(lambda: subscribe(bus, self.probe, sharded=self.sharded))
            try:
                await subscribe(expired, self.expired_channel)
                refused = None
            except exceptions.ResponseError as error:
                refused = str(error)
            if not await self._step(self._run_probe):
                return
            self.findings.good("scripts may run")
            if hears_bus and await heard(bus, self.probe):
                self.findings.good("messages arrive")
            elif hears_bus:
                advice = "look for a proxy between here and Redis that does not pass on pub/sub"
                self.findings.add("bus_silent", "a published message does not arrive", advice)
            arrives = refused is None and await self._sees_expiry(expired)
            self._judge_notifications(arrives, refused)

    async def _run_probe(self) -> None:
        tell = "SPUBLISH" if self.sharded else "PUBLISH"
        try:
            await self.client.evalsha(hashlib.sha1(PROBE.encode()).hexdigest(), 1, self.probe, tell)
        except exceptions.NoScriptError:
            await self.client.eval(PROBE, 1, self.probe, tell)

    async def _sees_expiry(self, expired: PubSub) -> bool:
        """Whether the end of the probe's key is told; asking for the key makes Redis notice that it ended."""
        await asyncio.sleep(0.005)
        await self.client.get(self.probe)
        return await heard(expired, self.probe)

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
        flags = with_expired(self.flags or "")
        reason = f"notify-keyspace-events is {self.flags!r}" if self.may_config else "none arrived in a trial"
        self.findings.add(
            "notifications",
            f"expired keys are not told ({refused or reason}); the sweep finds them as punctually",
            f"CONFIG SET notify-keyspace-events {flags}, and the same without CONFIG SET in redis.conf"
            + (f"; let this user subscribe to {self.expired_channel}" if refused else ""),
            fatal=False,
        )
