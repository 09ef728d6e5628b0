"""Webhooks over a failover of Redis: what was written durably arrives, and in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.hooks import leader, write_targets
from tests.support.ports import free_ports
from tests.support.primaries import give_replica, kill_primary
from tests.support.receiver import Receiver
from tests.support.stage import EngineStageMaker, OwnStage
from tests.support.waiting import eventually, limited, run_async

pytestmark = [pytest.mark.engines, pytest.mark.long]

ROOMS = 12
MESSAGES = 60  # in each room, one after the other
HEAL_S = 60.0


async def publish(stage: OwnStage, room: str, done: list[str]) -> None:
    for number in range(MESSAGES):
        while True:
            response = await stage.api(
                *("POST", "channels", room, "messages"),
                json={"name": "n", "data": number, "durability": "durable"},
                headers={"Idempotency-Key": f"{room}-{number}"},
                within_s=20,
            )
            if response.status == 200:
                break
            await asyncio.sleep(0.05)
        done.append(room)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@run_async
@limited(180)
async def test_what_was_written_durably_arrives_in_order_though_the_primary_is_killed(
    engine_stage: EngineStageMaker, kind: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    targets = {"hook": {"url": f"http://127.0.0.1:{port}/", "batch": 10}}
    stage = engine_stage(kind, 2, webhooks_file=write_targets(tmp_path / "webhooks.toml", targets))
    rooms = [stage.name("hook") for _ in range(ROOMS)]
    done: list[str] = []
    async with Receiver(port) as receiver:
        await leader(stage, "hook")
        publishing = asyncio.gather(*(publish(stage, room, done) for room in rooms))
        await eventually(lambda: len(done) > ROOMS * MESSAGES // 3, HEAL_S)
        await give_replica(stage.redis, kill_primary(stage.redis))
        await asyncio.wait_for(publishing, 120)
        await eventually(lambda: len({(e["channel"], e["data"]) for e in receiver.events}) == ROOMS * MESSAGES, HEAL_S)

    for room in rooms:
        data = [event["data"] for event in receiver.events if event["channel"] == room]
        assert list(dict.fromkeys(data)) == list(range(MESSAGES))
