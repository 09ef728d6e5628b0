"""A real primary with replicas, and Sentinels that watch it, on free loopback ports.

Their configuration is that of docs/deploy.md, with shorter times.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import redis
from redis.exceptions import RedisError

from tests.support.documents import options
from tests.support.redis_lock import Lock
from tests.support.redis_server import SOONER, RedisServer, config_text
from tests.support.waiting import wait_until

NAME = options("sentinel.conf: every Sentinel")["sentinel monitor"].split()[0]
SHORTER = {"sentinel down-after-milliseconds": f"{NAME} 1000", "sentinel failover-timeout": f"{NAME} 5000"}


class Sentinel(RedisServer):
    """One Sentinel process; it rewrites its own configuration, so a restart keeps what it knew."""

    def __init__(self, directory: Path, primary_port: int, quorum: int, lock: Lock | None) -> None:
        """Start at once."""
        self._watched = f"{NAME} 127.0.0.1 {primary_port} {quorum}"
        super().__init__(directory, lock=lock)

    def _options_text(self) -> str:
        told = options("sentinel.conf: every Sentinel") | {"sentinel monitor": self._watched} | SHORTER
        locked = self.lock.options("sentinel.conf", "users", "TLS") if self.lock else {}
        return config_text(told | locked | self._place())

    def _arguments(self) -> list[str]:
        return ["--sentinel"]


class RedisSentinels:
    """One primary, `replicas` and `sentinels`, all real processes."""

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        config: dict[str, str] | None = None,
        lock: Lock | None = None,
    ) -> None:
        """Start all and return when the Sentinels know each other and every replica is in step."""
        self.lock = lock
        users = ("users, with replicas", "users, behind Sentinels", "TLS between servers")
        locked = lock.options("redis.conf", *users) if lock else {}
        first = options("redis.conf: with replicas") | SOONER | locked | (config or {})
        self.servers: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []
        try:
            self.servers.append(RedisServer(directory / "server-0", config=first, lock=lock))
            follow = first | {"replicaof": f"127.0.0.1 {self.servers[0].port}"}
            for number in range(1, replicas + 1):
                self.servers.append(RedisServer(directory / f"server-{number}", config=follow, lock=lock))
            wait_until(lambda: all(_linked(server) for server in self.servers[1:]), "the replicas are in step")
            quorum = sentinels // 2 + 1
            for number in range(sentinels):
                folder = directory / f"sentinel-{number}"
                self.sentinels.append(Sentinel(folder, self.servers[0].port, quorum, lock))
            wait_until(lambda: all(self._complete(sentinel) for sentinel in self.sentinels), "the Sentinels agree")
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """The URL that names the Sentinels, with the nodes' users if all is locked."""
        if self.lock:
            return self.lock.url("Sentinel", [sentinel.port for sentinel in self.sentinels])
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{NAME}?db=0"

    def client(self) -> redis.Redis:
        """The primary's own client."""
        return self.primary().client()

    def primary(self) -> RedisServer:
        """The server that most Sentinels name."""
        named = [self.named_by(sentinel) for sentinel in self.sentinels if sentinel.running]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    def named_by(self, sentinel: Sentinel) -> int:
        """The port of the primary in that Sentinel's eyes."""
        place = sentinel.client().execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return int(place[1])

    def fail_over(self) -> None:
        """Ask for a failover, as an operator does."""
        self.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", NAME)

    def stop(self) -> None:
        """End all servers, the Sentinels first."""
        for server in [*self.sentinels, *self.servers]:
            server.stop()

    def __enter__(self) -> RedisSentinels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _complete(self, sentinel: Sentinel) -> bool:
        try:
            state = sentinel.client().sentinel_master(NAME)
            sentinel.client().execute_command("SENTINEL", "CKQUORUM", NAME)
        except RedisError:
            return False
        others = int(state["num-other-sentinels"]) == len(self.sentinels) - 1
        return others and int(state["num-slaves"]) == len(self.servers) - 1


def _linked(server: RedisServer) -> bool:
    return bool(server.client().info("replication").get("master_link_status") == "up")
