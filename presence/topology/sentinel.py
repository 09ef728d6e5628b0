"""The primary of one Redis and its replicas, as the Sentinels name it.

All Sentinels are asked; the one with the highest configuration epoch has heard of the latest failover. The library's
own Sentinel client keeps its live connections to the old primary, which stays writable for seconds: what is written
there is rolled back.
"""

from __future__ import annotations

from typing import Any

from presence.addresses import Address, RedisUrl
from presence.logs import get
from presence.topology.base import Askers, Topology, connection_options

log = get(__name__)


class SentinelTopology(Topology):
    """Follows the Sentinels."""

    def __init__(self, url: RedisUrl) -> None:
        super().__init__(url)
        self._askers = Askers(connection_options(url.sentinel_plain))
        self._epoch = -1
        self._named = True

    async def stop(self) -> None:
        """End the loop and its connections."""
        await super().stop()
        await self._askers.close()

    def _why(self) -> list[str]:
        return self._askers.errors()

    async def _look(self) -> bool:
        name, seeds = self.url.name, self.url.seeds
        answers = await self._askers.ask(
            seeds, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), ("SENTINEL", "MASTER", name)
        )
        named = [(_epoch(state), _address(place)) for place, state in answers.values() if place]
        if self._home and bool(named) != self._named:
            self._named = bool(named)
            say = log.info if named else log.warning
            say("sentinels_answer" if named else "sentinels_silent", primary=str(self._home), why=self._why())
        if not named:
            return self._home is not None  # without Sentinels the last primary that they named goes on
        # The same primary may be named in two ways: the one that is in use is kept.
        epoch, address = max(named, key=lambda claim: (claim[0], claim[1] == self._home, claim[1]))
        if epoch < self._epoch and 2 * len(named) <= len(seeds):
            return True  # few have answered, and they have not heard of the last failover yet
        self._epoch = epoch
        if address != self._home:
            say = log.warning if self._home else log.info
            say("primary_changed", old=str(self._home), new=str(address))
            self._home = address
            self._changed()
        return True


def _address(place: Any) -> Address:
    return Address(place[0].decode(), int(place[1]))


def _epoch(state: Any) -> int:
    fields = dict(zip(state[::2], state[1::2], strict=True))
    return int(fields[b"config-epoch"])
