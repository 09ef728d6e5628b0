"""Limits (contract §3) with small settings: what is one too many is told so, everything else goes on."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support import tokens
from tests.support.clients import TRANSPORTS, CommandError, open_socket
from tests.support.hostile import JSON, STREAM, Arena, compact, metric, sized
from tests.support.http import sse_events
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

SMALL = {"max_channels": 3, "max_sessions": 2, "max_members": 3, "max_commands_per_second": 0}
RATE = 5
CONNECTIONS = 4


@pytest.fixture(scope="module")
def nodes(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes with small limits, one with a slow rate and one with few connections."""
    directory, prefix = tmp_path_factory.mktemp("limits"), secrets.token_hex(4)
    others = [{"max_commands_per_second": RATE}, {"max_connections": CONNECTIONS, "ttl_ms": 30_000}]
    settings = [{**SMALL, "key_prefix": prefix}] * 2 + [{**each, "key_prefix": secrets.token_hex(4)} for each in others]
    launched = [Node.launch(directory, redis_server.url, **each) for each in settings]
    yield [node.ready() for node in launched]
    for node in launched:
        node.kill()
        assert not node.complaints(), node.tail()


@pytest.fixture
def arena(nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(nodes[:2], redis_server)


@pytest.fixture
def brisk(nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(nodes[2:3], redis_server)


@pytest.fixture
def narrow(nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(nodes[3:], redis_server)


async def _refusal(joining: Any) -> dict[str, Any]:
    with pytest.raises(CommandError) as refusal:
        await joining
    return refusal.value.frame


# ---- channels, sessions, members ----


@run_async
async def test_a_session_is_in_so_many_channels_and_in_one_more_after_leaving_one(arena: Arena) -> None:
    rooms = [arena.name("room") for _ in range(4)]
    alice = await arena.connect("websocket", arena.a, "alice")
    for room in rooms[:3]:
        await alice.join(room)

    for role in ("member", "observer"):
        assert (await alice.send({"type": "join", "channel": rooms[3], "as": role, "id": 1}))["code"] == "limit"
    assert await arena.roster(rooms[3]) == {}
    await alice.join(rooms[0])  # a refresh is not one more
    await alice.leave(rooms[0])
    await alice.join(rooms[3])
    assert list(await arena.roster(rooms[3])) == ["alice"]


@pytest.mark.parametrize("role", ["member", "observer"])
@pytest.mark.parametrize("accept", [{}, STREAM], ids=["poll", "stream"])
@run_async
async def test_one_request_for_events_enters_no_more_channels_than_a_session_may(
    arena: Arena, accept: dict[str, str], role: str
) -> None:
    rooms = [arena.name("room") for _ in range(6)]
    target = "/v1/events?as=" + role + "".join(f"&channel={room}" for room in rooms)
    headers = {**tokens.bearer(tokens.make_token("alice")), **accept}
    if accept:
        exchange = await arena.head_of(arena.a, target, headers)
        stream = sse_events(exchange)
        frames = [json.loads((await anext(stream)).data) for _ in range(7)][1:]
        exchange.close()
    else:
        frames = (await arena.raw(target, headers=headers)).json()["frames"]

    codes = [frame.get("code", "joined") for frame in frames]
    assert sorted(codes) == ["joined"] * 3 + ["limit"] * 3
    joined = {frame["channel"] for frame in frames if frame["type"] == "joined"}
    entered = {room for room in rooms if await arena.roster(room)}
    assert entered == (joined if role == "member" else set())


@run_async
async def test_commands_by_post_count_with_the_connection_on_another_node(arena: Arena) -> None:
    rooms = [arena.name("room") for _ in range(4)]
    alice = await arena.member("sse", arena.a, "alice", channel=rooms[0])

    codes = []
    for room in rooms[1:]:
        (reply,) = (await arena.command(arena.b, "alice", alice.session, {"type": "join", "channel": room})).json()
        codes.append(reply.get("code"))

    assert codes == [None, None, "limit"]
    assert await arena.roster(rooms[3]) == {}


@run_async
async def test_a_user_has_so_many_sessions_in_a_channel_over_all_nodes_and_transports(
    arena: Arena, transport: str
) -> None:
    first = await arena.member(transport, arena.a, "alice")
    await arena.member(transport, arena.b, "alice")

    refused = await _refusal(arena.member(transport, arena.b, "alice"))
    by_command = await arena.command(arena.a, "alice", "session-3", {"type": "join", "channel": arena.channel})
    by_api = await arena.api("PUT", "channels", arena.channel, "members", "alice", json={"session": "session-4"})

    assert (refused["code"], refused["channel"]) == ("limit", arena.channel)
    assert refused["retry_ms"] > 0
    assert by_command.json()[0]["code"] == "limit"
    assert by_api.problem() == (429, "limit")
    assert int(by_api.headers["retry-after"]) >= 1
    assert (await arena.roster())["alice"]["sessions"] == 2
    await first.leave(arena.channel)
    assert (await arena.command(arena.a, "alice", "session-3", {"type": "join", "channel": arena.channel})).json()[0][
        "type"
    ] == "joined"


@run_async
async def test_a_channel_has_so_many_members_and_its_members_may_still_do_everything(
    arena: Arena, transport: str
) -> None:
    members = [
        await arena.member(transport, node, user) for node, user in zip([*arena.nodes, arena.a], "abc", strict=True)
    ]
    cursor = members[-1].cursor(arena.channel)

    refused = await _refusal(arena.member(transport, arena.a, "d"))
    by_api = await arena.api("PUT", "channels", arena.channel, "members", "d", json={})
    watcher = await arena.watcher(transport)  # an observer is no member

    assert refused["code"] == "limit"
    assert by_api.problem() == (429, "limit")
    assert sorted(watcher.members(arena.channel)) == ["a", "b", "c"]
    assert watcher.cursor(arena.channel) == cursor
    await members[0].join(arena.channel)
    await members[0].set(arena.channel, {"still": True})
    assert (await arena.ask("PUT", "channels", arena.channel, "members", "a", json={}))["joined"] is False
    await members[1].leave(arena.channel)
    assert (await arena.ask("PUT", "channels", arena.channel, "members", "d", json={}))["joined"] is True


# ---- commands a second ----


@run_async
async def test_a_burst_of_twice_the_rate_is_done_and_the_rest_is_refused_with_its_id(brisk: Arena) -> None:
    await brisk.settle()
    alice = await brisk.connect("websocket", brisk.a, "alice")
    command = {"type": "publish", "channel": brisk.channel, "name": "x", "data": 1}

    replies = await asyncio.gather(*(alice.send({**command, "id": number}) for number in range(100, 140)))

    done = [reply["id"] for reply in replies if reply["type"] == "ok"]
    refused = [reply for reply in replies if reply["type"] == "error"]
    assert len(done) in range(2 * RATE, 2 * RATE + 5)
    assert done[: 2 * RATE] == list(range(100, 100 + 2 * RATE))
    assert {reply["code"] for reply in refused} == {"limit"}
    assert all(reply["retry_ms"] > 0 for reply in refused)
    assert len([event for event in await brisk.log() if event["type"] == "message"]) == len(done)
    assert alice.closed is None

    async def works_again() -> bool:
        return (await alice.send({"type": "beat", "id": 1}))["type"] == "ok"

    await eventually(works_again, every_s=0.2)


@pytest.mark.parametrize("text", ["{", "[]", '{"id":1.5}', '{"type":"x"}', "x" * 20_000], ids=lambda text: text[:12])
@run_async
async def test_messages_that_are_no_commands_count_against_the_rate_too(brisk: Arena, text: str) -> None:
    alice = await brisk.connect("websocket", brisk.a, "alice")
    for _ in range(4 * RATE):
        await alice.send_text(text)

    codes = [(await alice.expect("error"))["code"] for _ in range(4 * RATE)]

    assert RATE < codes.count("limit") <= 2 * RATE
    assert alice.closed is None


@run_async
async def test_the_rate_is_each_connection_s_own_and_back_ends_have_none(brisk: Arena) -> None:
    alice = await brisk.connect("websocket", brisk.a, "alice")
    bob = await brisk.connect("websocket", brisk.a, "bob")
    await asyncio.gather(*(alice.send({"type": "beat", "id": number}) for number in range(100, 130)))

    assert (await bob.beat())["type"] == "ok"
    for _ in range(8 * RATE):
        await brisk.ask("POST", "heartbeats", json={"members": []})


@run_async
async def test_a_rate_of_zero_is_no_limit(arena: Arena) -> None:
    alice = await arena.connect("websocket", arena.a, "alice")

    replies = await asyncio.gather(*(alice.send({"type": "beat", "id": number}) for number in range(100, 700)))

    assert {reply["type"] for reply in replies} == {"ok"}


# ---- inside one request ----


@run_async
async def test_fifty_commands_are_done_and_of_fifty_one_none(arena: Arena) -> None:
    await arena.settle()
    publish = {"type": "publish", "channel": arena.channel, "name": "x", "data": 1}

    refused = await arena.command(arena.a, "alice", "session-of-alice", [publish] * 51)
    await arena.untouched()
    done = await arena.command(arena.a, "alice", "session-of-alice", [publish] * 50)

    assert refused.problem() == (400, "bad_request")
    assert [reply["type"] for reply in done.json()] == ["ok"] * 50
    assert len(await arena.log()) == 51
    assert (await arena.command(arena.a, "alice", "session-of-alice", [])).json() == []


@run_async
async def test_twenty_channels_are_allowed_and_of_twenty_one_none_is_entered(brisk: Arena) -> None:
    rooms = [brisk.name("room") for _ in range(21)]
    for headers in ({}, STREAM):
        refused = await brisk.poll(brisk.a, "alice", *rooms, headers=headers)
        assert refused.problem() == (400, "bad_request")
    assert [await brisk.roster(room) for room in rooms] == [{}] * 21

    answer = await brisk.poll(brisk.a, "alice", *rooms[:20], rooms[0])

    assert [frame["type"] for frame in answer.json()["frames"]] == ["joined"] * 20


# ---- what an answer may have ----


@run_async
async def test_several_full_rosters_fit_into_one_poll_and_one_stream(brisk: Arena) -> None:
    """Each `joined` is at most 256 KiB, but all of them together are more than any client may leave unread."""
    rooms, users = [brisk.name("room") for _ in range(6)], [f"user-{number}" for number in range(110)]
    info = sized(1024)
    gate = asyncio.Semaphore(16)

    async def put(room: str, user: str) -> None:
        async with gate:
            await brisk.ask(
                "PUT", "channels", room, "members", user, json={"info": info, "state": info, "ttl_ms": 60_000}
            )

    await asyncio.gather(*(put(room, user) for room in rooms for user in users))
    poll = (await brisk.poll(brisk.a, "alice", *rooms, as_="observer")).json()
    headers = {**tokens.bearer(tokens.make_token("bob")), **STREAM}
    target = "/v1/events?as=observer" + "".join(f"&channel={room}" for room in rooms)
    exchange = await brisk.head_of(brisk.a, target, headers)
    stream = sse_events(exchange)
    frames = [json.loads((await anext(stream)).data) for _ in range(7)][1:]
    exchange.close()

    for given in (poll["frames"], frames):
        assert [frame["type"] for frame in given] == ["joined"] * 6
        assert [(frame["count"], len(frame["members"])) for frame in given] == [(110, 110)] * 6
        assert all(len(compact(frame).encode()) <= 256 * 1024 for frame in given)


# ---- connections ----


@run_async
async def test_one_connection_too_many_is_turned_away_and_a_place_that_is_free_again_is_given(narrow: Arena) -> None:
    kinds = ["websocket", "sse", "websocket", "longpoll"]
    clients = [await narrow.member(kind, narrow.a, f"user-{number}") for number, kind in enumerate(kinds)]
    # The poll is answered at once and comes back: wait until it holds its place.
    await eventually(lambda: _connections(narrow, CONNECTIONS))

    assert await _turned_away(narrow) == 4100
    for headers in ({}, STREAM):
        refused = await narrow.poll(narrow.a, "late", narrow.channel, headers=headers)
        assert refused.problem() == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    assert (await narrow.command(narrow.a, "late", "session-late", {"type": "beat"})).json() == [{"type": "ok"}]
    assert "late" not in await narrow.roster()
    for client in clients[:3]:
        assert (await client.beat())["type"] == "ok"
    await clients[0].close()
    await eventually(lambda: _let_in(narrow))


@run_async
async def test_whoever_is_refused_for_any_reason_takes_no_place(narrow: Arena) -> None:
    await eventually(lambda: _connections(narrow, 0))
    good = tokens.make_token("alice")
    for _ in range(2 * CONNECTIONS):
        for query, accept in (("", {}), ("", STREAM), ("&since=bad", {}), ("&as=king", STREAM), ("&session=x", {})):
            answer = await narrow.raw(f"/v1/events?channel=x&token=bad{query}", headers=accept)
            assert answer.status == 401
            answer = await narrow.raw(f"/v1/events?channel=%00&token={good}{query}", headers=accept)
            assert answer.status == 400
        stream = await narrow.head_of(narrow.a, f"/v1/events?channel=x&token={good}", STREAM)
        stream.reset()
        async with await open_socket(narrow.a.ws_url, {"token": "bad"}, {}) as socket:
            await socket.wait_closed()
        assert (
            await narrow.raw("/v1/commands?session=session-x", method="POST", headers=JSON, body=b"{}")
        ).status == 401
    await eventually(lambda: _connections(narrow, 0))

    clients = [await narrow.member("websocket", narrow.a, f"user-{number}") for number in range(CONNECTIONS)]

    assert all(client.closed is None for client in clients)
    assert await _turned_away(narrow) == 4100


async def _turned_away(stage: Arena) -> int | None:
    socket = await open_socket(stage.a.ws_url, {}, tokens.bearer(tokens.make_token("late")))
    try:
        async with asyncio.timeout(5):
            raise AssertionError(f"let in: {await socket.recv()!r}")
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else None


async def _let_in(stage: Arena) -> bool:
    return (await stage.poll(stage.a, "late", stage.channel)).status == 200


async def _connections(stage: Arena, count: int) -> bool:
    values = [await metric(stage, f'presence_sessions{{transport="{kind}"}}') for kind in TRANSPORTS]
    return sum(values) == count
