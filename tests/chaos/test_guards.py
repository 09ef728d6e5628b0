"""Every guard of the exactly-once promise, and the proof that without it the promise breaks.

A scenario forces the one order of events that its guard is there for. It must hold with the guard and fail with the
guard taken out; what it asserts is a promise, never the guard itself.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.guards import GUARDS, Guard, Scenario
from tests.chaos.workbench import Workbench
from tests.support.patches import without
from tests.support.redis_server import RedisServer

LIMIT_S = 20
SCENARIOS = list(dict.fromkeys(guard.scenario for guard in GUARDS))


def play(scenario: Scenario, redis_server: RedisServer) -> None:
    """Run the scenario on a deployment of its own."""

    async def on_a_bench() -> None:
        bench = Workbench(redis_server)
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(bench)
        finally:
            await bench.aclose()

    asyncio.run(on_a_bench())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_holds_in_the_awkward_order(scenario: Scenario, redis_server: RedisServer) -> None:
    play(scenario, redis_server)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_its_guard_the_promise_breaks(guard: Guard, redis_server: RedisServer) -> None:
    with without(guard.cut), pytest.raises(AssertionError):
        play(guard.scenario, redis_server)
