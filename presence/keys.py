"""Names of everything this server keeps in Redis; the scripts build theirs on the guard's.

All names of a partition carry its hash tag, so that a script touches one slot and the same code runs on one
Redis, behind Sentinel and in Cluster.
"""

from __future__ import annotations

import zlib

SEPARATOR = "\x1f"  # no name can contain it, so nothing needs escaping
SCHEMA = "1"
INBOX = "@inbox"  # what clients call their user's own mailbox
_INBOX_OF = f"{INBOX}:"

# What stands after `PREFIX:{pN}:`, and the Redis type of it; docs/redis-keys.md explains each.
KINDS = {
    "guard": "hash",
    "alive": "string",
    "due": "zset",
    "sessions": "hash",
    "member": "hash",
    "roster": "zset",
    "meta": "hash",
    "log": "stream",
    "channels": "zset",
    "feed": "stream",
    "queues": "hash",
    "lease": "zset",
    "there": "zset",
    "dead": "stream",
    "again": "stream",
    "lost": "hash",
    "durable": "string",
    "lead": "hash",
    "unarchived": "zset",
    "last": "string",
    "lasts": "zset",
    "bus": "pub/sub",
    "session": "hash",
    "user": "zset",
    "once": "string",
    "onces": "zset",
    "past": "stream",
    "subscribers": "set",
    "subs": "hash",
    "canary": "string",
    "nodes": "hash",
}


def entry(channel: str, user: str, session: str) -> str:
    """Name of one session in one channel."""
    return f"{channel}{SEPARATOR}{user}{SEPARATOR}{session}"


def inbox_of(user: str) -> str:
    """The channel that is a user's own mailbox."""
    return _INBOX_OF + user


def owner_of(channel: str) -> str | None:
    """The user whose mailbox the channel is, None for every other channel."""
    return channel.removeprefix(_INBOX_OF) if channel.startswith(_INBOX_OF) else None


def fed(channel: str) -> bool:
    """Whether what happens there is in the feed: not in the server's own channels."""
    return not channel.startswith("@")


class Keys:
    """Key names of one deployment: `prefix`, its number of partitions and the Redis database number."""

    def __init__(self, prefix: str, partitions: int, database: int = 0) -> None:
        self.partitions = partitions
        self.database = database
        self._bases = [f"{prefix}:{{p{number}}}:" for number in range(partitions)]
        # `never` is written by nobody: with two declared keys, one absent, a migrating slot refuses the script
        # before its first line instead of running it on half of the data.
        self._script_keys = [(f"{base}guard", f"{base}never") for base in self._bases]
        self._buses = [f"{base}bus:{database}" for base in self._bases]  # PUBLISH ignores the database
        self.sharded = False  # whether the buses are sharded channels, as in a Cluster
        self._alive = {f"{base}alive:": number for number, base in enumerate(self._bases)}

    def partition(self, channel: str) -> int:
        """Partition of a channel; a user's own mailbox lies with the user."""
        return self.user_partition(channel.removeprefix(_INBOX_OF))

    def user_partition(self, user: str) -> int:
        """Partition of a user, whatever they are called."""
        return zlib.crc32(user.encode()) % self.partitions

    def script(self, partition: int) -> tuple[str, str]:
        """The two keys that every script of this partition declares."""
        return self._script_keys[partition]

    def bus(self, partition: int) -> str:
        """Channel on which the partition's events and control messages are published."""
        return self._buses[partition]

    def telling(self, partition: int) -> str:
        """The partition's bus for a script, with the command that reaches it: `PUBLISH name` or `SPUBLISH name`."""
        return f"{'SPUBLISH' if self.sharded else 'PUBLISH'} {self._buses[partition]}"

    def canary(self, partition: int, node: str) -> str:
        """Key whose expiry, and channel whose echo, shows that this node's subscription delivers."""
        return f"{self._bases[partition]}canary:{node}"

    def expired_channel(self) -> str:
        """Redis' own channel for keys that expired."""
        return f"__keyevent@{self.database}__:expired"

    def lapsed(self, key: str) -> tuple[int, str] | None:
        """Partition and entry of an expired key, or None if it is no `alive` key of this deployment."""
        start = key.find("}:alive:") + len("}:alive:")
        partition = self._alive.get(key[:start])
        return None if partition is None else (partition, key[start:])

    def channels(self, partition: int) -> str:
        """Sorted set of the channels that have members."""
        return f"{self._bases[partition]}channels"

    def due(self, channel: str) -> str:
        """Sorted set of the deadlines of the partition that the channel is in."""
        return f"{self._bases[self.partition(channel)]}due"

    def roster(self, channel: str) -> str:
        """Sorted set of the channel's members."""
        return f"{self._bases[self.partition(channel)]}roster:{channel}"

    def meta(self, channel: str) -> str:
        """Hash that says where the channel stands."""
        return f"{self._bases[self.partition(channel)]}meta:{channel}"

    def sessions(self, channel: str) -> str:
        """Hash of the channel's live sessions."""
        return f"{self._bases[self.partition(channel)]}sessions:{channel}"

    def user(self, user: str) -> str:
        """Sorted set of the user's sessions by last sign of life: a hint, verified against `sessions`."""
        return f"{self._bases[self.user_partition(user)]}user:{user}"

    def record(self, user: str, session: str) -> str:
        """Hash with a session's connection number and channels."""
        return f"{self._bases[self.user_partition(user)]}session:{user}{SEPARATOR}{session}"
