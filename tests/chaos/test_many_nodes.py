"""Nodes come, go and die under a steady load, on one Redis: nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.steady_load import SETTINGS, SteadyLoad
from tests.support.http import Exchange
from tests.support.stage import OwnStage, StageMaker
from tests.support.tokens import bearer, make_token
from tests.support.waiting import eventually, limited, run_async

pytestmark = pytest.mark.engines


@run_async
@limited(150)
async def test_a_rolling_restart_of_all_nodes_is_no_leave_no_lost_event_and_every_cursor_resumes(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=2, **SETTINGS)
    load = SteadyLoad(stage)

    await load.play(_restart_one_by_one(stage, load))

    assert load.not_resumed() == []
    assert all(client.node.running for client in load.observers)


async def _restart_one_by_one(stage: OwnStage, load: SteadyLoad) -> None:
    for old in list(stage.nodes):
        await stage.start_node()
        load.leaving.add(old)
        assert await asyncio.to_thread(old.stop) == 0


@run_async
@limited(150)
async def test_a_killed_node_changes_nothing_but_its_own_connections(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=3, **SETTINGS)
    load = SteadyLoad(stage)
    elsewhere = []

    async def kill_one() -> None:
        elsewhere.extend(client for node in stage.nodes[1:] for client in load.staying_on(node))
        await asyncio.to_thread(stage.a.kill)

    await load.play(kill_one())

    assert load.not_resumed() == []
    streams = [client for client in elsewhere if client.transport != "longpoll"]
    assert len(streams) > 30
    greeted = {client.user: [frame["type"] for frame in client.frames].count("welcome") for client in streams}
    assert set(greeted.values()) == {1}, "a connection to a node that lives was lost"


@run_async
async def test_a_stream_goes_on_where_the_newer_connection_died_with_its_node(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    old = await stage.member("sse", stage.b, "alice")
    await stage.member("sse", stage.a, "alice", session=old.session)
    assert await old.until_closed() == 4009
    lines = {**bearer(make_token("alice")), "Accept": "text/event-stream", "Last-Event-ID": old.next}
    query = f"/v1/events?channel={stage.channel}&session={old.session}"

    async def answered(status: int) -> bool:
        exchange = await Exchange.open(stage.b.url, "GET", query, lines)
        try:
            await exchange.read_head()
            return exchange.status == status
        finally:
            exchange.close()

    assert await answered(204)
    await asyncio.to_thread(stage.a.kill)
    await eventually(lambda: answered(200), within_s=5)
