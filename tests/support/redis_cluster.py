"""A real Redis Cluster of a test's own: primaries and replicas on free loopback ports.

Its configuration is that of docs/deploy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

import redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.support.documents import options
from tests.support.redis_lock import Lock
from tests.support.redis_server import SOONER, RedisServer
from tests.support.waiting import wait_until

SLOTS = 16_384


class RedisCluster:
    """`primaries` servers that share the slots, then the replicas in the same order, one round after the other."""

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        config: dict[str, str] | None = None,
        lock: Lock | None = None,
    ) -> None:
        """Start all servers and return when they agree."""
        told = options("redis.conf: with replicas", "redis.conf: in a Cluster")
        locked = lock.options("redis.conf", "users, with replicas", "TLS between servers") if lock else {}
        every = told | SOONER | locked | (config or {})
        self.lock = lock
        self.primaries = primaries
        self.servers: list[RedisServer] = []
        try:
            for number in range(primaries * (1 + replicas)):
                self.servers.append(RedisServer(directory / f"server-{number}", config=every, lock=lock))
            self._form()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """The URL that names two of the servers, with the nodes' user if all is locked."""
        if self.lock:
            return self.lock.url("Cluster", [server.port for server in self.servers[:2]])
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def client(self) -> redis.Redis:
        """A client that finds the primary of each key; its answers are bytes."""
        login = self.lock.login() if self.lock else {}
        return redis.RedisCluster(host="127.0.0.1", port=self.servers[0].port, **login)  # type: ignore[return-value]

    def holder(self, key: str) -> RedisServer | None:
        """The server that says with the newest claim that it is the primary of the key now."""
        slot = key_slot(key.encode())
        for owner, span in self._views().items():
            if any(low <= slot <= high for low, high in span):
                return owner
        return None

    def migrate(self, key: str, source: RedisServer, target: RedisServer) -> None:
        """Move the key's slot while it is in use, as `redis-cli --cluster reshard` does; blocks meanwhile."""
        self.begin_migration(key, source, target)()

    def begin_migration(self, key: str, source: RedisServer, target: RedisServer) -> Callable[[], None]:
        """Move some of the keys in the key's slot; returns what moves the others and ends the migration."""
        slot, there = key_slot(key.encode()), self.identity(target)
        target.client().execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.identity(source))
        source.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        self._move_keys(slot, source, target, 3)
        return partial(self._end_migration, slot, source, target)

    def _move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int) -> bool:
        keys = source.client().execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.client().execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 2000, "KEYS", *keys)
        return bool(keys)

    def _end_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        while self._move_keys(slot, source, target, 10):
            pass
        there = self.identity(target)
        for server in [target, source, *(other for other in self.servers if other not in (source, target))]:
            if server.running and server.client().info("replication")["role"] == "master":
                server.client().execute_command("CLUSTER", "SETSLOT", slot, "NODE", there)

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """A replica of that server."""
        own = self.identity(primary)
        for server in self.servers:
            if server.running and server is not primary:
                told = server.client().execute_command("CLUSTER", "MYID").decode()
                lines = self._nodes(server)
                line = next(words for words in lines if words[0] == told)
                if "slave" in line[2] and line[3] == own:
                    return server
        raise AssertionError("it has no replica")

    def identity(self, server: RedisServer) -> str:
        """The server's id in the Cluster."""
        return str(server.client().execute_command("CLUSTER", "MYID").decode())

    def keep_still(self) -> bool:
        """Whether all running servers agree that all slots are served."""
        states = [_state(server) for server in self.servers if server.running]
        return all(state == "ok" for state in states)

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.stop()

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _form(self) -> None:
        first = self.servers[0]
        for epoch, server in enumerate(self.servers, 1):
            server.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for number, server in enumerate(self.servers[: self.primaries]):
            low, high = (SLOTS * at // self.primaries for at in (number, number + 1))
            server.client().execute_command("CLUSTER", "ADDSLOTS", *range(low, high))
        for server in self.servers[1:]:
            server.client().execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)
        wait_until(lambda: all(len(self._nodes(server)) == len(self.servers) for server in self.servers), "all meet")
        for number, server in enumerate(self.servers[self.primaries :]):
            primary = self.servers[number % self.primaries]
            identity = self.identity(primary)
            wait_until(lambda s=server, i=identity: _replicate(s, i), "a primary is known")  # type: ignore[misc]
        wait_until(self._complete, "the Cluster is complete")

    def _complete(self) -> bool:
        replicas = self.servers[self.primaries :]
        linked = all(server.client().info("replication").get("master_link_status") == "up" for server in replicas)
        return linked and self.keep_still() and all(self._knows_replicas(server) for server in self.servers)

    def _knows_replicas(self, server: RedisServer) -> bool:
        return sum("slave" in words[2] for words in self._nodes(server)) == len(self.servers) - self.primaries

    def _nodes(self, server: RedisServer) -> list[list[str]]:
        text = server.client().execute_command("CLUSTER", "NODES")
        if isinstance(text, dict):
            raise AssertionError("the client parsed the answer")
        lines = [line.split() for line in text.decode().splitlines()]
        return [words for words in lines if "handshake" not in words[2]]

    def _views(self) -> dict[RedisServer, list[tuple[int, int]]]:
        by_port = {server.port: server for server in self.servers}
        claims: dict[RedisServer, tuple[int, list[tuple[int, int]]]] = {}
        for asked in self.servers:
            if not asked.running or asked.paused:
                continue
            try:
                lines = self._nodes(asked)
            except (RedisError, OSError):
                continue
            for words in lines:
                if "myself" in words[2] and len(words) > 8:
                    spans = [span.partition("-") for span in words[8:] if not span.startswith("[")]
                    owner = by_port[int(words[1].partition("@")[0].rpartition(":")[2])]
                    claims[owner] = (int(words[6]), [(int(low), int(high or low)) for low, _, high in spans])
        newest = sorted(claims.items(), key=lambda claim: -claim[1][0])
        return {owner: spans for owner, (_, spans) in newest}


def _state(server: RedisServer) -> str:
    text = server.client().execute_command("CLUSTER", "INFO")
    fields = text if isinstance(text, dict) else dict(line.split(":") for line in text.decode().split())
    return str(fields["cluster_state"])


def _replicate(server: RedisServer, identity: str) -> bool:
    try:
        server.client().execute_command("CLUSTER", "REPLICATE", identity)
    except RedisError:
        return False
    return True
