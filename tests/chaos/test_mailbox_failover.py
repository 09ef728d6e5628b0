"""Mailboxes over a failover: what was sent durably waits on the new primary, and positions hold."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.mailboxes import drain_all
from tests.support.primaries import give_replica, kill_primary
from tests.support.stage import EngineStageMaker, OwnStage
from tests.support.waiting import eventually, limited, run_async

USERS = 8
MESSAGES = 12  # of each user, and in each channel
HEAL_S = 30.0

pytestmark = [pytest.mark.engines, pytest.mark.long]


async def durably(stage: OwnStage, *words: str, **body: Any) -> str:
    """A durable call, repeated until it is confirmed; the cursor it answered, if it has one."""
    key = stage.name("key")

    async def confirmed() -> Any:
        answer = await stage.api(*words, json={**body, "durability": "durable"}, headers={"Idempotency-Key": key})
        assert answer.status in (200, 204), answer
        return answer

    answer = await eventually(confirmed, HEAL_S)
    return str(answer.json()["cursor"]) if answer.body else ""


async def waiting(stage: OwnStage, user: str) -> dict[str, list[Any]]:
    """The data that waits for a user, by channel; nothing may be missed."""

    async def answered() -> Any:
        answer = await stage.api("GET", "users", user, "inbox", query={"limit": 1000})
        assert answer.status == 200
        return answer

    entries = (await eventually(answered, HEAL_S)).json()["channels"]
    assert all("missed" not in entry and "recovered" not in entry for entry in entries), entries
    return {entry["channel"]: [event["data"] for event in entry["events"]] for entry in entries}


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@run_async
@limited(150)
async def test_what_waits_and_what_was_acknowledged_survive_a_killed_primary(
    engine_stage: EngineStageMaker, kind: str
) -> None:
    stage = engine_stage(kind, nodes=2)
    people = {f"user-{number}": f"room-{number}" for number in range(USERS)}
    for user, room in people.items():
        await durably(stage, "PUT", "channels", room, "subscribers", user)
    for number in range(MESSAGES):
        for user, room in people.items():
            own = await durably(stage, "POST", "users", user, "messages", name="m", data=number)
            cursor = await durably(stage, "POST", "channels", room, "messages", name="m", data=number)
            if number == 2:
                await durably(stage, "POST", "users", user, "inbox", "ack", channel="@inbox", cursor=own)
                await durably(stage, "POST", "users", user, "inbox", "ack", channel=room, cursor=cursor)
    await give_replica(stage.redis, kill_primary(stage.redis))
    for user, room in people.items():
        assert await waiting(stage, user) == {name: list(range(3, MESSAGES)) for name in ("@inbox", room)}
        await durably(stage, "POST", "users", user, "messages", name="m", data=MESSAGES)
        await durably(stage, "POST", "channels", room, "messages", name="m", data=MESSAGES)
    for user, room in people.items():
        assert await drain_all(stage, user) == {name: list(range(3, MESSAGES + 1)) for name in ("@inbox", room)}
