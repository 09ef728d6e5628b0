"""Every number the server shows at ``/metrics``.

All label values are known beforehand and made here: a series must never be born from a user, a channel or any
other input, or the monitoring of a busy deployment breaks before the deployment does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from presence import __version__

TRANSPORTS = ("websocket", "sse", "longpoll")
COMMANDS = ("join", "leave", "set", "publish", "history", "who", "beat", "bye", "refresh", "fetch", "ack")
EVENT_KINDS = (
    ("join", ""),
    ("leave", "left"),
    ("leave", "timeout"),
    ("leave", "disconnected"),
    ("update", ""),
    ("message", ""),
)
WEBHOOK_RESULTS = ("ok", "failed", "dead")
# 0.25 s is the promise for an announced leave: it must be an edge, or the promise cannot be read off.
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMAND_BUCKETS = (0.0005, 0.001, 0.0025, *LAG_BUCKETS)


class Metrics:
    """The metrics of one node, with a child ready for every label value."""

    def __init__(self, node: str = "", *, max_connections: int = 0, feed_max: int = 0) -> None:
        """The two bounds are settings, shown for comparison."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._traffic(registry)
        self._presence(registry)
        self._health(registry)
        self._bounds(registry, max_connections, feed_max)
        self._name(registry, node)
        self._backends(registry)

    def render(self) -> tuple[bytes, str]:
        """Return the page for Prometheus and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def memory(self, servers: Sequence[Mapping[str, object]]) -> None:
        """What each Redis server says of its memory: the one that is nearest to its limit is shown."""
        sizes = [(int(str(info.get("used_memory", 0))), int(str(info.get("maxmemory", 0)))) for info in servers]
        used, most = max(sizes, key=lambda size: (size[0] / size[1] if size[1] else 0.0, size[0]), default=(0, 0))
        self.redis_memory.set(used)
        self.redis_memory_most.set(most)

    def connected(self) -> dict[str, int]:
        """Sessions connected now, by transport."""
        samples = [sample for family in self._sessions.collect() for sample in family.samples]
        return {sample.labels["transport"]: int(sample.value) for sample in samples}

    def _traffic(self, registry: CollectorRegistry) -> None:
        sessions = Gauge("presence_sessions", "Sessions connected to this node", ["transport"], registry=registry)
        self._sessions, self.sessions = sessions, {name: sessions.labels(name) for name in TRANSPORTS}
        connections = Counter("presence_connections_total", "Connections opened", ["transport"], registry=registry)
        self.connections = {name: connections.labels(name) for name in TRANSPORTS}
        deliveries = Counter(
            "presence_deliveries_total", "Frames of events put for clients", ["transport"], registry=registry
        )
        self.deliveries = {name: deliveries.labels(name) for name in TRANSPORTS}
        self.delivery = Histogram(
            "presence_delivery_seconds",
            "From an event's instant to its write to a socket",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        commands = Histogram(
            "presence_command_seconds",
            "Time to answer a client's command",
            ["command"],
            buckets=COMMAND_BUCKETS,
            registry=registry,
        )
        self.command_seconds = {name: commands.labels(name) for name in COMMANDS}
        self.slow_clients = Counter(
            "presence_slow_clients_total", "Clients closed because they read too slowly", registry=registry
        )

    def _presence(self, registry: CollectorRegistry) -> None:
        events = Counter(
            "presence_events_total", "Events announced by this node", ["type", "reason"], registry=registry
        )
        self.events = {kind: events.labels(*kind) for kind in EVENT_KINDS}
        self.offline_lag = Histogram(
            "presence_offline_lag_seconds",
            "From a session's deadline to the announcement",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        claims = Counter(
            "presence_claims_total",
            "Attempts to announce a lapsed session",
            ["source", "result"],
            registry=registry,
        )
        self.claims = {
            (source, result): claims.labels(source, result)
            for source in ("notification", "sweep")
            for result in ("won", "lost")
        }
        self.heartbeats = Counter("presence_heartbeats_total", "Signs of life written", registry=registry)
        resumes = Counter("presence_resumes_total", "Returns with a cursor", ["recovered"], registry=registry)
        self.resumes = {True: resumes.labels("true"), False: resumes.labels("false")}

    def _health(self, registry: CollectorRegistry) -> None:
        self.redis_up = Gauge("presence_redis_up", "1 while Redis answers", registry=registry)
        self.keyspace_events_up = Gauge(
            "presence_keyspace_events_up", "1 while expiry notifications arrive", registry=registry
        )
        self.subscription_gaps = Counter(
            "presence_subscription_gaps_total",
            "Times this node missed events and read them from the log",
            registry=registry,
        )
        self.holds = Counter("presence_holds_total", "Mass departures held back after a stall", registry=registry)
        self.ready = Gauge("presence_ready", "1 while this node can serve, as /readyz says", registry=registry)
        self.redis_seconds = Histogram(
            "presence_redis_seconds",
            "From a sweep's question to Redis to its answer",
            buckets=COMMAND_BUCKETS,
            registry=registry,
        )
        self.redis_memory = Gauge(
            "presence_redis_memory_bytes", "Memory used by the Redis server that is fullest", registry=registry
        )
        self.redis_memory_most = Gauge(
            "presence_redis_memory_max_bytes", "Most memory that server may use, 0 for no limit", registry=registry
        )

    def _bounds(self, registry: CollectorRegistry, max_connections: int, feed_max: int) -> None:
        """Settings that other metrics are compared with."""
        Gauge("presence_connections_max", "Connections that this node accepts", registry=registry).set(max_connections)
        Gauge("presence_feed_max", "Events that the feed may hold", registry=registry).set(feed_max)

    def _name(self, registry: CollectorRegistry, node: str) -> None:
        """One series for as long as the process lives: whoever reads through a proxy must know whose page it got."""
        about = Gauge("presence_node_info", "Whose page this is; always 1", ["node", "version"], registry=registry)
        about.labels(node, __version__).set(1)

    def _backends(self, registry: CollectorRegistry) -> None:
        self.queue_redeliveries = Counter(
            "presence_queue_redeliveries_total", "Events handed out by a queue once more", registry=registry
        )
        self.queue_dead_letters = Counter(
            "presence_queue_dead_letters_total", "Events that were delivered too often and set aside", registry=registry
        )
        self.queue_backlog = Gauge(
            "presence_queue_backlog", "Events that the fullest queue has not acknowledged", registry=registry
        )
        self.queue_oldest = Gauge(
            "presence_queue_oldest_seconds",
            "Age of the oldest event that a queue has not acknowledged",
            registry=registry,
        )
        self.queue_lost = Gauge(
            "presence_queue_lost", "Events that had to go before a queue acknowledged them", registry=registry
        )
        attempts = Counter(
            "presence_webhook_deliveries_total", "Attempts to deliver a batch of events", ["result"], registry=registry
        )
        self.webhook_deliveries = {name: attempts.labels(name) for name in WEBHOOK_RESULTS}
        self.webhook_failing = Gauge(
            "presence_webhook_failing", "Webhooks delivered by this node whose last attempt failed", registry=registry
        )
        self.webhook_lag = Gauge(
            "presence_webhook_lag_seconds",
            "Age of the oldest event that this node is about to deliver",
            registry=registry,
        )
        restored = Counter(
            "presence_states_restored_total",
            "Users who returned, by what became of their last state",
            ["result"],
            registry=registry,
        )
        self.states_restored = {result: restored.labels(result) for result in ("restored", "none", "given_up")}
        reads = Counter("presence_archive_reads_total", "Questions to the archive", ["result"], registry=registry)
        self.archive_reads = {result: reads.labels(result) for result in ("answered", "failed")}
        self.feed_entries = Gauge("presence_feed_entries", "Events in the feed, over all partitions", registry=registry)
