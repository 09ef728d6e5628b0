"""The engines on which the contract holds: one Redis, a primary behind Sentinels, a Cluster, Valkey.

Each is started when a test first asks for it, with two nodes on it, and stays until the tests end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis

import presence.embedded
from tests.support.node import Node
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_lock import Lock, refusals
from tests.support.redis_sentinels import RedisSentinels
from tests.support.redis_server import RedisServer

STANDALONE = "standalone"
OTHERS = ("sentinel", "cluster", "valkey")
LOCKED = ("valkey",)
"""On these the nodes come in as the user of docs/deploy.md, with no more rights than it lists."""
PREFIX = "presence:"
"""What every key prefix begins with: other keys that user may not touch."""


class Engine(Protocol):
    """What nodes keep their state in."""

    @property
    def url(self) -> str:
        """What PRESENCE_REDIS_URL must say."""

    def client(self) -> redis.Redis:
        """A client of the primary."""

    def stop(self) -> None:
        """End all its processes."""


def start_engine(kind: str, directory: Path, lock: Lock | None = None) -> Engine:
    """A new engine; Valkey is the server that the embedded one falls back to."""
    if kind == "sentinel":
        return RedisSentinels(directory, lock=lock)
    if kind == "cluster":
        return RedisCluster(directory, lock=lock)
    return RedisServer(directory, lock=lock, program=packaged_program() if kind == "valkey" else None)


def packaged_program() -> str:
    """The server that comes with the extra `embedded`."""
    program = presence.embedded._packaged_program()
    if program is None:
        pytest.skip("needs the extra `embedded`: pip install '.[embedded]'")
    return program


class Deployment:
    """An engine and two nodes on it, with short times."""

    def __init__(self, engine: Engine, directory: Path, noticed: Callable[[Node], Any]) -> None:
        self.engine = engine
        prefix = PREFIX + secrets.token_hex(4)
        self.nodes = [Node.launch(directory, engine.url, key_prefix=prefix) for _ in range(2)]
        for node in self.nodes:
            noticed(node)
        for node in self.nodes:
            node.ready()


class Deployments:
    """One deployment of each kind, made when it is first asked for."""

    def __init__(self, make_directory: Callable[[str], Path], noticed: Callable[[Node], Any]) -> None:
        self._make_directory = make_directory
        self._noticed = noticed
        self._engines: dict[str, Engine] = {}
        self._deployments: dict[str, Deployment] = {}

    def engine(self, kind: str) -> Engine:
        """The engine of that kind, shared by all tests that leave it as it is."""
        if kind not in self._engines:
            lock = Lock() if kind in LOCKED else None
            self._engines[kind] = start_engine(kind, self._make_directory(kind), lock)
        return self._engines[kind]

    def deployment(self, kind: str) -> Deployment:
        """Two nodes on that engine, shared by all tests that leave them running."""
        if kind not in self._deployments:
            directory = self._make_directory(f"nodes-{kind}")
            self._deployments[kind] = Deployment(self.engine(kind), directory, self._noticed)
        return self._deployments[kind]

    def nodes(self) -> list[Node]:
        """All nodes so far."""
        return [node for deployment in self._deployments.values() for node in deployment.nodes]

    def stop(self) -> None:
        """End the engines; the nodes are ended before. Fail if a locked one has refused anything to anybody."""
        refused = {kind: refusals(engine.client()) for kind, engine in self._engines.items() if kind in LOCKED}
        for engine in self._engines.values():
            engine.stop()
        assert not any(refused.values()), f"the rights in docs/deploy.md are not enough: {refused}"
