"""P7: any node answers any request of any session at any time."""

from __future__ import annotations

import pytest

from tests.support import tokens
from tests.support.clients import Frame
from tests.support.http import request
from tests.support.stage import Stage
from tests.support.waiting import run_async


@run_async
async def test_commands_through_the_other_node_act_on_the_session(stage: Stage, transport: str) -> None:
    """Also for a WebSocket's session: it may send a beacon to any node."""
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    replies = await _post(
        stage,
        alice.session,
        [
            {"type": "set", "channel": stage.channel, "state": {"n": 1}, "id": 1},
            {"type": "beat", "id": 2},
            {"type": "who", "channel": stage.channel, "id": 3},
            {"type": "publish", "channel": stage.channel, "name": "hello", "data": [1], "id": 4},
            {"type": "history", "channel": stage.channel, "limit": 1, "id": 5},
            {"type": "leave", "channel": stage.channel, "id": 6},
        ],
    )

    assert [reply["id"] for reply in replies] == [1, 2, 3, 4, 5, 6]
    assert [reply["type"] for reply in replies] == ["ok", "ok", "who", "ok", "history", "ok"], replies
    assert replies[2]["members"][0]["state"] == {"n": 1}
    assert replies[4]["events"][0]["data"] == [1]
    message = await watcher.event(stage.channel, "message", name="hello")
    assert message["user"] == "alice"
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "update", "leave:left"]


@run_async
async def test_a_newer_connection_on_the_other_node_replaces_the_older_with_4009(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    old = await stage.member(transport, stage.a, "alice")
    await old.parked()

    new = await stage.member(transport, stage.b, "alice", session=old.session)

    assert await old.until_closed() == 4009
    await stage.fence(watcher, new)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert new.closed is None


@pytest.mark.parametrize("second", ["websocket", "sse", "longpoll"])
@run_async
async def test_a_session_may_change_its_transport(stage: Stage, transport: str, second: str) -> None:
    watcher = await stage.watcher()
    old = await stage.member(transport, stage.a, "alice", state={"n": 1})
    await old.parked()

    new = await stage.member(second, stage.b, "alice", session=old.session)

    assert await old.until_closed() == 4009
    await stage.fence(watcher, new)
    assert watcher.story(stage.channel, "alice") == ["join"]
    assert (await stage.roster())["alice"]["sessions"] == 1


@run_async
async def test_polls_that_alternate_between_nodes_see_everything_once(stage: Stage) -> None:
    alice = await stage.member("longpoll", stage.a, "alice")

    for number in range(6):
        await stage.message("news", number, node=stage.nodes[number % 2])
        await alice.reconnect(stage.nodes[(number + 1) % 2])

    await stage.fence(alice)
    assert [e["data"] for e in alice.events(stage.channel, "message") if e["name"] == "news"] == list(range(6))


@run_async
async def test_both_nodes_give_the_same_roster_history_and_count(stage: Stage) -> None:
    await stage.member("websocket", stage.a, "alice")
    await stage.member("websocket", stage.b, "bob")
    await stage.message("news")

    rosters = [await stage.ask("GET", "channels", stage.channel, "members", node=node) for node in stage.nodes]
    logs = [await stage.log(node=node) for node in stage.nodes]
    counts = [await stage.ask("GET", "channels", stage.channel, node=node) for node in stage.nodes]

    assert rosters[0] == rosters[1]
    assert logs[0] == logs[1]
    assert counts[0] == counts[1]


async def _post(stage: Stage, session: str, commands: list[Frame]) -> list[Frame]:
    response = await request(
        stage.b.url,
        "POST",
        "/v1/commands",
        query={"session": session},
        headers=tokens.bearer(tokens.make_token("alice")),
        json_body=commands,
    )
    assert response.status == 200, response
    return list(response.json())
