"""The archive under faults. Oracle: each ended presence is exactly one row, none is lost, none is a dead letter."""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra `archive`")

from tests.support.archivist import count
from tests.support.databases import execute
from tests.support.waiting import eventually, limited, run_async

ROOM_BYTES = 32 << 10  # more than a worker's log, less than a batch
BURST = 120
QUICK = ("--lease-ms", "1000")


@pytest.fixture
def sqlite(databases: Any) -> str:
    """The address of an empty SQLite database."""
    return str(databases.of("sqlite").fresh())


@contextmanager
def locked(database: str) -> Iterator[None]:
    """Somebody else writes to the SQLite file, and goes on."""
    connection = sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def users(number: int, word: str = "user") -> list[str]:
    return [f"{word}-{place}" for place in range(number)]


async def held(stage: Any, number: int) -> None:
    """Wait until workers hold that many events."""

    async def look() -> bool:
        return bool((await stage.standing())["in_flight"] >= number)

    await eventually(look, 10, what=f"{number} events in flight")


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mariadb", marks=pytest.mark.long)])
@run_async
async def test_restarting_the_database_in_mid_burst_loses_nothing(
    archive_stage: Any, databases: Any, kind: str
) -> None:
    server = databases.of(kind)
    stage = archive_stage(server.fresh())
    for _ in range(2):
        stage.work(*QUICK)
    stage.workers[0].ready()

    leaving = stage.depart(users(BURST))
    for number in (1, 30, 70):
        await eventually(lambda number=number: count(stage.database, stage.channel) >= number, 20)
        server.halt()
        server.start()
    await leaving

    found = await stage.archived(BURST)
    assert {row["user_id"] for row in found} == set(users(BURST))
    assert (await stage.settled())["dead"] == 0


@pytest.mark.long
@run_async
async def test_killing_workers_in_mid_batch_loses_nothing_and_doubles_nothing(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    stage.work(*QUICK).ready()

    leaving = stage.depart(users(BURST))
    for _ in range(3):
        with locked(sqlite):  # so that they hold a batch when they die
            await held(stage, 1)
            for worker in stage.workers:
                worker.kill()
        for _ in range(2):
            stage.work(*QUICK).ready()
    await leaving

    found = await stage.archived(BURST)
    assert {row["user_id"] for row in found} == set(users(BURST))
    assert (await stage.settled())["dead"] == 0


@pytest.mark.long
@run_async
async def test_a_worker_that_stood_still_beyond_its_lease_brings_nothing_old_back(
    archive_stage: Any, sqlite: str
) -> None:
    stage = archive_stage(sqlite)
    slow = stage.work(*QUICK).ready()
    with locked(sqlite):
        await stage.enter("ann", state={"mood": "old"})
        await stage.go("ann")
        await held(stage, 1)
        slow.pause()
    stage.work(*QUICK).ready()
    await stage.archived(1)
    await stage.enter("ann", state={"mood": "new"})
    await stage.go("ann")
    await stage.archived(2)
    await stage.settled()
    stage.forget("last")

    slow.resume()

    await eventually(lambda: slow.says("archived_by_two"))
    await stage.archived(2)
    await stage.enter("ann")
    await eventually(lambda: _state_is(stage, "ann", {"mood": "new"}))


async def stay_locked(stage: Any, sqlite: str, seconds: float) -> None:
    """Departures while the database is locked for that long; deliveries are few and leases are short."""
    stage.work(*QUICK, "--max-deliveries", "2").ready()
    with locked(sqlite):
        began = time.monotonic()
        await stage.come_and_go(users(50), state={"a": 1})
        await held(stage, 1)
        await eventually(lambda: time.monotonic() - began > seconds, seconds + 5, 0.2)
        assert (await stage.standing())["dead"] == 0
    await stage.archived(50)
    assert (await stage.settled())["dead"] == 0


@run_async
async def test_a_locked_database_costs_no_delivery_and_makes_no_dead_letter(archive_stage: Any, sqlite: str) -> None:
    await stay_locked(archive_stage(sqlite), sqlite, 3)


@pytest.mark.long
@run_async
@limited(120)
async def test_a_database_that_is_locked_for_half_a_minute_loses_nothing(archive_stage: Any, sqlite: str) -> None:
    await stay_locked(archive_stage(sqlite), sqlite, 31)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
@run_async
async def test_a_full_disk_is_no_fault_of_the_rows(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    worker = stage.work(*QUICK, "--max-deliveries", "2").ready()
    _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))

    await stage.come_and_go(users(50), state={"text": "x" * 900})
    await eventually(lambda: worker.says("database_away"))
    assert (await stage.standing())["in_flight"] > 0
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))

    await stage.archived(50)
    assert (await stage.settled())["dead"] == 0


@pytest.mark.long
@run_async
async def test_a_row_that_the_database_refuses_becomes_a_dead_letter_and_delays_no_other(
    archive_stage: Any, sqlite: str
) -> None:
    stage = archive_stage(sqlite)
    stage.work(*QUICK, "--max-deliveries", "2").ready()
    refuse = "SELECT RAISE(ABORT, 'no') WHERE NEW.user_id = 'bad'"
    execute(sqlite, f"CREATE TRIGGER refuse BEFORE INSERT ON ended_presences BEGIN {refuse}; END")

    await stage.come_and_go(["ann", "bad", "cid"], state={"a": 1})

    assert {row["user_id"] for row in await stage.archived(2)} == {"ann", "cid"}
    standing = await stage.settled()
    assert (standing["dead"], standing["lost"]) == (1, 0)
    stage.forget("user")
    assert await stage.last_seen("bad") is not None  # it is still in the queue: among its dead letters
    execute(sqlite, "DROP TRIGGER refuse")
    letters = await stage.ask("GET", "queues", "archive", "dead")
    ids = [letter["id"] for letter in letters["events"]]
    await stage.ask("POST", "queues", "archive", "dead", "requeue", json={"ids": ids})
    (bad,) = [row for row in await stage.archived(3) if row["user_id"] == "bad"]
    assert json.loads(bad["state"]) == {"a": 1}
    assert not stage.redis.client().exists(*(f"{stage.prefix}:{{p{n}}}:unarchived" for n in range(4)))


async def _state_is(stage: Any, user: str, state: Any) -> bool:
    return bool((await stage.roster())[user]["state"] == state)
