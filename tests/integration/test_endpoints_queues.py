"""Work queues on the feed: at least once, to one consumer at a time, until it is acknowledged or given up."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import tokens
from tests.support.clients import Frame
from tests.support.queues import WorkQueue, come_and_go
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

FIELDS = {
    *("id", "channel", "epoch", "seq", "at", "type", "user", "info", "state"),
    *("since", "last_seen", "reason", "generation", "deliveries"),
}


@run_async
async def test_a_queue_hands_out_every_event_with_all_its_fields_and_forgets_what_is_acknowledged(stage: Stage) -> None:
    queue = await WorkQueue(stage).open()
    await come_and_go(stage, "ann", state={"mood": "fine"})
    await stage.message("note", {"n": [1, {}]})

    join, leave, message = await queue.take()

    assert join.keys() == leave.keys() == FIELDS
    assert message.keys() == FIELDS | {"name", "data"}
    assert [event["type"] for event in (join, leave, message)] == ["join", "leave", "message"]
    assert (join["user"], join["info"], join["state"], join["reason"]) == ("ann", {"n": "ann"}, {"mood": "fine"}, None)
    assert (leave["info"], leave["state"], leave["reason"]) == ({"n": "ann"}, {"mood": "fine"}, "left")
    assert leave["since"] == join["since"] == join["at"]
    assert leave["generation"] == join["generation"] > 0
    assert leave["last_seen"] >= join["at"]
    assert (message["user"], message["name"], message["data"]) == (None, "note", {"n": [1, {}]})
    assert [event["seq"] for event in (join, leave, message)] == [1, 2, 3]
    assert {event["deliveries"] for event in (join, leave, message)} == {1}
    ids = [join["id"], leave["id"], message["id"]]
    assert await queue.take("two") == []
    assert await queue.say("ack", ids[:1], "two") == ([], ids[:1])
    assert await queue.say("ack", [*ids, "bogus"]) == (ids, ["bogus"])
    assert await queue.say("ack", ids) == ([], ids)
    assert (await queue.look())["waiting"] == (await queue.look())["in_flight"] == 0


@run_async
async def test_a_generation_grows_with_every_new_presence(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["leave"]).open()
    await come_and_go(stage, "ann", "ann", "ann")

    generations = [event["generation"] for event in await queue.take()]

    assert len(generations) == 3
    assert generations == sorted(set(generations))


@run_async
async def test_types_and_pattern_say_what_is_handed_out_and_put_changes_them(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["leave"], channels=f"*{stage.channel[2:-1]}*").open()
    everything = await WorkQueue(stage, channels="*").open()
    await come_and_go(stage, "ann")
    await stage.message("elsewhere", channel=stage.name("other"))

    leaves = await queue.take()
    await queue.open(types=["message"])
    await come_and_go(stage, "bob")
    await stage.message("here")
    messages = await queue.take()

    assert [event["type"] for event in leaves] == ["leave"]
    assert [event["type"] for event in messages] == ["message"]
    assert {"join", "leave", "message"} <= {event["type"] for event in await everything.take()}
    await stage.api("DELETE", "queues", everything.name)


@run_async
async def test_from_start_begins_with_what_the_feed_still_has(stage: Stage) -> None:
    await come_and_go(stage, "ann")

    old = await WorkQueue(stage).open(**{"from": "start"})
    new = await WorkQueue(stage).open(**{"from": "now"})

    assert [event["type"] for event in await old.take()] == ["join", "leave"]
    assert await new.take() == []


@run_async
async def test_a_take_waits_for_an_event_of_any_node_and_answers_nothing_when_none_came(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["message"]).open()
    assert await queue.take(wait_ms=50) == []

    takes = [asyncio.ensure_future(queue.take(f"worker-{n}", wait_ms=20_000, count=1)) for n in range(3)]
    await eventually(lambda: look_has(queue, consumers=1))
    for number in range(3):
        await stage.message("work", number, node=stage.b)
    taken = [event["data"] for events in await asyncio.gather(*takes) for event in events]

    assert sorted(taken) == [0, 1, 2]


async def look_has(queue: WorkQueue, **wanted: int) -> bool:
    standing = await queue.look()
    return all(standing[name] >= value for name, value in wanted.items())


@run_async
async def test_what_is_not_acknowledged_goes_to_another_worker_and_at_last_to_the_dead_letters(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["message"], max_deliveries=2).open()
    await stage.message("work", 1)

    (first,) = await queue.take("one", lease_ms=100)
    (second,) = await queue.take("two", lease_ms=100, wait_ms=10_000)
    late = await queue.say("ack", [first["id"]], "one")
    assert await queue.take("three", wait_ms=2_000) == []
    (letter,) = (await queue.dead())["events"]

    assert (first["deliveries"], second["deliveries"]) == (1, 2)
    assert late == ([], [first["id"]])
    assert (letter["data"], letter["deliveries"]) == (1, 2)
    standing = await queue.look()
    assert (standing["dead"], standing["waiting"], standing["in_flight"]) == (1, 0, 0)
    answer = await stage.ask("POST", "queues", queue.name, "dead", "requeue", json={"ids": [letter["id"], "0-1-1"]})
    assert answer == {"requeued": [letter["id"]], "refused": ["0-1-1"]}
    (again,) = await queue.take("four", wait_ms=5_000)
    assert (again["data"], again["deliveries"], again["channel"]) == (1, 1, stage.channel)
    assert await queue.say("ack", [again["id"]], "four") == ([again["id"]], [])
    assert (await queue.look())["dead"] == 0


@run_async
async def test_release_gives_back_at_once_and_extend_keeps_longer(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["message"]).open()
    await stage.message("work", 1)
    (held,) = await queue.take("one", lease_ms=60_000)

    waiting = asyncio.ensure_future(queue.take("two", wait_ms=20_000, lease_ms=200))
    assert await queue.say("release", [held["id"]], "one") == ([held["id"]], [])
    (second,) = await waiting
    assert await queue.say("extend", [held["id"]], "one", lease_ms=1000) == ([], [held["id"]])
    assert await queue.say("extend", [held["id"]], "two", lease_ms=60_000) == ([held["id"]], [])
    assert await queue.take("three", wait_ms=1_500) == []
    assert second["deliveries"] == 2
    assert (await queue.look())["in_flight"] == 1
    assert await queue.say("ack", [held["id"]], "two") == ([held["id"]], [])


@run_async
async def test_a_queue_tells_how_it_stands(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["message"]).open()
    empty = await queue.look()
    for number in range(3):
        await stage.message("work", number)
    (held,) = await queue.take("one", count=1)

    standing = await queue.look()

    assert {name: empty[name] for name in ("waiting", "in_flight", "oldest_ms", "dead", "lost", "consumers")} == {
        "waiting": 0,
        "in_flight": 0,
        "oldest_ms": None,
        "dead": 0,
        "lost": 0,
        "consumers": 0,
    }
    assert {name: standing[name] for name in ("group", "waiting", "in_flight", "dead", "lost", "consumers")} == {
        "group": queue.name,
        "waiting": 2,
        "in_flight": 1,
        "dead": 0,
        "lost": 0,
        "consumers": 1,
    }
    assert 0 <= standing["oldest_ms"] < 60_000
    assert held["data"] == 0


@run_async
async def test_an_ended_queue_is_gone_with_all_that_waited(stage: Stage) -> None:
    queue = await WorkQueue(stage).open()
    await stage.message("work")
    await queue.take()

    ended = await stage.api("DELETE", "queues", queue.name)
    again = await stage.api("DELETE", "queues", queue.name)

    assert (ended.status, again.status) == (204, 404)
    for method, *rest in (("GET",), ("POST", "take"), ("POST", "ack"), ("GET", "dead"), ("POST", "dead", "requeue")):
        body = {"consumer": "one", "ids": []} if method == "POST" else None
        response = await stage.api(method, "queues", queue.name, *rest, json=body)
        assert (response.status, response.json()["code"]) == (404, "not_found")
    await queue.open()
    assert await queue.take() == []


@run_async
async def test_pages_of_dead_letters_follow_each_other(stage: Stage) -> None:
    queue = await WorkQueue(stage, types=["message"], max_deliveries=1, channels=f"{stage.channel}*").open()
    for number in range(5):
        await stage.message("work", number, channel=f"{stage.channel}-{number}")
    assert len(await queue.take(lease_ms=100)) == 5

    async def all_dead() -> bool:
        await queue.take("two")
        return bool((await queue.look())["dead"] == 5)

    await eventually(all_dead)
    seen: list[Frame] = []
    page = await queue.dead(limit=2)
    seen += page["events"]
    while "next" in page:
        page = await queue.dead(limit=2, after=page["next"])
        seen += page["events"]

    assert sorted(letter["data"] for letter in seen) == [0, 1, 2, 3, 4]


BAD: list[tuple[str, tuple[str, ...], Any]] = [
    ("PUT", (), {"from": "yesterday"}),
    ("PUT", (), {"types": []}),
    ("PUT", (), {"types": ["gone"]}),
    ("PUT", (), {"types": [["leave"]]}),
    ("PUT", (), {"max_deliveries": 0}),
    ("PUT", (), {"max_deliveries": True}),
    ("PUT", (), {"durability": "eternal"}),
    ("PUT", (), {"durability": ["durable"]}),
    ("POST", ("take",), {"consumer": "one", "count": 501}),
    ("POST", ("take",), {"consumer": "one", "wait_ms": -1}),
    ("POST", ("take",), {"consumer": "one", "lease_ms": 0}),
    ("POST", ("ack",), {"consumer": "one"}),
    ("POST", ("ack",), {"consumer": "one", "ids": [1]}),
    ("POST", ("ack",), {"consumer": "one", "ids": ["1-1-1"] * 1001}),
    ("POST", ("extend",), {"consumer": "one", "ids": []}),
    ("POST", ("dead", "requeue"), {"ids": "1-1-1"}),
]


@pytest.mark.parametrize(("method", "rest", "body"), BAD)
@run_async
async def test_a_bad_request_says_so_and_changes_nothing(
    stage: Stage, method: str, rest: tuple[str, ...], body: Any
) -> None:
    response = await stage.api(method, "queues", stage.name("bad"), *rest, json=body)

    assert (response.status, response.json()["code"]) == (400, "bad_request")


@run_async
async def test_names_are_names_and_the_servers_own_queues_are_not_for_others(stage: Stage) -> None:
    bad = await stage.api("PUT", "queues", " padded", json={})
    own = await stage.api("PUT", "queues", "@webhook:x", json={})
    consumer = await stage.api("POST", "queues", stage.name("q"), "take", json={"consumer": ""})

    assert (bad.status, bad.json()["code"]) == (400, "bad_name")
    assert (own.status, own.json()["code"]) == (403, "forbidden")
    assert (consumer.status, consumer.json()["code"]) == (400, "bad_name")


@run_async
async def test_channel_and_queue_names_are_taken_literally(stage: Stage) -> None:
    name = "*{p0}:/|%__proto__ ü"
    queue = WorkQueue(stage)
    queue.name = name + stage.name("x")
    queue.wants = {"channels": stage.channel}
    await queue.open()
    await stage.message("work")

    (event,) = await queue.take("{*}|/")

    assert await queue.say("ack", [event["id"]], "{*}|/") == ([event["id"]], [])
    assert (await stage.api("DELETE", "queues", queue.name)).status == 204


@run_async
async def test_who_goes_right_after_asking_takes_nothing_along(stage: Stage) -> None:
    queue = await WorkQueue(stage).open()
    body = json.dumps({"consumer": "gone", "count": 10, "wait_ms": 10_000}).encode()
    lines = f"Host: x\r\nAuthorization: Bearer {tokens.API_KEY}\r\nContent-Type: application/json\r\n"
    look = f"GET /v1/queues/{queue.name} HTTP/1.1\r\n{lines}\r\n"
    ask = f"POST /v1/queues/{queue.name}/take HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    place = urlsplit(stage.a.url)

    for number in range(10):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(look.encode())  # the second request of a connection is read together with its end
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ask.encode() + body)
        writer.close()
        await writer.wait_closed()
        await stage.message("work", number)

    seen: set[int] = set()

    async def all_are_there() -> bool:
        seen.update(event["data"] for event in await queue.take())
        return seen == set(range(10))

    await eventually(all_are_there)
