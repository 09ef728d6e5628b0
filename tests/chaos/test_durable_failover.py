"""What was answered as durable is there after the primary is killed, and what was repeated is there once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.primaries import give_replica, kill_primary
from tests.support.queues import WorkQueue
from tests.support.stage import EngineStageMaker, OwnStage
from tests.support.waiting import eventually, limited, run_async

pytestmark = pytest.mark.engines

MESSAGES = 10_000
KILL_AFTER = 3_000
PUBLISHERS = 40
ROOMS = 16


class Publishers:
    """Publish numbers durably, each until it is answered with 2xx."""

    def __init__(self, stage: OwnStage) -> None:
        self._stage = stage
        self._rooms = [f"{stage.channel}-{n}" for n in range(ROOMS)]
        self._numbers = iter(range(MESSAGES))
        self.done = 0
        self.refused = 0

    async def run(self) -> None:
        """Until all numbers are published."""
        await asyncio.gather(*(self._publish(n % len(self._stage.nodes)) for n in range(PUBLISHERS)))

    async def _publish(self, node: int) -> None:
        for number in self._numbers:
            while not await self._published(number, node):
                self.refused += 1
                await asyncio.sleep(0.05)
            self.done += 1

    async def _published(self, number: int, node: int) -> bool:
        response = await self._stage.api(
            *("POST", "channels", self._rooms[number % ROOMS], "messages"),
            json={"name": "n", "data": number, "durability": "durable"},
            headers={"Idempotency-Key": f"key-{number}"},
            node=self._stage.nodes[node],
        )
        assert response.status in (200, 503), response
        return response.status == 200


@pytest.mark.parametrize("kind", ["sentinel", pytest.param("cluster", marks=pytest.mark.long)])
@run_async
@limited(180)
async def test_a_primary_killed_under_durable_publishes_loses_none_of_them(
    engine_stage: EngineStageMaker, kind: str
) -> None:
    stage = engine_stage(kind, nodes=2)
    queue = await WorkQueue(stage, channels=f"{stage.channel}*", types=["message"]).open()
    publishers = Publishers(stage)
    publishing = asyncio.ensure_future(publishers.run())
    await eventually(lambda: publishers.done >= KILL_AFTER, 60)
    await give_replica(stage.redis, kill_primary(stage.redis))
    await asyncio.wait_for(publishing, 120)

    seen: Counter[int] = Counter()
    while events := await queue.take(count=500):
        seen.update(event["data"] for event in events)
        await queue.say("ack", [event["id"] for event in events])
    assert publishers.refused > 0, "nobody noticed the kill"
    assert seen == Counter(range(MESSAGES))
