"""The Redis side of the capacity benchmarks: one server or a Cluster of three, and what it used.

Without append-only file, replicas or TLS: what those cost comes on top.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from presence.addresses import parse_redis_url
from presence.keys import Keys
from presence.lanes import Lanes
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings
from presence.topology import make_topology
from presence.tracker import Tracker
from tests.bench.stand import PARTITIONS, PREFIX
from tests.support.node import Node
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

PRIMARIES = {"standalone": 1, "cluster": 3}
TOPOLOGIES = tuple(PRIMARIES)
PATIENCE_S = 10.0
CONFIG = {"appendonly": "no", "client-output-buffer-limit": "pubsub 512mb 512mb 60"}  # a backlog is wanted here


@dataclass(frozen=True)
class Usage:
    """Processor time in s and script calls so far, a figure for each primary."""

    cpu_s: tuple[float, ...]
    scripts: int
    script_s: float

    def __sub__(self, earlier: Usage) -> Usage:
        spent = tuple(now - before for now, before in zip(self.cpu_s, earlier.cpu_s, strict=True))
        return Usage(spent, self.scripts - earlier.scripts, self.script_s - earlier.script_s)

    @property
    def total_s(self) -> float:
        """Of all primaries together."""
        return sum(self.cpu_s)


class Engine:
    """The primaries of one deployment."""

    version = ""  # of the last one that was started

    def __init__(self, url: str, servers: list[RedisServer], client: redis.Redis, directory: Path) -> None:
        self.url = url
        self.servers = servers
        self.client = client
        self.directory = directory
        Engine.version = str(servers[0].client().info("server")["redis_version"])

    def usage(self) -> Usage:
        """What the primaries have used since they were started."""
        cpus, stats = [], []
        for server in self.servers:
            info = server.client().info("cpu")
            cpus.append(info["used_cpu_user"] + info["used_cpu_sys"])
            found = server.client().info("commandstats")
            stats += [found[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in found]
        return Usage(tuple(cpus), sum(s["calls"] for s in stats), sum(s["usec"] for s in stats) / 1e6)

    def memory(self) -> int:
        """Bytes that the primaries hold."""
        return sum(server.client().info("memory")["used_memory"] for server in self.servers)

    def node(self, **settings: object) -> Node:
        """Launch a node of this deployment; it is not ready yet."""
        return Node.launch(self.directory, self.url, key_prefix=PREFIX, partitions=PARTITIONS, **settings)


@contextmanager
def engine(topology: str) -> Iterator[Engine]:
    """A new, empty deployment that ends with the context."""
    with TemporaryDirectory(prefix="presence-bench-") as name:
        directory = Path(name)
        if topology == "standalone":
            with RedisServer(directory / "redis", config=CONFIG) as server:
                yield Engine(server.url, [server], server.client(), directory)
        else:
            with RedisCluster(directory, primaries=PRIMARIES[topology], replicas=0, config=CONFIG) as cluster:
                yield Engine(cluster.url, cluster.servers, cluster.client(), directory)


@contextmanager
def nodes(place: Engine, count: int, **settings: object) -> Iterator[list[Node]]:
    """So many nodes, ready; killed at the end."""
    launched: list[Node] = []
    try:
        for _ in range(count):
            launched.append(place.node(**settings))
        for node in launched:
            node.ready(60)
        yield launched
    finally:
        for node in launched:
            node.kill()


@asynccontextmanager
async def tracker(place: Engine) -> AsyncIterator[Tracker]:
    """The server's own way to Redis, in this process: what a node's part of joins and heartbeats would send."""
    keys = Keys(PREFIX, PARTITIONS)
    topology = make_topology(parse_redis_url(place.url), [keys.script(number)[0] for number in range(PARTITIONS)])
    await topology.start()
    keys.sharded = topology.sharded
    lanes = Lanes(topology, timeout_s=PATIENCE_S)
    try:
        yield Tracker(Scripts(lanes), keys, Settings(), "bench", Metrics())
    finally:
        await lanes.close()
        await topology.stop()


async def usage_over(place: Engine, window_s: float) -> Usage:
    """What the primaries use while the window passes."""
    before = place.usage()
    await asyncio.sleep(window_s)
    return place.usage() - before


def cpu_of(process: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
