"""Nodes come, go and die under a steady load, on one Redis: nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.steady_load import SETTINGS, SteadyLoad
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import limited, run_async

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
