"""What the Redis of these settings answers to the questions that matter to a node; a part of `presence check`.

`server` asks one primary, `sentinel` and `cluster` find out which ones there are and what is wrong between them.
"""

from __future__ import annotations

from presence.addresses import CLUSTER, SENTINEL, parse_redis_url
from presence.examination.asking import TIMEOUT_S
from presence.examination.cluster import examine_cluster
from presence.examination.sentinel import examine_sentinels
from presence.examination.server import Part, examine_server
from presence.findings import Findings
from presence.keys import Keys
from presence.settings import Settings
from presence.topology import Topology, connection_options

__all__ = ["TIMEOUT_S", "examine_redis"]

_ADDRESS = "write redis://[user:password@]host:port/0, percent-encoded, or see `presence settings` for other schemes"


async def examine_redis(settings: Settings, findings: Findings) -> None:
    """Ask the servers of these settings everything that matters here; each answer comes within two seconds."""
    try:
        url = parse_redis_url(settings.redis_url)
    except ValueError as error:
        findings.add("bad_url", f"PRESENCE_REDIS_URL: {error}", _ADDRESS)
        return
    options = connection_options(url.plain)
    address = next(iter(url.seeds or Topology(url).homes()))
    keys = Keys(settings.key_prefix, settings.partitions, url.database)
    if url.kind == CLUSTER:
        await examine_cluster(settings, url, keys, findings)
    elif url.kind == SENTINEL:
        await examine_sentinels(settings, url, keys, findings)
    else:
        await examine_server(settings, keys, options, address, findings, Part())
