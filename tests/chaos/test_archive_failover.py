"""The archive over a failover of Redis: whose departure was answered as durable has a row, and no end has two."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra `archive`")

from presence.client import AsyncClient, PresenceError
from tests.support import tokens
from tests.support.archivist import ArchiveWorker, rows
from tests.support.primaries import give_replica, kill_primary
from tests.support.stage import EngineStageMaker
from tests.support.waiting import eventually, limited, run_async

pytestmark = [pytest.mark.engines, pytest.mark.long]

USERS = 300
KILL_AFTER = 80


@pytest.fixture
def workers() -> Iterator[list[ArchiveWorker]]:
    """Workers that end with the test."""
    started: list[ArchiveWorker] = []
    yield started
    for worker in started:
        worker.kill()
        assert not worker.complaints()


class Departures:
    """Users who come and go, each until both are answered as durable."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._left = iter(range(USERS))
        self.done = 0
        self.refused = 0

    async def run(self, url: str) -> None:
        """Until all have gone."""
        async with AsyncClient(url, tokens.API_KEY, retries=0) as client:
            more: dict[str, Any] = {"durability": "durable"}
            for number in self._left:
                where = (f"{self._channel}-{number % 8}", f"user-{number}")
                await self._persist(
                    lambda where=where: client.put_member(*where, state={"n": 1}, ttl_ms=60_000, **more)
                )
                await self._persist(lambda where=where: client.remove_member(*where, **more))
                self.done += 1

    async def _persist(self, call: Any) -> None:
        while True:
            try:
                await call()
                return
            except PresenceError as error:
                assert error.passes, error
                self.refused += 1
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@run_async
@limited(180)
async def test_no_durable_departure_is_missing_in_the_archive_after_a_failover(
    engine_stage: EngineStageMaker, kind: str, databases: Any, tmp_path: Path, workers: list[ArchiveWorker]
) -> None:
    database = databases.of("sqlite").fresh()
    stage = engine_stage(kind, nodes=2, archive_url=database)
    workers += [ArchiveWorker(tmp_path, node, database, "--lease-ms", "2000") for node in stage.nodes]
    workers[0].ready()
    departures = Departures(stage.channel)
    going = [asyncio.ensure_future(departures.run(stage.nodes[place % 2].url)) for place in range(8)]
    await eventually(lambda: departures.done >= KILL_AFTER, 60)
    await give_replica(stage.redis, kill_primary(stage.redis))
    await asyncio.wait_for(asyncio.gather(*going), 120)

    async def empty() -> bool:
        standing = await stage.ask("GET", "queues", "archive")
        return bool(standing["waiting"] == standing["in_flight"] == standing["dead"] == standing["lost"] == 0)

    await eventually(empty, 60, 0.2)
    found = rows(database)
    assert departures.refused > 0, "nobody noticed the kill"
    assert {row["user_id"] for row in found} == {f"user-{number}" for number in range(USERS)}
    ends = Counter((row["user_id"], row["channel"], row["generation"]) for row in found)
    assert set(ends.values()) == {1}
