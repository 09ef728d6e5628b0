"""A work queue of a test's own, and what gives it work."""

from __future__ import annotations

from typing import Any

from tests.support.clients import Frame
from tests.support.stage import Stage


class WorkQueue:
    """One queue of a test, for its own channel only."""

    def __init__(self, stage: Stage, **wants: Any) -> None:
        self.stage = stage
        self.name = stage.name("queue")
        self.wants = {"channels": stage.channel, **wants}

    async def open(self, **more: Any) -> WorkQueue:
        """Create the queue, or change it."""
        response = await self.stage.api("PUT", "queues", self.name, json={**self.wants, **more})
        assert response.status == 204, response
        return self

    async def take(self, consumer: str = "one", **more: Any) -> list[Frame]:
        """What the consumer is given."""
        body = {"consumer": consumer, "count": 100, "wait_ms": 0, "lease_ms": 30_000, **more}
        return list((await self.stage.ask("POST", "queues", self.name, "take", json=body))["events"])

    async def say(self, word: str, ids: list[str], consumer: str = "one", **more: Any) -> tuple[list[str], list[str]]:
        """`ack`, `release` or `extend`."""
        body = {"consumer": consumer, "ids": ids, **more}
        answer = await self.stage.ask("POST", "queues", self.name, word, json=body)
        assert answer.keys() == {"acked", "refused"}
        return answer["acked"], answer["refused"]

    async def look(self) -> Frame:
        """The queue in numbers."""
        return dict(await self.stage.ask("GET", "queues", self.name))

    async def dead(self, **query: Any) -> Frame:
        """Its dead letters."""
        return dict(await self.stage.ask("GET", "queues", self.name, "dead", query=query))


async def come_and_go(stage: Stage, *users: str, state: Any = None) -> None:
    """One user after the other is a member for a moment."""
    for user in users:
        where = ("channels", stage.channel, "members", user)
        await stage.ask("PUT", *where, json={"info": {"n": user}, **({"state": state} if state else {})})
        await stage.ask("DELETE", *where)
