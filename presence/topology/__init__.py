"""Where the primaries are: one Redis, one that Sentinels name, or those of a Cluster."""

from __future__ import annotations

from collections.abc import Iterable

from presence.addresses import CLUSTER, SENTINEL, RedisUrl
from presence.topology.base import Askers, Topology, connection_options, make_client
from presence.topology.cluster import ClusterTopology
from presence.topology.sentinel import SentinelTopology

__all__ = ["Askers", "Topology", "connection_options", "make_client", "make_topology"]


def make_topology(url: RedisUrl, keys: Iterable[str]) -> Topology:
    """The topology of this address; `keys` names one key of every part of the data that is in use."""
    if url.kind == CLUSTER:
        return ClusterTopology(url, keys)
    return SentinelTopology(url) if url.kind == SENTINEL else Topology(url)
