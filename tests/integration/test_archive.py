"""Ended sessions are in the archive, and what they left comes back: last seen and last state, never nowhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.clients import Frame
from tests.support.waiting import eventually, run_async

NOBODY_THERE = "mysql://nobody:secret@127.0.0.1:1/none"


@pytest.fixture
def sqlite(databases: Any) -> str:
    """The address of an empty SQLite database."""
    return str(databases.of("sqlite").fresh())


@run_async
async def test_an_ended_session_is_archived_with_all_that_was_known_of_it(archive_stage: Any, database: str) -> None:
    stage = archive_stage(database)
    await stage.enter("ann", info={"n": "Ann"}, state={"mood": "fine"})
    await stage.enter("ben", ttl_ms=1000)
    stage.work().ready()

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
async def test_what_ended_before_the_first_worker_came_is_archived_too(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    await stage.come_and_go(["ann", "ben"])

    stage.work().ready()

    await stage.archived(2)


@run_async
async def test_last_seen_is_hot_or_in_the_queue_or_archived_at_every_instant(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    first = stage.work().ready()
    first.stop()
    await stage.come_and_go(["ann"])
    assert await stage.last_seen("ann") is not None
    left = (await stage.log())[-1]["last_seen"]
    seen, going = [], True

    async def watch() -> None:
        while going:
            seen.append(await stage.last_seen("ann"))

    assert stage.forget("user")  # as after a day
    watching = asyncio.create_task(watch())
    await eventually(lambda: seen)
    stage.work()
    await stage.archived(1)
    await stage.settled()
    number = len(seen)
    await eventually(lambda: len(seen) > number + 3)
    going = False
    await watching

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
async def test_who_returns_soon_finds_the_last_state_in_the_very_snapshot(
    archive_stage: Any, sqlite: str, transport: str
) -> None:
    stage = archive_stage(sqlite)
    stage.work().ready()
    await stage.enter("ann", state={"mood": "fine"})
    await stage.go("ann")

    ann = await stage.member(transport, stage.a, "ann")

    assert ann.members(stage.channel)["ann"]["state"] == {"mood": "fine"}
    (join,) = [event for event in await stage.log() if event["type"] == "join"][1:]
    assert join["state"] == {"mood": "fine"}


@run_async
async def test_who_returns_later_gets_the_last_state_out_of_the_archive_as_an_update(
    archive_stage: Any, database: str, transport: str
) -> None:
    stage = archive_stage(database)
    stage.work().ready()
    for mood in ("old", "new"):
        await stage.enter("ann", state={"mood": mood})
        await stage.go("ann")
    await stage.archived(2)
    await stage.settled()
    assert stage.forget("last")

    ann = await stage.member(transport, stage.a, "ann")

    await eventually(lambda: ann.members(stage.channel)["ann"]["state"] == {"mood": "new"})
    await stage.enter("ben")  # nobody knows him: he begins with nothing
    await stage.fence(ann)
    assert (await stage.roster())["ben"]["state"] == {}
    assert [event["type"] for event in await stage.log()].count("update") == 1


@run_async
async def test_a_state_that_is_given_or_set_wins_over_the_last_one(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    stage.work().ready()
    await stage.enter("ann", state={"mood": "old"})
    await stage.go("ann")
    await stage.enter("ann", state={})

    assert (await stage.roster())["ann"]["state"] == {}
    await stage.go("ann")
    await stage.archived(2)
    stage.forget("last")
    await stage.enter("ann")

    # What was cleared stays so, for the newest presence counts.
    await eventually(lambda: _restored(stage, "none"))
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
async def test_without_an_archive_a_join_without_state_starts_with_none(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite, archive_url="")
    stage.work().ready()
    await stage.enter("ann", state={"mood": "fine"})
    await stage.go("ann")
    await stage.archived(1)

    await stage.enter("ann")

    assert (await stage.roster())["ann"]["state"] == {}


@run_async
async def test_a_worker_shows_its_numbers(archive_stage: Any, sqlite: str) -> None:
    stage = archive_stage(sqlite)
    worker = stage.work("--metrics-port", "0").ready()
    await stage.come_and_go(["ann", "ben"])
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


class _At:
    def __init__(self, url: str) -> None:
        self.url = url


async def _with_rows(page: Any) -> Frame | None:
    found: Frame = await page()
    return found if found["presence_archive_rows_total"] == "2.0" else None


async def _states(stage: Any, **wanted: Frame) -> bool:
    roster = await stage.roster()
    return {user: roster[user]["state"] for user in wanted} == wanted


async def _restored(stage: Any, result: str) -> bool:
    response = await stage.probe("/metrics")
    return f'presence_states_restored_total{{result="{result}"}} 0.0' not in response.body.decode()
