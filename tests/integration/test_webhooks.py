"""Webhooks, on two nodes: signed batches in order, again until they are taken or given up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from presence.errors import NotFound
from tests.chaos import deliveries
from tests.conftest import LIVE_NODES
from tests.support import tokens
from tests.support.hooks import come_and_go, group, report, write_targets
from tests.support.node import Node
from tests.support.parts import Parts
from tests.support.ports import free_ports
from tests.support.receiver import OLD_SECRET, SECRET, Receiver, answer
from tests.support.redis_server import RedisServer
from tests.support.stage import EngineStageMaker, Stage
from tests.support.waiting import eventually, run_async

FIELDS = {
    *("id", "channel", "epoch", "seq", "at", "type", "user", "info", "state"),
    *("since", "last_seen", "reason", "generation"),
}
NAMES = ("plain", "leaves", "moody", "dead", "again", "inside", "small", "patient")


class Hooks(Stage):
    """A stage with a target for each scenario, which gets what happens in channels that begin with its name."""

    def __init__(self, nodes: list[Node], redis: RedisServer, ports: dict[str, int]) -> None:
        super().__init__(nodes, redis)
        self.ports = ports

    def receiver(self, name: str) -> Receiver:
        """The receiver of a target."""
        return Receiver(self.ports[name])


@pytest.fixture(scope="module")
def hook_nodes(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[list[Node], dict[str, int]]]:
    folder = tmp_path_factory.mktemp("webhooks")
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    targets = {name: {"url": f"http://127.0.0.1:{port}/{name}?key=hunter2"} for name, port in ports.items()}
    targets["leaves"] |= {"types": ["leave"]}
    targets["moody"] |= {"timeout_ms": 1000}
    targets["dead"] |= {"max_deliveries": 2}
    targets["small"] |= {"batch": 3}
    targets["inside"] |= {"url": f"http://localhost:{ports['inside']}/", "allow_private": None}
    file = write_targets(folder / "webhooks.toml", targets)
    nodes = [
        Node.launch(folder, redis_server.url, key_prefix="hooks", webhooks_file=file, partitions=4) for _ in range(2)
    ]
    request.config.stash[LIVE_NODES].extend(nodes)
    yield [node.ready() for node in nodes], ports
    for node in nodes:
        node.kill()
        request.config.stash[LIVE_NODES].remove(node)
    assert not [line for node in nodes for line in node.complaints()]
    assert not [node for node in nodes if "hunter2" in node.tail(10_000) or SECRET in node.tail(10_000)]


@pytest.fixture
def hooks(hook_nodes: tuple[list[Node], dict[str, int]], redis_server: RedisServer) -> Hooks:
    return Hooks(hook_nodes[0], redis_server, hook_nodes[1])


@run_async
async def test_events_come_with_all_their_fields_signed_for_the_new_secret_and_the_old(hooks: Hooks) -> None:
    channel = hooks.name("plain")
    async with hooks.receiver("plain") as receiver:
        await come_and_go(hooks, channel, "ann")
        await hooks.message("note", {"n": [1, {}]}, channel)
        await eventually(lambda: len(receiver.events) == 3)

    join, leave, message = receiver.events
    assert join.keys() == leave.keys() == FIELDS
    assert message.keys() == FIELDS | {"name", "data"}
    assert [event["type"] for event in receiver.events] == ["join", "leave", "message"]
    assert (leave["user"], leave["info"], leave["reason"]) == ("ann", {"n": "ann"}, "left")
    assert message["data"] == {"n": [1, {}]}
    call = receiver.calls[0]
    assert (call.target, call.headers["content-type"]) == ("/plain?key=hunter2", "application/json")
    for secret in (SECRET, OLD_SECRET):
        body = call.verify(secret)
    assert body["type"] == "presence.events"
    last = call.events[-1]
    assert datetime.fromisoformat(body["timestamp"]).timestamp() * 1000 == last["at"]
    assert body["data"]["cursor"] == last["id"]
    with pytest.raises(WebhookVerificationError):
        call.verify("whsec_" + "x" * 44)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(call.body + b" ", call.headers)


@run_async
async def test_a_target_gets_only_the_types_and_channels_that_it_wants(hooks: Hooks) -> None:
    async with hooks.receiver("leaves") as receiver, hooks.receiver("plain") as other:
        await come_and_go(hooks, hooks.name("leaves"), "ann", "ben")
        await eventually(lambda: len(receiver.events) == 2)

    assert [(event["type"], event["user"]) for event in receiver.events] == [("leave", "ann"), ("leave", "ben")]
    assert not other.calls


@run_async
async def test_a_batch_that_is_not_taken_comes_again_as_it_was_and_nothing_overtakes_it(hooks: Hooks) -> None:
    channel = hooks.name("moody")
    async with hooks.receiver("moody") as receiver, Receiver() as elsewhere:
        hang = asyncio.Event()
        receiver.answers += [
            *(answer(500), None, answer(302, f"Location: http://127.0.0.1:{elsewhere.port}/"), hang),
            answer(429, "Retry-After: 1"),
        ]
        await hooks.message("first", None, channel)
        await eventually(lambda: len(receiver.calls) == 2)
        await hooks.message("second", None, channel)
        await eventually(lambda: len(receiver.calls) == 5)
        standing = await eventually(lambda: failing(hooks, "moody", "status 429"))
        await eventually(lambda: "second" in receiver.seen("name"))
        healed = await eventually(lambda: healthy(hooks, "moody"))

    tries = receiver.calls[:6]
    assert len({call.id for call in tries}) == len({call.body for call in tries}) == 1
    assert [event["name"] for event in tries[0].events] == ["first"]
    assert receiver.calls[6].id != tries[0].id
    assert receiver.seen("name") == ["first"] * 6 + ["second"]
    assert not elsewhere.calls
    assert (standing["attempts"], standing["waiting"] + standing["in_flight"]) == (5, 2)
    assert standing["retry_at"] - standing["error_at"] >= 1000
    assert standing["failing_since"] <= standing["error_at"]
    assert (healed["error"], healed["cursor"]) == ("status 429", receiver.events[-1]["id"])
    for call in tries:
        call.verify(SECRET)


async def failing(hooks: Hooks, name: str, error: str) -> object:
    standing = await report(hooks, name)
    return standing if standing["failing_since"] and standing["error"] == error else None


async def healthy(hooks: Hooks, name: str) -> object:
    standing = await report(hooks, name)
    idle = not (standing["waiting"] or standing["in_flight"] or standing["attempts"])
    return standing if idle and not standing["failing_since"] and standing["delivered_at"] else None


@run_async
async def test_what_is_never_taken_goes_to_the_dead_letters_and_comes_again_when_it_is_requeued(hooks: Hooks) -> None:
    channel, queue = hooks.name("dead"), group("dead")
    async with hooks.receiver("dead") as receiver:
        receiver.answers += [answer(500), answer(500)]
        await hooks.message("poison", None, channel)
        letters = await eventually(lambda: dead(hooks))
        await hooks.message("after", None, channel)
        await eventually(lambda: receiver.seen("name") == ["poison", "poison", "after"])
        done = await hooks.ask("POST", "queues", queue, "dead", "requeue", json={"ids": [letters[0]["id"]]})
        await eventually(lambda: len(receiver.calls) == 4)

    assert [(letter["name"], letter["deliveries"]) for letter in letters] == [("poison", 2)]
    assert done == {"requeued": [letters[0]["id"]], "refused": []}
    again = receiver.calls[3].events[0]
    assert (again["name"], again["seq"]) == ("poison", letters[0]["seq"])
    assert again["id"].endswith("-r")
    assert receiver.calls[3].data["cursor"] == receiver.calls[2].data["cursor"]
    assert await dead(hooks) == []
    metrics = [(await hooks.probe("/metrics", node)).body.decode() for node in hooks.nodes]
    assert any('presence_webhook_deliveries_total{result="dead"} 1.0' in text for text in metrics)


async def dead(hooks: Hooks) -> list[object]:
    return list((await hooks.ask("GET", "queues", group("dead"), "dead"))["events"])


@run_async
async def test_a_replay_brings_what_came_since_an_instant_or_behind_a_cursor_in_its_order(hooks: Hooks) -> None:
    channels = [hooks.name("again") for _ in range(8)]
    async with hooks.receiver("again") as receiver:
        for number in range(24):
            await hooks.message(f"m{number}", None, channels[number % 8])
        await eventually(lambda: len(receiver.events) == 24)
        first, ids = list(receiver.events), receiver.seen("id")
        answered = await hooks.ask("POST", "webhooks", "again", "replay", json={"from": first[8]["at"]}, node=hooks.b)
        behind = 24 - next(n for n, event in enumerate(first) if event["at"] >= first[8]["at"])
        await eventually(lambda: len(receiver.events) == 24 + behind)
        await eventually(lambda: healthy(hooks, "again"))
        await hooks.ask("POST", "webhooks", "again", "replay", json={"cursor": ids[19]})
        await eventually(lambda: len(receiver.events) == 24 + behind + 4)
        await hooks.message("last", None, channels[0])
        await eventually(lambda: receiver.seen("name")[-1] == "last")

    assert [event["name"] for event in first] == [f"m{number}" for number in range(24)]
    assert 0 <= answered["events"] <= behind, "it counts what waits: some may be on their way by then"
    assert receiver.seen("id")[:-1] == ids + ids[24 - behind :] + ids[20:]
    assert len({call.id for call in receiver.calls}) == len(receiver.calls)


@run_async
async def test_a_replay_in_the_midst_of_a_backlog_begins_again_in_order(hooks: Hooks) -> None:
    channels = [hooks.name("small") for _ in range(6)]
    async with hooks.receiver("small") as receiver:
        holds = [asyncio.Event(), asyncio.Event()]
        receiver.answers += holds
        await hooks.message("m0", None, channels[0])
        await eventually(lambda: receiver.calls)
        for number in range(1, 20):
            await hooks.message(f"m{number}", None, channels[number % 6])
        holds[0].set()
        await eventually(lambda: len(receiver.calls) == 2)
        first = receiver.events[0]
        await hooks.ask("POST", "webhooks", "small", "replay", json={"from": first["at"]})
        holds[1].set()
        await eventually(lambda: receiver.seen("name")[-1:] == ["m19"])
        await eventually(lambda: healthy(hooks, "small"))

    names = [f"m{number}" for number in range(20)]
    assert receiver.seen("name") == [*names[:4], *names]


@run_async
async def test_a_replay_answers_how_many_events_wait(hooks: Hooks) -> None:
    channel, hold = hooks.name("again"), asyncio.Event()
    async with hooks.receiver("again") as receiver:
        for number in range(4):
            await hooks.message(f"m{number}", None, channel)
        await eventually(lambda: len(receiver.events) == 4)
        receiver.answers.append(hold)  # so that nothing else is on its way meanwhile
        await hooks.message("held", None, channel)
        await eventually(lambda: len(receiver.events) == 5)
        answered = await hooks.ask("POST", "webhooks", "again", "replay", json={"from": receiver.events[0]["at"]})
        hold.set()
        await eventually(lambda: receiver.seen("name").count("held") == 2)

    assert answered == {"events": 5}
    assert receiver.seen("name")[-5:] == ["m0", "m1", "m2", "m3", "held"]


@run_async
async def test_batches_are_as_large_as_configured_at_most_and_full_while_much_waits(hooks: Hooks) -> None:
    channels = [hooks.name("small") for _ in range(6)]
    async with hooks.receiver("small") as receiver:
        hold = asyncio.Event()
        receiver.answers.append(hold)
        await hooks.message("m0", None, channels[0])
        await eventually(lambda: receiver.calls)
        for number in range(1, 20):
            await hooks.message(f"m{number}", None, channels[number % 6])
        hold.set()
        await eventually(lambda: len(receiver.fresh) == 20)

    assert [event["name"] for event in receiver.fresh] == [f"m{number}" for number in range(20)]
    assert max(len(call.events) for call in receiver.calls) == 3
    assert len({call.id for call in receiver.calls}) < 15, "sent by ones and twos"


@run_async
async def test_a_name_that_leads_inside_is_refused_until_that_is_allowed(hooks: Hooks) -> None:
    async with hooks.receiver("inside") as receiver:
        await hooks.message("secret", None, hooks.name("inside"))
        error = "the host leads to a private address; allow_private = true would allow that"
        standing = await eventually(lambda: failing(hooks, "inside", error))

    assert not receiver.calls
    assert standing["delivered_at"] is None


@run_async
async def test_the_list_of_webhooks_shows_how_they_stand_and_nothing_that_opens_them(hooks: Hooks) -> None:
    listed = (await hooks.ask("GET", "webhooks", key=tokens.READ_KEY))["webhooks"]

    assert [row["name"] for row in listed] == list(NAMES)
    row = listed[-1]
    assert row["url"] == f"http://127.0.0.1:{hooks.ports['patient']}/patient?***"
    assert (row["types"], row["channels"], row["waiting"], row["dead"]) == (None, "patient-*", 0, 0)
    assert row["node"] in {node.name for node in hooks.nodes}
    assert "whsec" not in str(listed) and "hunter2" not in str(listed)


@run_async
async def test_requests_that_are_wrong_are_told_so(hooks: Hooks) -> None:
    async def refusal(method: str, *parts: str, **options: object) -> tuple[int, str]:
        return (await hooks.api(method, *parts, **options)).problem()  # type: ignore[arg-type]

    replay = ("webhooks", "again", "replay")
    assert await refusal("POST", *replay, json={"from": 1}, key=tokens.READ_KEY) == (403, "forbidden")
    assert await refusal("GET", "webhooks", key=None) == (401, "unauthorized")
    assert await refusal("POST", "webhooks", "nobody", "replay", json={"from": 1}) == (404, "not_found")
    for body in ({}, {"from": 1, "cursor": "0-1-0"}, {"from": -1}, {"from": 1.5}, {"from": "now"}, {"cursor": None},
                 {"cursor": "x"}, {"cursor": "4-1-0"}, {"cursor": "0-1-0-r"}, {"cursor": "0" * 101}, {"cursor": 7}):  # fmt: skip
        assert await refusal("POST", *replay, json=body) == (400, "bad_request"), body
    assert await refusal("DELETE", "webhooks", "again") == (400, "bad_request")
    assert await refusal("DELETE", "webhooks", "nobody") == (404, "not_found")
    take = {"consumer": "thief", "count": 1}
    assert await refusal("POST", "queues", group("again"), "take", json=take) == (403, "forbidden")
    assert await refusal("DELETE", "queues", group("again")) == (403, "forbidden")


def test_a_file_with_a_mistake_ends_the_node_with_a_message_that_names_it(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    file = write_targets(tmp_path / "webhooks.toml", {"billing": {"url": "http://127.0.0.1/", "allow_private": None}})
    node = Node.launch(tmp_path, redis_server.url, webhooks_file=file)

    assert node.wait() != 0
    assert "target billing: url: leads to a private address" in node.tail()
    assert "whsec" not in node.tail()


@run_async
async def test_a_webhook_that_is_not_configured_any_more_can_be_ended_with_all_that_waits(
    redis_server: RedisServer,
) -> None:
    bench = Parts(redis_server)
    try:
        await deliveries.node_with_hook(bench)
        node = await bench.node()
        await node.tracker.publish("hook-1", "note", "null")
        assert (await node.queues.look(group("hook")))[0].waiting == 1

        await node.webhooks.end("hook")

        with pytest.raises(NotFound):
            await node.queues.look(group("hook"))
        assert not [key async for key in bench.redis.scan_iter(f"{bench._prefix}*@webhook:hook*")]
    finally:
        await bench.aclose()


@pytest.mark.engines
@run_async
async def test_in_a_cluster_the_events_of_all_servers_come_once_and_in_order(
    engine_stage: EngineStageMaker, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    targets = {"hook": {"url": f"http://127.0.0.1:{port}/"}}
    stage = engine_stage("cluster", 2, webhooks_file=write_targets(tmp_path / "webhooks.toml", targets))
    channels = [stage.name("hook") for _ in range(12)]
    async with Receiver(port) as receiver:
        for number in range(60):
            await stage.message(f"m{number}", None, channels[number % 12])
        await eventually(lambda: len(receiver.events) == 60)
        await stage.ask("POST", "webhooks", "hook", "replay", json={"from": receiver.events[0]["at"]})
        await eventually(lambda: len(receiver.events) == 120)

    assert receiver.seen("name") == [f"m{number}" for number in range(60)] * 2
