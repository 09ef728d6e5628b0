"""The test stand of offline_lag.py: two nodes on a Redis, a crowd of live sessions, and a second Redis for the
bare subscriber with as many keys."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import redis.asyncio

from tests.bench import bare
from tests.support.http import request
from tests.support.node import ROOT, Node
from tests.support.redis_server import RedisServer

PREFIX = "bench"
PARTITIONS = 16
MANY = 50_000  # from here on two processes share the joining
LOADED_S = 1800.0
NOTICED_S = 30.0


class Crowds:
    """Processes that keep sessions alive (crowd.py), and how far they say they are."""

    def __init__(self, url: str, live: int, ttl_ms: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._said: list[Counter[str]] = []
        parts = 2 if live >= MANY else 1
        for part in range(parts):
            first, end = live * part // parts, live * (part + 1) // parts
            self._start(url, first, end - first, ttl_ms)

    def total(self, word: str) -> int:
        """Sum of what they said last."""
        return sum(said[word] for said in self._said)

    def check(self) -> None:
        """Fail if one of them ended: then its sessions time out."""
        codes = [process.poll() for process in self._processes]
        assert codes == [None] * len(codes), f"a crowd ended with {codes}"

    def stop(self) -> None:
        """End them."""
        for process, reader in zip(self._processes, self._readers, strict=True):
            process.kill()
            process.wait()
            reader.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self, url: str, first: int, count: int, ttl_ms: int) -> None:
        arguments = {"redis": url, "prefix": PREFIX, "partitions": PARTITIONS, "first": first, "count": count}
        flags = [f"--{name}={value}" for name, value in {**arguments, "ttl-ms": ttl_ms}.items()]
        command = [sys.executable, "-m", "tests.bench.crowd", *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said: Counter[str] = Counter()
        reader = threading.Thread(target=_listen, args=(process, said), daemon=True)
        reader.start()
        self._processes.append(process)
        self._readers.append(reader)
        self._said.append(said)


class Stand:
    """Everything a measurement needs; an async context."""

    redis_version = ""

    def __init__(self, live: int, live_ttl_ms: int, ttl_ms: int) -> None:
        self._live = live
        self._live_ttl_ms = live_ttl_ms
        self._ttl_ms = ttl_ms
        self._ends = ExitStack()

    async def __aenter__(self) -> Stand:
        try:
            await self._build()
        except BaseException:
            self._ends.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.aclose()
        self._ends.close()

    @property
    def refreshed(self) -> int:
        """Heartbeats of live sessions that were sent so far."""
        return self._crowds.total("refreshed")

    @property
    def lost(self) -> int:
        """Those that Redis refused, because the session was not there any more."""
        self._crowds.check()
        return self._crowds.total("lost")

    async def notifications(self, on: bool) -> None:
        """Switch Redis's notifications, and wait until both nodes have noticed."""
        self.first.client().config_set("notify-keyspace-events", "Ex" if on else "")
        ends = time.monotonic() + NOTICED_S
        for node in (self.a, self.b):
            while (await request(node.url, "GET", "/readyz")).json()["keyspace_events"] is not on:
                assert time.monotonic() < ends, "a node did not notice that notifications were switched"
                await asyncio.sleep(0.2)

    async def claims(self) -> Counter[str]:
        """Claims won by notification and by sweep, and timeouts announced, by both nodes."""
        found: Counter[str] = Counter()
        for node in (self.a, self.b):
            page = (await request(node.url, "GET", "/metrics")).body.decode()
            for source, number in re.findall(r'presence_claims_total\{result="won",source="(\w+)"\} (\S+)', page):
                found[source] += int(float(number))
            for number in re.findall(r'presence_events_total\{reason="timeout",type="leave"\} (\S+)', page):
                found["announced"] += int(float(number))
        return found

    def offset_ms(self) -> float:
        """What Redis's clock is ahead of ours: none to speak of, on one machine."""
        best_s, offset_s = 1.0, 0.0
        for _ in range(50):
            before_s = time.time()
            seconds, microseconds = self.first.client().time()
            took_s = time.time() - before_s
            if took_s < best_s:
                best_s, offset_s = took_s, seconds + microseconds / 1e6 - before_s - took_s / 2
        return offset_s * 1000

    async def _build(self) -> None:
        self.first = self._ends.enter_context(RedisServer(appendonly=False))
        self.second = self._ends.enter_context(RedisServer(appendonly=False))
        self.client = redis.asyncio.from_url(self.first.url)
        Stand.redis_version = self.first.client().info("server")["redis_version"]
        self._crowds = Crowds(self.first.url, self._live, self._live_ttl_ms)
        self._ends.callback(self._crowds.stop)
        await self._load()
        self.a, self.b = (self._node() for _ in range(2))
        for node in (self.a, self.b):
            node.ready(60)

    async def _load(self) -> None:
        # Before the nodes start: a million joins that nobody watches need not be read twice.
        filling = asyncio.get_running_loop().run_in_executor(None, bare.fill, self.second.url, self._live)
        ends, shown = time.monotonic() + LOADED_S, time.monotonic()
        while (joined := self._crowds.total("joined")) < self._live:
            self._crowds.check()
            assert time.monotonic() < ends, f"only {joined} sessions within {LOADED_S} s"
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                print(f"  joined {joined:,} of {self._live:,}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.1)
        await filling

    def _node(self) -> Node:
        times = {"ttl_ms": self._ttl_ms, "grace_ms": min(5000, self._ttl_ms), "ping_ms": self._ttl_ms // 3}
        options = {"key_prefix": PREFIX, "partitions": PARTITIONS, **times}
        node = Node.launch(self.first.directory, self.first.url, **options)
        self._ends.callback(node.kill)
        return node


def _listen(process: subprocess.Popen[str], said: Counter[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        said.update({name: int(value) - said[name] for name, value in zip(words[::2], words[1::2], strict=True)})
