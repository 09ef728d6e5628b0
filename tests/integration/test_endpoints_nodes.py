"""Which nodes there are, and when members would go: what people who look at a deployment are told."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.support import tokens
from tests.support.clients import Frame
from tests.support.node import Node
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

STATE = {"redis", "subscription", "no_eviction", "draining", "keyspace_events"}


async def _nodes(stage: Stage, by: Node | None = None) -> dict[str, Frame]:
    answer = await stage.ask("GET", "nodes", node=by or stage.a, key=tokens.READ_KEY)
    return {row["node"]: {**row, "age_ms": answer["now"] - row["seen_at"]} for row in answer["nodes"]}


@run_async
async def test_every_node_knows_all_nodes_and_how_they_are(stage: Stage) -> None:
    before = await _nodes(stage)
    await stage.member("websocket", stage.b, "ann")

    async def counted() -> bool:
        seen = await _nodes(stage)
        return seen[stage.b.name]["sessions"]["websocket"] == before[stage.b.name]["sessions"]["websocket"] + 1

    await eventually(counted, what="the report of the other node")
    for asked in stage.nodes:
        seen = await _nodes(stage, asked)
        assert {node.name for node in stage.nodes} <= seen.keys()
        for node in stage.nodes:
            row = seen[node.name]
            assert row["self"] is (node is asked)
            assert row["ready"] is row["listening"] is True
            assert row.keys() >= STATE
            assert row["started_at"] <= row["seen_at"]
            assert 0 <= row["age_ms"] < 5000


@run_async
async def test_only_a_key_of_a_back_end_opens_the_nodes(stage: Stage) -> None:
    client = tokens.make_token("ann")

    assert (await stage.api("GET", "nodes", key=None)).problem() == (401, "unauthorized")
    assert (await stage.api("GET", "nodes", key=client)).problem() == (401, "unauthorized")
    assert (await stage.api("POST", "nodes", json={})).problem() == (405, "bad_request")


@run_async
async def test_metrics_say_whose_they_are(stage: Stage) -> None:
    for node in stage.nodes:
        page = (await stage.probe("/metrics", node)).body.decode()
        families = {family.name: family for family in text_string_to_metric_families(page)}

        (sample,) = families["presence_node_info"].samples
        assert sample.labels["node"] == node.name


@run_async
async def test_a_roster_with_deadlines_says_when_each_member_would_go(stage: Stage) -> None:
    await stage.ask("PUT", "channels", stage.channel, "members", "ann", json={"ttl_ms": 60_000})
    await stage.ask("PUT", "channels", stage.channel, "members", "ann", json={"session": "short-lived", "ttl_ms": 1000})
    await stage.ask("PUT", "channels", stage.channel, "members", "bob", json={"ttl_ms": 20_000})

    members = ("channels", stage.channel, "members")
    answer = await stage.ask("GET", *members, query={"deadlines": "true"}, key=tokens.READ_KEY)
    plain = await stage.ask("GET", *members)

    left_ms = {member["user"]: member["expires_at"] - answer["now"] for member in answer["members"]}
    assert 50_000 < left_ms["ann"] <= 60_000
    assert 10_000 < left_ms["bob"] <= 20_000
    assert "now" not in plain
    assert all("expires_at" not in member for member in plain["members"])
    refused = await stage.api("GET", *members, query={"deadlines": "1"})
    assert refused.problem() == (400, "bad_request")


@run_async
async def test_a_closed_connection_moves_the_deadline_to_the_end_of_its_grace(stage: Stage) -> None:
    ann = await stage.member("websocket", stage.a, "ann", ttl_ms=60_000)

    async def left_ms() -> int:
        query = {"deadlines": "true"}
        answer = await stage.ask("GET", "channels", stage.channel, "members", query=query)
        return int(answer["members"][0]["expires_at"] - answer["now"]) if answer["members"] else 0

    assert await left_ms() > 30_000
    await ann.close()

    await eventually(lambda: _below(left_ms, 1000), what="grace has begun, or is over")


@run_async
async def test_a_killed_node_is_seen_as_silent_and_a_stopped_one_is_not_there(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=3)
    stays, killed, stopped = stage.nodes

    killed.kill()
    await asyncio.to_thread(stopped.stop)

    async def silent() -> bool:
        seen = await _nodes(stage, stays)
        return stopped.name not in seen and not seen[killed.name]["listening"]

    await eventually(silent, what="one is silent, one is gone")
    assert (await _nodes(stage, stays))[stays.name]["listening"]


@run_async
async def test_nodes_of_long_ago_and_of_a_clock_that_was_set_back_are_forgotten(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    client = stage.redis.client()
    (key,) = client.keys("*:{p0}:nodes")
    now_ms = client.time()[0] * 1000
    for name, age_ms in (("old", 700_000), ("of-the-future", -700_000), ("recent", 300_000)):
        client.hset(key, name, "\x1f".join((str(now_ms - age_ms), str(now_ms - age_ms), '{"version":"0"}')))
    assert (await _nodes(stage)).keys() == {stage.a.name, "recent"}

    await stage.start_node()

    assert {name.decode() for name in client.hkeys(key)} == {node.name for node in stage.nodes} | {"recent"}


async def _below(number: object, bound: int) -> bool:
    return await number() < bound  # type: ignore[operator]
