"""Ended sessions are in the archive, and what they left comes back: last seen and last state, never nowhere."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra `archive`")

from presence.archive.store import Ended, Store
from presence.errors import Unavailable
from presence.queues import MOST_QUEUES, Queue
from tests.chaos.workbench import Workbench
from tests.support import tokens
from tests.support.archivist import ArchiveStage, ArchiveWorker
from tests.support.clients import TRANSPORTS, Frame
from tests.support.documents import DOCS, blocks
from tests.support.node import Node
from tests.support.programs import need_program
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

NOBODY_THERE = "mysql://nobody:secret@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def shared(
    databases: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Shared]]:
    """One node and one worker for each kind of database, for all tests that leave them as they are."""
    made: dict[str, Shared] = {}

    def of(kind: str) -> Shared:
        if kind not in made:
            folder, prefix, database = tmp_path_factory.mktemp(kind), secrets.token_hex(4), databases.of(kind).fresh()
            node = Node.start(folder, redis_server.url, key_prefix=prefix, archive_url=database, partitions=4)
            made[kind] = Shared(node, prefix, database, ArchiveWorker(folder, node, database).ready())
        return made[kind]

    yield of
    for each in made.values():
        each.worker.kill()
        each.node.kill()
        assert not each.worker.complaints() + each.node.complaints()


@dataclass(frozen=True)
class Shared:
    """A deployment with an archive."""

    node: Node
    prefix: str
    database: str
    worker: ArchiveWorker


@pytest.fixture(params=("sqlite", "postgresql", "mariadb"))
def stage(request: pytest.FixtureRequest, shared: Any, redis_server: RedisServer, tmp_path: Path) -> ArchiveStage:
    """A channel of its own on a shared node, with every kind of database in turn."""
    found: Shared = shared(request.param)
    return ArchiveStage([found.node], redis_server, found.prefix, found.database, tmp_path)


@pytest.fixture
def on_sqlite(shared: Any, redis_server: RedisServer, tmp_path: Path) -> ArchiveStage:
    """The same with SQLite only."""
    found: Shared = shared("sqlite")
    return ArchiveStage([found.node], redis_server, found.prefix, found.database, tmp_path)


@pytest.fixture
def sqlite(databases: Any) -> str:
    """The address of an empty SQLite database."""
    return str(databases.of("sqlite").fresh())


@run_async
async def test_an_ended_session_is_archived_with_all_that_was_known_of_it(stage: ArchiveStage) -> None:
    await stage.enter("ann", info={"n": "Ann"}, state={"mood": "fine"})
    await stage.enter("ben", ttl_ms=1000)

    await stage.go("ann")
    ann, ben = sorted(await stage.archived(2), key=lambda row: str(row["user_id"]))

    (leave,) = [event for event in await stage.log() if event["type"] == "leave" and event["user"] == "ann"]
    assert (ann["user_id"], ann["channel"], ann["reason"]) == ("ann", stage.channel, "left")
    assert (json.loads(ann["info"]), json.loads(ann["state"])) == ({"n": "Ann"}, {"mood": "fine"})
    assert (ann["last_seen"], ann["ended_at"]) == (leave["last_seen"], leave["at"])
    assert 0 < ann["first_seen"] <= ann["last_seen"]
    assert ann["generation"] > 0
    assert (ben["reason"], ben["last_seen"]) == ("timeout", ben["first_seen"])
    assert (await stage.settled())["dead"] == 0


@run_async
async def test_last_seen_is_hot_or_in_the_queue_or_archived_at_every_instant(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    assert (await stage.api("PUT", "queues", "archive", json={"types": ["leave"]})).status == 204
    await stage.come_and_go(["ann"])
    assert await stage.last_seen("ann") is not None
    left = (await stage.log())[-1]["last_seen"]
    seen: list[int | None] = []
    assert stage.forget("user")  # as after a day

    async def watch() -> None:
        while True:
            seen.append(await stage.last_seen("ann"))

    watching = asyncio.create_task(watch())
    try:
        await eventually(lambda: seen)
        stage.work()
        await stage.archived(1)
        await stage.settled()
        number = len(seen)
        await eventually(lambda: len(seen) > number + 3)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    assert set(seen) == {left}
    assert not stage.redis.client().exists(*(f"{stage.prefix}:{{p{n}}}:unarchived" for n in range(4)))
    answer = await stage.ask("POST", "users", "query", json={"users": ["nobody", "ann", "ann"]})
    assert [user["last_seen"] for user in answer["users"]] == [None, left, left]


@run_async
async def test_who_is_known_by_an_archive_that_cannot_be_asked_alone_is_unavailable_and_not_unknown(
    archive_stage: Any,
) -> None:
    stage = archive_stage(NOBODY_THERE)
    await stage.enter("ann")

    refused = await stage.api("GET", "users", "ben")
    both = await stage.api("POST", "users", "query", json={"users": ["ann", "ben"]})
    hot = await stage.ask("GET", "users", "ann")

    assert (refused.status, refused.json()["code"], both.status) == (503, "unavailable", 503)
    assert "retry-after" in refused.headers
    assert "secret" not in refused.body.decode() + stage.a.tail(1000)
    assert hot["online"]


@run_async
async def test_what_a_part_has_lost_that_gathers_again_is_not_asked_of_the_archive_alone(
    sqlite: str, redis_server: RedisServer
) -> None:
    bench = Workbench(redis_server)
    try:
        node = await bench.node(archive_url=sqlite, partitions=4)
        other = (node.keys.partition("ann") + 1) % 4
        await bench.redis.hset(node.keys.script(other)[0], "settling", str(await bench.now_ms() + 1900))

        with pytest.raises(Unavailable):
            await node.past.users(["ann"])

        await bench.redis.hdel(node.keys.script(other)[0], "settling")
        assert (await node.past.users(["ann"]))[0].last_seen is None
    finally:
        await bench.aclose()


@run_async
async def test_a_database_that_is_silent_costs_a_second_and_only_those_who_need_it(archive_stage: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for driver in ("postgresql", "mysql"):
            stage = archive_stage(f"{driver}://nobody:secret@127.0.0.1:{port}/none")
            await stage.enter("ann")
            asked = [asyncio.create_task(stage.api("GET", "users", f"user-{number}")) for number in range(40)]

            hot = await stage.ask("GET", "users", "ann", within_s=1)
            answers = await asyncio.gather(*asked)

            assert hot["online"]
            assert {answer.status for answer in answers} == {503}
            assert (await stage.api("GET", "users", "ben", within_s=2)).status == 503


@run_async
async def test_who_returns_soon_finds_the_last_state_in_the_very_snapshot(on_sqlite: ArchiveStage) -> None:
    stage = on_sqlite
    for transport in TRANSPORTS:
        await stage.enter(transport, state={"mood": "fine"})
        await stage.go(transport)

        client = await stage.member(transport, stage.a, transport)

        assert client.members(stage.channel)[transport]["state"] == {"mood": "fine"}
    joins = [event for event in await stage.log() if event["type"] == "join"]
    assert [join["state"] for join in joins] == 6 * [{"mood": "fine"}]


@run_async
async def test_who_returns_later_gets_the_last_state_out_of_the_archive_as_an_update(stage: ArchiveStage) -> None:
    for mood in ("old", "new"):
        for user in TRANSPORTS:
            await stage.enter(user, state={"mood": mood})
            await stage.go(user)
    await stage.archived(6)
    await stage.settled()
    assert stage.forget("last")

    for transport in TRANSPORTS:
        client = await stage.member(transport, stage.a, transport)
        new = {"mood": "new"}
        await eventually(lambda me=transport, at=client, new=new: at.members(stage.channel)[me]["state"] == new)

    await stage.enter("ben")  # nobody knows him: he begins with nothing
    await stage.fence(*stage.clients)
    assert (await stage.roster())["ben"]["state"] == {}
    assert [event["type"] for event in await stage.log()].count("update") == 3


@run_async
async def test_a_state_that_is_given_wins_over_the_last_one(on_sqlite: ArchiveStage) -> None:
    stage = on_sqlite
    await stage.enter("ann", state={"mood": "old"})
    await stage.go("ann")
    await stage.enter("ann", state={})

    assert (await stage.roster())["ann"]["state"] == {}
    await stage.go("ann")
    await stage.archived(2)
    await stage.settled()
    stage.forget("last")
    before = await _restored(stage, "none")
    await stage.enter("ann")

    async def answered() -> bool:
        return await _restored(stage, "none") > before

    # What was cleared stays so, for the newest presence counts.
    await eventually(answered)
    assert (await stage.roster())["ann"]["state"] == {}


@run_async
async def test_a_state_that_is_set_before_the_archive_answers_stays(archive_stage: Any, databases: Any) -> None:
    postgres = databases.of("postgresql")
    database = postgres.fresh()
    stage = archive_stage(database)
    stage.work().ready()
    for user in ("ann", "ben", "cid"):
        await stage.enter(user, state={"mood": "old"})
        await stage.go(user)
    await stage.archived(3)
    await stage.settled()
    stage.forget("last")
    postgres.halt()
    try:
        ann = await stage.member("websocket", stage.a, "ann")
        await ann.set(stage.channel, {"mood": "mine"})
        ben = await stage.member("websocket", stage.a, "ben")
        await ben.set(stage.channel, {})
        await stage.enter("cid")
    finally:
        postgres.start()

    # The database is back: who has not said anything gets the old state, who has keeps what was said.
    await eventually(lambda: _states(stage, cid={"mood": "old"}), 20)
    assert await _states(stage, ann={"mood": "mine"}, ben={})


@run_async
async def test_a_presence_whose_last_state_was_never_learnt_does_not_count_as_one_without(
    archive_stage: Any, sqlite: str
) -> None:
    stage = archive_stage(NOBODY_THERE)
    stage.database = sqlite  # the workers write elsewhere than the node looks
    stage.work(database=sqlite).ready()
    await stage.enter("ann", state={"mood": "fine"})
    await stage.go("ann")
    stage.forget("last")
    await stage.archived(1)
    await stage.settled()
    await stage.enter("ann")
    await stage.go("ann")

    _, second = await stage.archived(2)

    assert second["state"] is None


@run_async
async def test_an_erased_user_is_neither_in_the_archive_nor_in_what_waits_for_it(
    databases: Any, redis_server: RedisServer
) -> None:
    bench, database = Workbench(redis_server), databases.of("sqlite").fresh()
    store = Store(database)
    store.prepare()
    try:
        node = await bench.node(archive_url=database, partitions=4)
        await node.queues.put("archive", Queue(types=("leave",)), from_start=False)
        for channel in ("one", "two", "three"):
            for user in ("ann", "Ann"):
                await node.tracker.put_member(channel, user, "back-end", info=None, state='{"a":1}', ttl_ms=None)
                await node.tracker.remove_member(channel, user, None)
            if channel == "one":  # a worker has this one in its hands, and acknowledged it: the row may come yet
                held, _ = await node.queues.take("archive", "worker", 10, 60_000)
                await node.queues.settle("archive", "worker", "ack", [event["id"] for event in held])
        store.write([Ended(user, "two", 1, "{}", None, 1, 2, 3, "left") for user in ("ann", "ann ", "Ann")])

        assert await node.past.erase("ann", node.scripts) == 1

        keys = [key async for key in bench.redis.scan_iter(f"{node.settings.key_prefix}:*")]
        left = [key for key in keys if key.endswith(b"\x1fann")]
        waiting = [
            row
            for number in range(4)
            for row in await bench.redis.zrange(f"{node.settings.key_prefix}:{{p{number}}}:unarchived", 0, -1)
        ]
        assert not left
        assert {row.split(b"\x1f")[0] for row in waiting} == {b"Ann"}
        assert len(waiting) == 2
        assert store.last_seen(["ann", "Ann", "ann "]) == {"Ann": 2, "ann ": 2}
    finally:
        store.close()
        await bench.aclose()


@run_async
async def test_without_an_archive_a_join_without_state_starts_with_none(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite, archive_url="")
    stage.work().ready()
    await stage.enter("ann", state={"mood": "fine"})
    await stage.go("ann")
    await stage.archived(1)

    await stage.enter("ann")

    assert (await stage.roster())["ann"]["state"] == {}


@run_async
async def test_a_worker_for_whose_queue_there_is_no_room_says_so_and_ends(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    client = stage.redis.client()
    for part in range(4):
        names = {f"queue-{number}": "5\x1f\x1fnowhere" for number in range(MOST_QUEUES)}
        client.hset(f"{stage.prefix}:{{p{part}}}:queues", mapping=names)

    worker = stage.work()

    await eventually(worker.ended, 20)
    assert worker.process.returncode == 1
    assert f"there may be {MOST_QUEUES} queues" in worker.text()


@run_async
async def test_a_worker_shows_its_numbers(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    await stage.come_and_go(["ann", "ben"])  # before the first worker comes, too
    worker = stage.work("--metrics-port", "0").ready()
    await stage.archived(2)
    await stage.settled()
    url = next(word for word in worker.text().split() if word.startswith("url=")).removeprefix("url=").strip('"')

    async def page() -> Frame:
        response = await stage.probe("/metrics", node=_At(url.removesuffix("/metrics")))
        return dict(line.rsplit(" ", 1) for line in response.body.decode().splitlines() if line.startswith("presence_"))

    found = await eventually(lambda: _with_rows(page), 5)
    assert found == {
        "presence_archive_rows_total": "2.0",
        "presence_archive_refused_total": "0.0",
        "presence_archive_lag_seconds": "0.0",
        "presence_archive_backlog": "0.0",
        "presence_archive_database_up": "1.0",
    }
    assert worker.stop() == 0


def test_the_example_of_the_page_prints_what_it_says(on_sqlite: ArchiveStage, tmp_path: Path) -> None:
    need_program("curl")
    example = blocks(DOCS / "archive.md", "sh")[1].replace("http://127.0.0.1:8080", on_sqlite.a.url)
    example = example.replace("my-key", tokens.API_KEY).replace(
        "archive.sqlite", on_sqlite.database.partition("///")[2]
    )

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    joined, left, *rows, again, members = done.stdout.splitlines()
    assert json.loads(left) == {"left": True}
    assert json.loads(joined)["joined"] and json.loads(again)["joined"]
    (row,) = [row for row in rows if "'lobby'" in row]
    assert row.startswith("('ann', 'lobby', ") and """'{"mood":"fine"}'""" in row and row.endswith("'left')")
    assert json.loads(members)["members"][0]["state"] == {"mood": "fine"}


class _At:
    def __init__(self, url: str) -> None:
        self.url = url


async def _with_rows(page: Any) -> Frame | None:
    found: Frame = await page()
    return found if found["presence_archive_rows_total"] == "2.0" else None


async def _states(stage: Any, **wanted: Frame) -> bool:
    roster = await stage.roster()
    return {user: roster[user]["state"] for user in wanted} == wanted


async def _restored(stage: Any, result: str) -> float:
    page = (await stage.probe("/metrics")).body.decode()
    line = next(line for line in page.splitlines() if f'states_restored_total{{result="{result}"}}' in line)
    return float(line.split()[-1])
