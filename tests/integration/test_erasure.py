"""`DELETE /v1/users/{U}`: what is left of a user, wherever it was, is what the pages name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import redis

from tests.chaos.workbench import Workbench
from tests.support.http import request
from tests.support.redis_server import RedisServer
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import eventually, run_async

WHO = "erased-user"
GRANTS = {"*": ["join", "see", "publish", "history"]}


def contents(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    """Everything that a key holds, as text."""
    kind = client.type(key).decode()
    if kind == "string":
        yield client.get(key) or b""
    elif kind == "hash":
        yield from (part for pair in client.hgetall(key).items() for part in pair)
    elif kind == "zset":
        yield from client.zrange(key, 0, -1)
    elif kind == "set":
        yield from client.smembers(key)
    elif kind == "stream":
        for _, fields in client.xrange(key):
            yield from (part for pair in fields.items() for part in pair)
    else:
        assert kind == "none", f"{key!r} is a {kind}"  # none: it has expired since it was listed


def traces(server: RedisServer) -> dict[str, list[bytes]]:
    """Keys in whose name or content the user stands, by kind."""
    client, found = server.client(), dict[str, list[bytes]]()
    for key in client.scan_iter(count=1000):
        if any(WHO.encode() in text for text in (key, *contents(client, key))):
            kind = key.decode().partition("}:")[2].partition(":")[0]
            found.setdefault(kind, []).append(key)
    return found


async def live(stage: OwnStage, transport: str) -> Any:
    """The user, with everything that a user can have."""
    client = await stage.member(transport, stage.a, WHO, state={"mood": "fine"})
    await client.join("other")
    await stage.ask("PUT", "channels", stage.channel, "members", WHO, json={"session": "back-end-1", "info": {"n": 1}})
    await stage.api("PUT", "channels", "news", "subscribers", WHO, json={})
    message = {"name": "bill", "data": {"to": WHO}}
    await stage.ask("POST", "users", WHO, "messages", json=message, headers={"Idempotency-Key": "k1"})
    await stage.message("news", 1, channel="news")
    waiting = (await stage.ask("GET", "users", WHO, "inbox"))["channels"]
    for each in waiting:
        await stage.api(
            "POST", "users", WHO, "inbox", "ack", json={"channel": each["channel"], "cursor": each["cursor"]}
        )
    return client


@run_async
async def test_what_is_left_of_an_erased_user_is_what_the_pages_name(own_stage: StageMaker, transport: str) -> None:
    stage = own_stage(nodes=2, ttl_ms=60_000, grace_ms=0)
    watcher = await stage.watcher()
    client = await live(stage, transport)
    before = traces(stage.redis)

    answer = await stage.ask("DELETE", "users", WHO, node=stage.b)

    assert answer == {"sessions": 2, "archived": 0}
    assert await client.until_closed() == 4003
    await watcher.event(stage.channel, "leave", user=WHO, reason="disconnected")

    def left() -> dict[str, list[bytes]] | None:
        found = traces(stage.redis)
        return found if found.keys() <= {"alive", "session", "log", "feed"} else None

    found = await eventually(left)
    assert {"member", "sessions", "due", "subs", "user", "once"} <= before.keys()
    redis_client = stage.redis.client()
    for key in found["alive"]:  # tombstones: a late request of a session that was ended stays out
        assert redis_client.get(key).startswith(b"-")
        assert 0 < redis_client.pttl(key) <= 60_000
    for key in found["session"]:  # marks: a node that did not hear of the end reads it there
        assert redis_client.hkeys(key) == [] or set(redis_client.hkeys(key)) <= {b"number", b"kicked", b"streaming"}
        assert 0 < redis_client.pttl(key) <= 180_000
    assert not any(b"@inbox" in key or b"news" in key for key in found["log"])
    user = await stage.ask("GET", "users", WHO)
    assert user == {"user": WHO, "online": False, "sessions": 0, "channels": [], "last_seen": None}
    assert await stage.ask("GET", "users", WHO, "inbox") == {"channels": []}
    assert await stage.ask("DELETE", "users", WHO) == {"sessions": 0, "archived": 0}


@run_async
async def test_a_user_who_was_erased_may_begin_anew(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    await live(stage, "websocket")
    await stage.ask("DELETE", "users", WHO)

    client = await stage.member("websocket", stage.a, WHO)

    assert client.members(stage.channel)[WHO]["state"] == {}
    await stage.ask("POST", "users", WHO, "messages", json={"name": "bill", "data": 2})
    (inbox,) = (await stage.ask("GET", "users", WHO, "inbox"))["channels"]
    assert [event["data"] for event in inbox["events"]] == [2]


@run_async
async def test_a_user_called_query_can_be_erased_and_a_reader_erases_nobody(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)
    await stage.ask("PUT", "channels", stage.channel, "members", "query", json={})

    answer = await request(stage.a.url, "DELETE", "/v1/users/query", headers={})

    assert answer.status == 401
    assert await stage.ask("DELETE", "users", "query") == {"sessions": 1, "archived": 0}


@run_async
async def test_erasing_is_unavailable_while_redis_is_and_can_be_asked_for_again(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, ttl_ms=60_000)
    await live(stage, "websocket")
    stage.redis.pause()
    refused = await stage.api("DELETE", "users", WHO)
    stage.redis.resume()

    assert (refused.status, refused.json()["code"]) == (503, "unavailable")
    assert (await eventually(lambda: _erased(stage)))["sessions"] <= 2
    assert traces(stage.redis).keys() <= {"alive", "session", "log", "feed"}


async def _erased(stage: OwnStage) -> dict[str, int] | None:
    response = await stage.api("DELETE", "users", WHO)
    return response.json() if response.status == 200 else None


@run_async
async def test_an_end_that_is_still_in_the_queue_does_not_bring_an_erased_user_back(
    archive_stage: Any, databases: Any
) -> None:
    database = databases.of("sqlite").fresh()
    stage = archive_stage(database)
    await stage.enter(WHO, state={"mood": "fine"})
    await stage.go(WHO)
    await stage.enter(WHO)
    await stage.enter("other")
    await stage.go("other")

    erased = await stage.ask("DELETE", "users", WHO)
    stage.work().ready()
    rows = await stage.archived(1)
    await stage.settled()

    assert erased["sessions"] == 1
    assert {row["user_id"] for row in rows} == {"other"}
    assert (await stage.ask("GET", "users", WHO))["last_seen"] is None
    await stage.enter(WHO)
    assert (await stage.roster())[WHO]["state"] == {}


@run_async
async def test_a_user_with_very_many_sessions_is_erased_whole(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, ttl_ms=60_000)
    for number in range(260):
        where = ("channels", f"room-{number}", "members", WHO)
        await stage.ask("PUT", *where, json={"session": f"session-{number}"})

    assert await stage.ask("DELETE", "users", WHO) == {"sessions": 260, "archived": 0}
    assert traces(stage.redis).keys() <= {"alive", "session", "log", "feed"}


@run_async
async def test_a_node_that_cannot_reach_the_archive_erases_nobody_while_there_is_one(
    archive_stage: Any, databases: Any
) -> None:
    stage = archive_stage(databases.of("sqlite").fresh(), archive_url="")
    assert (await stage.api("PUT", "queues", "archive", json={"types": ["leave"]})).status == 204
    await stage.enter(WHO, state={"mood": "fine"})
    await stage.go(WHO)
    await stage.enter(WHO)

    refused = await stage.api("DELETE", "users", WHO)

    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert "PRESENCE_ARCHIVE_URL" in refused.json()["detail"]
    assert (await stage.ask("GET", "users", WHO))["online"]
    assert (await stage.api("DELETE", "queues", "archive")).status == 204
    assert await stage.ask("DELETE", "users", WHO) == {"sessions": 1, "archived": 0}
    assert not traces(stage.redis).keys() & {"last", "lasts", "unarchived"}


@run_async
async def test_what_has_to_be_forgotten_is_as_durable_as_the_rest(redis_server: RedisServer) -> None:
    bench, asked = Workbench(redis_server), list[str]()
    try:
        node = await bench.node()

        class Durable:
            def call(self, name: str, *arguments: Any) -> Any:
                asked.append(name)
                return node.scripts.call(name, *arguments)

        doors: Any = replace(node.doors["accepted"], scripts=Durable())
        await node.services.erasure.erase(WHO, doors)

        assert {"forget", "erase"} <= set(asked)
    finally:
        await bench.aclose()
