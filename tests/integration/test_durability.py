"""`durable` is answered when the replicas have it, else it is 503; repeating it means the same the second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployments import packaged_program
from tests.support.http import Response
from tests.support.redis_server import SOONER, RedisServer
from tests.support.stage import OwnStage, StageMaker
from tests.support.waiting import eventually, run_async, wait_until

both_engines = pytest.mark.parametrize("fresh_redis", ["redis", "valkey"], indirect=True)


@pytest.fixture
def fresh_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis of this test's own that may have replicas; engines differ in what `WAIT` waits for."""
    program = packaged_program() if getattr(request, "param", "redis") == "valkey" else None
    with RedisServer(tmp_path / "redis", config=SOONER, program=program) as server:
        yield server


@pytest.fixture
def replica(fresh_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A replica of it, in step."""
    with RedisServer(tmp_path / "replica", program=fresh_redis.program) as server:
        server.client().replicaof("127.0.0.1", fresh_redis.port)
        wait_until(lambda: server.client().info("replication")["master_link_status"] == "up", "the replica is in step")
        yield server


async def publish(stage: OwnStage, data: Any, *, key: str = "", durability: str = "durable") -> Response:
    return await stage.api(
        *("POST", "channels", stage.channel, "messages"),
        json={"name": "news", "data": data, "durability": durability},
        headers={"Idempotency-Key": key} if key else {},
    )


def refused(response: Response) -> bool:
    """Whether it says that it was possibly applied, and when to try again."""
    return (response.status, response.json()["code"]) == (503, "unavailable") and int(
        response.headers["retry-after"]
    ) > 0


@run_async
async def test_without_a_replica_nothing_is_durable_though_it_may_have_been_applied(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1)

    answers = [await publish(stage, n, key="k") for n in (1, 1)]

    assert all(map(refused, answers))
    assert [event["data"] for event in await stage.log()] == [1]
    plain = await publish(stage, 1, key="k", durability="accepted")
    assert plain.status == 200
    assert len(await stage.log()) == 1


@run_async
async def test_durable_is_answered_when_the_replica_has_it_and_not_before(
    replica: RedisServer, own_stage: StageMaker
) -> None:
    stage = own_stage(nodes=1)
    first = await publish(stage, 1, key="one")
    assert first.status == 200

    replica.pause()
    late = await publish(stage, 2, key="two")
    again = await publish(stage, 2, key="two")
    before = await publish(stage, 1, key="one")
    other = await publish(stage, 3, key="two")
    replica.resume()

    assert refused(late)
    assert refused(again)
    assert refused(before)  # it was confirmed once; but what says so may have been lost since
    assert refused(other)
    done: Response = await eventually(lambda: _done(stage, 2, "two"))
    assert [event["data"] for event in await stage.log()] == [1, 2]
    assert done.json()["cursor"].endswith(":2")
    conflict = await publish(stage, 3, key="two")
    assert (conflict.status, conflict.json()["code"]) == (409, "conflict")


@both_engines
@run_async
async def test_what_was_written_with_less_is_not_durable_because_it_is_repeated(
    replica: RedisServer, own_stage: StageMaker
) -> None:
    stage = own_stage(nodes=2)
    assert (await publish(stage, 0)).status == 200
    replica.pause()
    accepted = await publish(stage, 1, key="one", durability="accepted")

    durable = await publish(stage, 1, key="one")
    where = ("DELETE", "channels", stage.channel, "members", "nobody")
    removed = [await stage.api(*where, query={"durability": "durable"}, node=node) for node in (stage.b, stage.a)]
    replica.resume()

    assert accepted.status == 200
    assert refused(durable)
    assert all(map(refused, removed))  # nothing was to be done; an earlier request may have done it
    assert (await eventually(lambda: _done(stage, 1, "one"))).json() == accepted.json()


async def _done(stage: OwnStage, data: Any, key: str) -> Response | None:
    response = await publish(stage, data, key=key)
    return response if response.status == 200 else None


Call = Callable[[str], tuple[tuple[str, ...], dict[str, Any]]]
CALLS: dict[str, Call] = {
    "put": lambda ch: (("PUT", "channels", ch, "members", "u"), {}),
    "delete": lambda ch: (("DELETE", "channels", ch, "members", "u"), {}),
    "heartbeats": lambda ch: (("POST", "heartbeats"), {"members": [{"channel": ch, "user": "u"}]}),
    "disconnect": lambda ch: (("POST", "users", "u", "disconnect"), {}),
    "user message": lambda ch: (("POST", "users", "u", "messages"), {"name": "n", "data": 1}),
    "subscribe": lambda ch: (("PUT", "channels", ch, "subscribers", "u"), {}),
    "unsubscribe": lambda ch: (("DELETE", "channels", ch, "subscribers", "u"), {}),
    "inbox ack": lambda ch: (("POST", "users", "u", "inbox", "ack"), {"channel": "@inbox", "cursor": "e:1"}),
    "queue": lambda ch: (("PUT", "queues", "q"), {}),
    "ack": lambda ch: (("POST", "queues", "q", "ack"), {"consumer": "c", "ids": []}),
    "requeue": lambda ch: (("POST", "queues", "q", "dead", "requeue"), {"ids": []}),
}


@run_async
async def test_every_call_of_a_back_end_that_changes_something_takes_a_durability(
    replica: RedisServer, own_stage: StageMaker
) -> None:
    stage = own_stage(nodes=1)
    await stage.api("PUT", "queues", "q", json={})

    async def ask(call: Call) -> Response:
        words, body = call(stage.channel)
        if words[0] == "DELETE":
            return await stage.api(*words, query={"durability": "durable"})
        return await stage.api(*words, json={**body, "durability": "durable"})

    well = {name: (await ask(call)).status for name, call in CALLS.items()}
    replica.pause()
    alone = {name: (await ask(call)).status for name, call in CALLS.items()}
    replica.resume()

    assert all(status in (200, 204) for status in well.values()), well
    assert alone == dict.fromkeys(CALLS, 503)


@run_async
async def test_a_client_may_publish_durably_too(replica: RedisServer, own_stage: StageMaker, transport: str) -> None:
    stage = own_stage(nodes=1)
    ann = await stage.member(transport, stage.a, "ann")
    frame = {"type": "publish", "channel": stage.channel, "name": "n", "data": 1, "durability": "durable"}

    assert (await ann.command(frame))["type"] == "ok"
    replica.pause()
    refusal = await ann.refused(frame)
    replica.resume()
    bad = await ann.refused({**frame, "durability": "for ever"})

    assert (refusal, bad) == ("unavailable", "bad_request")
