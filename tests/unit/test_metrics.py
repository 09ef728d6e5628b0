"""Names and labels at ``/metrics``: fixed, complete from the start, and never grown by use."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from presence.metrics import Metrics

NAMES = {
    "presence_sessions",
    "presence_connections",
    "presence_events",
    "presence_offline_lag_seconds",
    "presence_claims",
    "presence_heartbeats",
    "presence_deliveries",
    "presence_delivery_seconds",
    "presence_resumes",
    "presence_slow_clients",
    "presence_redis_up",
    "presence_keyspace_events_up",
    "presence_subscription_gaps",
    "presence_holds",
    "presence_command_seconds",
    "presence_ready",
    "presence_connections_max",
    "presence_redis_seconds",
    "presence_redis_memory_bytes",
    "presence_redis_memory_max_bytes",
    "presence_feed_max",
    "presence_queue_backlog",
    "presence_queue_oldest_seconds",
    "presence_queue_redeliveries",
    "presence_queue_dead_letters",
    "presence_queue_lost",
    "presence_feed_entries",
    "presence_webhook_deliveries",
    "presence_webhook_failing",
    "presence_webhook_lag_seconds",
    "presence_states_restored",
    "presence_archive_reads",
    "presence_node_info",
}


def series(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("presence_")
    }


def test_every_promised_metric_is_there_and_no_other() -> None:
    page, content_type = Metrics().render()
    names = {family.name for family in text_string_to_metric_families(page.decode())}

    assert {name for name in names if name.startswith("presence_")} == NAMES
    assert content_type.startswith("text/plain")


def test_all_label_values_are_there_before_the_first_client() -> None:
    have = series(Metrics())

    assert ("presence_sessions", frozenset({("transport", "longpoll")})) in have
    assert ("presence_events_total", frozenset({("type", "leave"), ("reason", "timeout")})) in have
    assert ("presence_events_total", frozenset({("type", "join"), ("reason", "")})) in have
    assert ("presence_claims_total", frozenset({("source", "sweep"), ("result", "lost")})) in have
    assert ("presence_resumes_total", frozenset({("recovered", "false")})) in have
    assert ("presence_command_seconds_count", frozenset({("command", "refresh")})) in have
    assert ("presence_offline_lag_seconds_bucket", frozenset({("le", "0.25")})) in have


def test_using_the_metrics_adds_no_series() -> None:
    metrics = Metrics()
    before = series(metrics)

    metrics.sessions["websocket"].inc()
    metrics.events["leave", "timeout"].inc(3)
    metrics.claims["notification", "won"].inc()
    metrics.command_seconds["join"].observe(0.001)
    metrics.resumes[True].inc()
    metrics.offline_lag.observe(0.03)
    metrics.redis_up.set(1)

    after = series(metrics)
    assert after.keys() == before.keys()
    assert after["presence_events_total", frozenset({("type", "leave"), ("reason", "timeout")})] == 3
    assert after["presence_redis_up", frozenset()] == 1


def test_two_nodes_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()

    first.heartbeats.inc(5)

    assert series(first)["presence_heartbeats_total", frozenset()] == 5
    assert series(second)["presence_heartbeats_total", frozenset()] == 0


def test_of_several_redis_servers_the_one_nearest_to_its_limit_is_shown() -> None:
    metrics = Metrics()
    servers = [{"used_memory": 900, "maxmemory": 0}, {"used_memory": 80, "maxmemory": 100}, {"used_memory": 10}]

    metrics.memory(servers)

    after = series(metrics)
    assert after["presence_redis_memory_bytes", frozenset()] == 80
    assert after["presence_redis_memory_max_bytes", frozenset()] == 100


def test_the_bounds_are_shown_beside_what_they_bound() -> None:
    after = series(Metrics(max_connections=7, feed_max=9))

    assert after["presence_connections_max", frozenset()] == 7
    assert after["presence_feed_max", frozenset()] == 9
