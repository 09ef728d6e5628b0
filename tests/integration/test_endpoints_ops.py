"""The endpoints without a key: health, readiness, metrics, pages."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients import TRANSPORTS
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

METRICS = {
    "presence_sessions": {"transport"},
    "presence_connections": {"transport"},
    "presence_events": {"type", "reason"},
    "presence_offline_lag_seconds": set(),
    "presence_claims": {"source", "result"},
    "presence_heartbeats": set(),
    "presence_deliveries": {"transport"},
    "presence_delivery_seconds": set(),
    "presence_resumes": {"recovered"},
    "presence_slow_clients": set(),
    "presence_redis_up": set(),
    "presence_keyspace_events_up": set(),
    "presence_subscription_gaps": set(),
    "presence_holds": set(),
    "presence_command_seconds": {"command"},
}
HISTOGRAMS = {"presence_offline_lag_seconds", "presence_delivery_seconds", "presence_command_seconds"}
GAUGES = {"presence_sessions", "presence_redis_up", "presence_keyspace_events_up"}


@run_async
async def test_health_and_readiness_need_no_key(stage: Stage) -> None:
    assert (await stage.probe("/healthz")).status == 200
    assert (await stage.probe("/readyz")).status == 200


@run_async
async def test_every_metric_of_the_contract_is_there_from_the_start_with_its_labels(stage: Stage) -> None:
    answer = await stage.probe("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}

    assert answer.headers["content-type"].startswith("text/plain")
    for name, labels in METRICS.items():
        family = families[name]
        assert family.type == ("gauge" if name in GAUGES else "histogram" if name in HISTOGRAMS else "counter")
        assert family.samples, f"{name} has no series before anything happened"
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels, sample
    text = answer.body.decode()
    for total in ("connections", "events", "claims", "heartbeats", "deliveries", "resumes", "slow_clients"):
        assert re.search(rf"^presence_{total}_total\b", text, re.MULTILINE)
    assert {s.labels["source"] for s in families["presence_claims"].samples} == {"notification", "sweep"}
    assert {s.labels["result"] for s in families["presence_claims"].samples} == {"won", "lost"}
    assert {s.labels["transport"] for s in families["presence_sessions"].samples} == set(TRANSPORTS)


@run_async
async def test_channels_and_users_make_no_series(stage: Stage) -> None:
    before = await _series(stage)

    for number in range(30):
        await stage.member("websocket", stage.a, f"user-{number}", channel=stage.name("room"))

    assert await _series(stage) == before


@run_async
async def test_the_sessions_gauge_follows_connections(stage: Stage, transport: str) -> None:
    before = await _value(stage, "presence_sessions", transport=transport)
    alice = await stage.member(transport, stage.a, "alice")
    await eventually(lambda: _is(stage, before + 1, transport))  # a poll counts while it waits

    await alice.close()

    await eventually(lambda: _is(stage, before, transport))


@run_async
async def test_events_and_deliveries_are_counted(stage: Stage) -> None:
    watcher = await stage.watcher("websocket", stage.a)
    before = await _value(stage, "presence_deliveries", transport="websocket")
    joins = await _value(stage, "presence_events", type="join") + await _value(stage, "presence_events", 1, type="join")

    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={})
    await stage.fence(watcher)

    assert await _value(stage, "presence_deliveries", transport="websocket") > before
    now = await _value(stage, "presence_events", type="join") + await _value(stage, "presence_events", 1, type="join")
    assert now >= joins + 1


@run_async
async def test_without_dev_there_is_no_demo_page_but_the_browser_client(stage: Stage) -> None:
    assert (await stage.probe("/")).problem() == (404, "not_found")
    assert (await stage.probe("/static/../pyproject.toml")).status == 404


async def _series(stage: Stage) -> int:
    text = (await stage.probe("/metrics")).body.decode()
    return sum(1 for line in text.splitlines() if line.startswith("presence_"))


async def _value(stage: Stage, name: str, node: int = 0, **labels: str) -> float:
    text = (await stage.probe("/metrics", stage.nodes[node])).body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families[name].samples
    return sum(s.value for s in samples if labels.items() <= s.labels.items() and not s.name.endswith("_created"))


async def _is(stage: Stage, value: float, transport: str) -> bool:
    return await _value(stage, "presence_sessions", transport=transport) == value
