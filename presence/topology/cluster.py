"""The primaries of a Cluster, by the slots that this deployment uses.

A few servers are asked for their view; for each slot the claim with the highest configuration epoch counts, as it
does among the servers themselves. A view that is older than what is known changes nothing.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import partial
from ipaddress import ip_address

from redis.crc import key_slot

from presence.addresses import Address, RedisUrl
from presence.logs import get
from presence.topology.base import Askers, Topology

log = get(__name__)

ASKED = 10  # servers a look


class ClusterTopology(Topology):
    """Follows the slots of the given keys."""

    def __init__(self, url: RedisUrl, keys: Iterable[str]) -> None:
        super().__init__(url)
        self.sharded = True
        self._slots = {key: key_slot(key.encode()) for key in keys}
        self._askers = Askers(self._options)
        self._homes: dict[int, tuple[int, Address]] = {}
        self._servers: set[Address] = set()
        # Servers may announce a name besides their address: who was given addresses may not be able to resolve it.
        self._by_name = not all(_is_ip(seed.host) for seed in url.seeds)

    def home(self, key: str) -> Address | None:
        """Address of the primary that has the key's slot."""
        slot = self._slots.get(key)
        known = self._homes.get(key_slot(key.encode()) if slot is None else slot)
        return known[1] if known else None

    def homes(self) -> set[Address]:
        """Addresses of the primaries of all slots in use."""
        return {address for _, address in self._homes.values()}

    async def stop(self) -> None:
        """End the loop and its connections."""
        await super().stop()
        await self._askers.close()

    def _why(self) -> list[str]:
        missing = len(set(self._slots.values()) - set(self._homes))
        return [*self._askers.errors(), *([f"{missing} slots without a primary"] if self._homes else [])]

    async def _look(self) -> bool:
        known = self._servers | set(self.url.seeds)
        asked = random.sample(sorted(known), min(ASKED, len(known)))
        answers = await self._askers.ask(asked, ("CLUSTER", "NODES"))
        if not self._homes and answers:
            spublish = await self._askers.ask(answers, ("COMMAND INFO", "SPUBLISH"))
            self.sharded = not any(commands == [[None]] for commands in spublish.values())
        wanted = sorted(set(self._slots.values()))
        found: dict[int, tuple[int, Address]] = {}
        servers: set[Address] = set()
        for address, (text,) in answers.items():
            for server in _servers(_text(text), address.host, self._by_name):
                servers.add(server.address)
                for slot in server.among(wanted):
                    claim = (server.epoch, server.address)
                    found[slot] = max(found.get(slot, claim), claim, key=partial(self._weight, slot))
        if servers:
            self._servers = servers
            await self._askers.keep(servers | set(self.url.seeds))
        most = 2 * len(answers) > len(asked)
        homes = dict(self._homes)
        for slot, claim in found.items():
            if most or claim[0] >= homes.get(slot, (-1, claim[1]))[0]:
                homes[slot] = claim
        if {slot: home for slot, (_, home) in homes.items()} != {slot: home for slot, (_, home) in self._homes.items()}:
            say = log.warning if self._homes else log.info
            say("slots_moved", primaries=sorted(str(home) for home in {home for _, home in homes.values()}))
            self._homes = homes
            self._changed()
        self._homes = homes
        return set(wanted) <= set(homes)

    def _weight(self, slot: int, claim: tuple[int, Address]) -> tuple[int, bool]:
        """The newest claim counts; of two ways to name the same server the one in use."""
        known = self._homes.get(slot)
        return claim[0], known is not None and known[1] == claim[1]


class _Server:
    """One line of CLUSTER NODES."""

    def __init__(self, address: Address, epoch: int, ranges: list[tuple[int, int]]) -> None:
        self.address = address
        self.epoch = epoch
        self._ranges = ranges

    def among(self, slots: list[int]) -> list[int]:
        """Those of the slots, which are in order, that it claims."""
        spans = [slots[bisect_left(slots, low) : bisect_right(slots, high)] for low, high in self._ranges]
        return [slot for span in spans for slot in span]


def _servers(text: str, asked: str, by_name: bool) -> list[_Server]:
    servers = []
    for line in text.splitlines():
        word = line.split()
        if len(word) < 8 or {"noaddr", "handshake"} & set(word[2].split(",")):
            continue
        place, _, name = word[1].partition(",")
        host, _, port = place.partition("@")[0].rpartition(":")
        name = name.partition(",")[0].strip("?") if by_name else ""
        if port == "0":  # it is not known where it listens
            continue
        # A server that does not know its own address yet leaves it empty: it is the one that was asked.
        address = Address(name or host.strip("[]?") or asked, int(port))
        spans = [span.partition("-") for span in word[8:] if not span.startswith("[")]
        servers.append(_Server(address, int(word[6]), [(int(low), int(high or low)) for low, _, high in spans]))
    return servers


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
