"""P8: what a process keeps per user includes no timer, no task of the server's own, no delayed callback."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest

from tests.support.clients import TRANSPORTS
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import eventually, limited, run_async

CENSUS = re.compile(r"census timers=(\d+) tasks=(\d+)")
NOISE = 5


@pytest.mark.parametrize(
    ("few", "many"), [(15, 240), pytest.param(51, 4998, marks=[pytest.mark.long, pytest.mark.sample])]
)
@run_async
@limited(600)
async def test_idle_members_cost_no_timers_and_at_most_the_task_of_their_handler(
    own_stage: StageMaker, few: int, many: int
) -> None:
    stage = own_stage(
        nodes=1,
        preload="tests.support.loop_census",
        ttl_ms=600_000,
        ping_ms=300_000,
        max_connections=20_000,
        max_commands_per_second=0,
    )

    await _seat(stage, few)
    timers_few, tasks_few = await _census(stage)
    await _seat(stage, many)

    async def grown_no_more_than_allowed() -> bool:
        timers_many, tasks_many = await _census(stage)
        assert timers_many <= timers_few + NOISE
        assert tasks_many - tasks_few <= many - few + NOISE
        return True

    await eventually(grown_no_more_than_allowed, 60, what=f"{many} members to cost no more timers than {few}")


async def _seat(stage: OwnStage, total: int) -> None:
    """Fill up to that many members, spread over the transports and over channels of their own."""
    kinds = sorted(TRANSPORTS)
    for first in range(len(stage.clients), total, 30):
        numbers = range(first, min(first + 30, total))
        await asyncio.gather(
            *(stage.member(kinds[i % 3], stage.a, f"user-{i}", channel=f"room-{i // 30}", beats=False) for i in numbers)
        )


async def _census(stage: OwnStage) -> tuple[int, int]:
    """Timers and tasks of the node's loop: the least of some readings, as requests and ticks under way have some too."""
    readings = [await _reading(stage) for _ in range(5)]
    return min(timers for timers, _ in readings), min(tasks for _, tasks in readings)


async def _reading(stage: OwnStage) -> tuple[int, int]:
    await asyncio.sleep(0.3)
    seen = len(CENSUS.findall(stage.a.log.read_text()))
    stage.a.process.send_signal(signal.SIGUSR1)
    found = await eventually(lambda: CENSUS.findall(stage.a.log.read_text())[seen:], what="the node's census")
    return int(found[0][0]), int(found[0][1])
