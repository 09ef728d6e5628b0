"""Workers that are killed, frozen, or see Redis change under them: every departure is dealt with, none twice without a
failure."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from presence.client import AsyncClient, Client, Unavailable
from presence.node import Node as Parts
from presence.settings import Settings
from tests.chaos.worker_process import Crew, Journal
from tests.support import tokens
from tests.support.node import Node
from tests.support.primaries import give_replica, kill_primary
from tests.support.redis_server import RedisServer
from tests.support.stage import EngineStageMaker
from tests.support.waiting import eventually, limited, run_async

GROUP = "departures"
PREFIX = "workers"
MOST_HELD = 64
LEASE_MS = 4000  # kept each quarter of it: a worker that gets no processor for three seconds would count as dead
AT_ONCE = 100


class Departures:
    """People who come and go, as many at once as Redis can take: parts of a node inside the test."""

    def __init__(self, redis_url: str) -> None:
        self._node = Parts(Settings(key_prefix=PREFIX, token_secret=(tokens.SECRET,)), redis_url)
        self.users: list[str] = []

    async def make(self, count: int) -> None:
        """So many more, in ten channels."""
        numbers = iter(range(len(self.users), len(self.users) + count))
        self.users += [f"user-{number}" for number in range(len(self.users), len(self.users) + count)]
        await asyncio.gather(*(self._come_and_go(numbers) for _ in range(AT_ONCE)))

    async def _come_and_go(self, numbers: Iterator[int]) -> None:
        tracker = self._node.tracker
        for number in numbers:
            room, user = f"room-{number % 10}", f"user-{number}"
            await tracker.put_member(room, user, "back-end", info=None, state=None, ttl_ms=60_000)
            assert await tracker.remove_member(room, user, None)

    async def aclose(self) -> None:
        """End the parts."""
        await self._node.stop()


class Plant:
    """A queue of departures and the crew that works on it."""

    def __init__(self, node: Node, journal: Path, **options: Any) -> None:
        self.client = Client(node.url, tokens.API_KEY, retries=100)
        self.queue = self.client.queue(GROUP)
        self.queue.create(types=["leave"], max_deliveries=1000)
        self.journal = Journal(journal)
        chosen = {"concurrency": 8, "most_held": MOST_HELD, "lease_ms": LEASE_MS, "wait_ms": 500, **options}
        self.crew = Crew(node.url, tokens.API_KEY, GROUP, journal, 0.001, **chosen)

    async def done(self, count: int) -> None:
        """Wait until so much has been done."""
        await eventually(lambda: len(self.journal.read()) >= count, 60, 0.005, what=f"{count} entries")

    async def empty(self) -> None:
        """Wait until everything is acknowledged."""
        await eventually(self._is_empty, 60, 0.2, what="an empty queue")

    def _is_empty(self) -> bool:
        status = self.queue.status()
        return (status.waiting, status.in_flight, status.dead, status.lost) == (0, 0, 0, 0)

    def close(self) -> None:
        """End everything."""
        self.crew.close()
        self.client.close()


@pytest.fixture
def own_node(own_nodes: Callable[..., list[Node]]) -> Node:
    return own_nodes(1, key_prefix=PREFIX)[0]


@pytest.mark.parametrize(
    ("workers", "departures", "kills"),
    [
        pytest.param(2, 2_000, 5, marks=pytest.mark.long),
        pytest.param(1, 10_000, 20, marks=pytest.mark.long),
        pytest.param(2, 10_000, 20, marks=pytest.mark.long),
        pytest.param(5, 10_000, 20, marks=[pytest.mark.long, pytest.mark.sample]),
    ],
)
@run_async
@limited(150)
async def test_every_departure_is_processed_and_none_twice_but_for_a_kill(
    own_node: Node, fresh_redis: RedisServer, tmp_path: Path, workers: int, departures: int, kills: int
) -> None:
    plant, people = Plant(own_node, tmp_path / "journal"), Departures(fresh_redis.url)
    crew = plant.crew
    try:
        making = asyncio.ensure_future(people.make(departures))
        for _ in range(workers):
            crew.hire()
        for number in range(1, kills + 1):
            await plant.done(number * (departures * 3 // 4) // kills)
            crew.kill(random.choice(crew.working))
            crew.hire()
        await making
        await plant.empty()
    finally:
        plant.close()
        await people.aclose()

    journal = plant.journal
    repeated, taken_again = journal.repetitions(), journal.taken_again()
    print(f"{len(taken_again)} were taken again, {len(repeated)} of them done twice")
    assert set(journal.counts()) == set(people.users)
    assert {entry.pid for entry in repeated} <= set(crew.killed)
    assert len(repeated) <= len(taken_again) <= kills * MOST_HELD
    assert taken_again, "no kill hit a worker that held anything"


@run_async
async def test_a_worker_frozen_beyond_its_lease_does_nothing_more_with_what_others_took(
    own_node: Node, fresh_redis: RedisServer, tmp_path: Path
) -> None:
    plant = Plant(own_node, tmp_path / "journal", concurrency=1, lease_ms=1500)
    people = Departures(fresh_redis.url)
    crew, journal = plant.crew, plant.journal
    try:
        await people.make(400)
        frozen = crew.hire()
        await plant.done(50)
        crew.signal(frozen, signal.SIGSTOP)
        held = plant.queue.status().in_flight
        other = crew.hire()
        await plant.empty()
        meanwhile, mark = journal.taken_again(), len(journal.entries)
        crew.signal(frozen, signal.SIGCONT)
        await eventually(lambda: "lost to others before" in crew.log.read_text(), what="a refusal")
        await people.make(1)
        await plant.empty()
    finally:
        plant.close()
        await people.aclose()

    late = [entry for entry in journal.read()[mark:] if entry.user != people.users[-1]]
    assert 1 < held <= len(meanwhile) <= MOST_HELD
    assert {entry.pid for entry in meanwhile} == {other}
    assert set(journal.counts()) == set(people.users)
    assert [entry.pid for entry in late] in ([], [frozen])  # what it was in the middle of when it froze


async def durable_departures(node: Node, count: int, progress: list[str]) -> None:
    """So many people come and go; who stands in `progress` has gone for sure, whatever happens to a primary."""
    numbers = iter(range(count))
    async with AsyncClient(node.url, tokens.API_KEY, retries=1000, retry_within_s=60) as client:

        async def come_and_go() -> None:
            for number in numbers:
                room, user = f"room-{number % 10}", f"user-{number}"
                await client.put_member(room, user, ttl_ms=60_000, durability="durable")
                await eventually(partial(_removed, client, room, user), 60, 0.1, what=f"{user} to be out")
                progress.append(user)

        await asyncio.gather(*(come_and_go() for _ in range(40)))


async def _removed(client: AsyncClient, room: str, user: str) -> bool:
    """Say it; after a 503 it is the caller's to say it again, for the user may have come back since."""
    with suppress(Unavailable):
        await client.remove_member(room, user, durability="durable")
        return True
    return False


@pytest.mark.engines
@pytest.mark.long
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@run_async
@limited(180)
async def test_a_failover_and_a_kill_lose_no_departure_that_was_durable(
    engine_stage: EngineStageMaker, tmp_path: Path, kind: str
) -> None:
    stage = engine_stage(kind, nodes=2)
    plant = Plant(stage.b, tmp_path / "journal")
    gone: list[str] = []
    try:
        making = asyncio.ensure_future(durable_departures(stage.a, 1_000, gone))
        for _ in range(2):
            plant.crew.hire()
        await plant.done(300)
        victim = kill_primary(stage.redis)
        plant.crew.kill(plant.crew.working[0])
        plant.crew.hire()
        await give_replica(stage.redis, victim)
        await making
        await plant.empty()
    finally:
        plant.close()

    repeated = plant.journal.repetitions()
    print(f"{len(repeated)} were done twice")
    assert set(gone) == {f"user-{number}" for number in range(1_000)}
    assert set(plant.journal.counts()) == set(gone)
    assert len(repeated) < 300  # acknowledgements that the replicas did not have yet
