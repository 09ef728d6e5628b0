"""Commands on every transport, and POST /v1/commands: replies, refusals, rosters, histories."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import tokens
from tests.support.clients import CommandError
from tests.support.http import request
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async


@run_async
async def test_who_pages_through_the_roster(stage: Stage, transport: str) -> None:
    for number in range(5):
        await stage.ask("PUT", "channels", stage.channel, "members", f"user-{number}", json={})
    alice = await stage.member(transport, stage.a, "alice", as_="observer")

    first = await alice.who(stage.channel, limit=3)
    rest = await alice.who(stage.channel, limit=3, after=first["next"])

    assert first.keys() == {"type", "id", "channel", "count", "cursor", "members", "next"}
    assert (first["count"], first["channel"]) == (5, stage.channel)
    assert [m["user"] for m in first["members"] + rest["members"]] == [f"user-{n}" for n in range(5)]
    assert "next" not in rest
    assert first["cursor"] == alice.cursor(stage.channel)


@run_async
async def test_history_gives_past_events_by_cursor_and_limit(stage: Stage, transport: str) -> None:
    cursors = [await stage.message("news", number) for number in range(5)]
    alice = await stage.member(transport, stage.a, "alice", as_="observer")

    last = await alice.history(stage.channel, limit=2)
    after = await alice.history(stage.channel, cursor=cursors[0], limit=2)
    lost = await alice.history(stage.channel, cursor="elsewhere:1")

    assert last.keys() == {"type", "id", "channel", "epoch", "cursor", "recovered", "events"}
    assert [event["data"] for event in last["events"]] == [3, 4]
    assert ([event["data"] for event in after["events"]], after["cursor"]) == ([1, 2], cursors[2])
    assert after["recovered"] is True
    assert (lost["recovered"], lost["events"]) == (False, [])


@run_async
async def test_a_message_of_a_client_names_its_user_and_needs_no_membership(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher()
    alice = await stage.member(transport, stage.a, "alice", channel=stage.name("elsewhere"))

    await alice.publish(stage.channel, "hello", {"n": 1})

    message = await watcher.event(stage.channel, "message", name="hello")
    assert message == {
        "type": "message",
        "name": "hello",
        "data": {"n": 1},
        "user": "alice",
        "seq": message["seq"],
        "at": message["at"],
    }


@run_async
async def test_beat_names_what_the_session_timed_out_of_until_it_joins_again(stage: Stage) -> None:
    watcher = await stage.watcher()
    alice = await stage.member("sse", stage.a, "alice", ttl_ms=1000, beats=False)
    assert "not_joined" not in await alice.beat()
    await watcher.event(stage.channel, "leave", user="alice", reason="timeout")

    first, second = await alice.beat(), await alice.beat()
    await alice.join(stage.channel)
    third = await alice.beat()

    assert first["not_joined"] == second["not_joined"] == [stage.channel]
    assert "not_joined" not in third


@run_async
async def test_leaving_ends_what_beat_names(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.a, "alice")

    await alice.leave(stage.channel)

    assert "not_joined" not in await alice.beat()
    assert await alice.refused({"type": "leave", "channel": stage.channel}) == "not_joined"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"type": "join"}, "bad_name"),
        ({"type": "join", "channel": 7}, "bad_name"),
        ({"type": "join", "channel": " padded"}, "bad_name"),
        ({"type": "join", "channel": "@server"}, "forbidden"),
        ({"type": "join", "channel": "ROOM", "as": "king"}, "bad_request"),
        ({"type": "join", "channel": "ROOM", "ttl_ms": 999}, "bad_request"),
        ({"type": "join", "channel": "ROOM", "ttl_ms": 86_400_001}, "bad_request"),
        ({"type": "join", "channel": "ROOM", "ttl_ms": 1500.5}, "bad_request"),
        ({"type": "join", "channel": "ROOM", "state": []}, "bad_request"),
        ({"type": "join", "channel": "ROOM", "state": {"x": "y" * 1100}}, "too_large"),
        ({"type": "set", "channel": "ROOM", "state": {}}, "not_joined"),
        ({"type": "set", "channel": "ROOM"}, "bad_request"),
        ({"type": "leave", "channel": "ROOM"}, "not_joined"),
        ({"type": "publish", "channel": "ROOM", "name": " x", "data": 1}, "bad_name"),
        ({"type": "who", "channel": "ROOM", "limit": 0}, "bad_request"),
        ({"type": "who", "channel": "ROOM", "limit": 1001}, "bad_request"),
        ({"type": "history", "channel": "ROOM", "limit": True}, "bad_request"),
        ({"type": "refresh"}, "bad_request"),
        ({"type": "fly"}, "bad_request"),
        ({}, "bad_request"),
        ({"type": ["join"]}, "bad_request"),
    ],
)
@run_async
async def test_a_bad_command_is_refused_and_changes_nothing(
    stage: Stage, transport: str, command: dict[str, object], code: str
) -> None:
    alice = await stage.member(transport, stage.a, "alice", channel=stage.name("home"))
    command = {name: stage.channel if value == "ROOM" else value for name, value in command.items()}

    assert await alice.refused(command) == code

    assert (await alice.beat())["type"] == "ok"
    assert await stage.log() == []


@run_async
async def test_grants_are_asked_for_every_command(stage: Stage, transport: str) -> None:
    home = stage.name("home")
    grants = {home: ["join", "see"], "see-*": ["see"], "join-*": ["join"]}
    alice = await stage.member(transport, stage.a, "alice", channel=home, grants=grants)
    refusals = [
        {"type": "join", "channel": stage.channel},
        {"type": "join", "channel": "see-room"},
        {"type": "join", "channel": "join-room", "as": "observer"},
        {"type": "who", "channel": "join-room"},
        {"type": "publish", "channel": home, "name": "x", "data": 1},
        {"type": "history", "channel": home},
        {"type": "join", "channel": "@see-"},
    ]

    assert [await alice.refused(command) for command in refusals] == ["forbidden"] * len(refusals)


@run_async
async def test_a_token_without_channels_may_join_and_see_everywhere_and_nothing_else(
    stage: Stage, transport: str
) -> None:
    alice = await stage.member(transport, stage.a, "alice", grants=None)

    assert (await alice.who(stage.channel))["count"] == 1
    publish = {"type": "publish", "channel": stage.channel, "name": "x", "data": 1}
    assert await alice.refused(publish) == "forbidden"
    assert await alice.refused({"type": "history", "channel": stage.channel}) == "forbidden"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"type":"beat"} x',
        b'{"type":"beat","id":NaN}',
        b'{"type":"beat","id":1e999}',
        b'{"type":"beat","type":"bye"}',
        b'{"type":"beat","x":"\\udc00"}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"type":"beat","x":' + b"[" * 32 + b"]" * 32 + b"}",
        b'{"type":"beat","id":' + b"9" * 5000 + b"}",
    ],
)
@run_async
async def test_json_that_is_none_is_bad_json_on_both_ways_in(stage: Stage, body: bytes) -> None:
    assert (await _post(stage, body)).problem() == (400, "bad_json")
    if body == b"\xff":
        return  # no text message of a WebSocket can carry it

    alice = await stage.connect("websocket", stage.a, "alice")
    await alice.send_text(body.decode())
    assert (await alice.expect("error"))["code"] == "bad_json"
    assert (await alice.beat())["type"] == "ok"


@run_async
async def test_nesting_of_32_levels_is_allowed(stage: Stage) -> None:
    alice = await stage.connect("websocket", stage.a, "alice")
    data = json.loads("[" * 31 + "]" * 31)

    assert (await alice.publish(stage.channel, "deep", data))["type"] == "ok"


@pytest.mark.parametrize("body", [b"7", b"null", b'"text"', b"[7]", b"[[]]"])
@run_async
async def test_json_that_is_no_command_is_a_bad_request(stage: Stage, body: bytes) -> None:
    answer = await _post(stage, body)

    if answer.status == 200:
        assert [(reply["type"], reply["code"]) for reply in answer.json()] == [("error", "bad_request")]
    else:
        assert answer.problem() == (400, "bad_request")


@run_async
async def test_a_batch_answers_every_command_in_order_even_if_some_fail(stage: Stage) -> None:
    batch = [
        {"type": "join", "channel": stage.channel, "id": 10},
        {"type": "join", "channel": "@server", "id": 11},
        {"type": "set", "channel": stage.channel, "state": {"n": 1}, "id": 12},
        {"type": "nonsense", "id": 13},
        {"type": "beat"},
    ]

    answer = await stage.command(stage.a, "alice", stage.session, batch)

    assert answer.status == 200
    replies = answer.json()
    assert [reply["type"] for reply in replies] == ["joined", "error", "ok", "error", "ok"]
    assert [reply.get("id") for reply in replies] == [10, 11, 12, 13, None]
    assert (await stage.roster())["alice"]["state"] == {"n": 1}


@run_async
async def test_fifty_one_commands_are_refused_as_a_whole(stage: Stage) -> None:
    join = {"type": "join", "channel": stage.channel}

    answer = await stage.command(stage.a, "alice", stage.session, [join] * 51)

    assert answer.problem() == (400, "bad_request")
    assert await stage.roster() == {}


@run_async
async def test_commands_need_a_session_a_token_and_json(stage: Stage) -> None:
    beat = b'{"type":"beat"}'

    assert (await stage.command(stage.a, "alice", None, {"type": "beat"})).problem() == (400, "bad_request")
    assert (await stage.command(stage.a, "alice", "short", {"type": "beat"})).problem() == (400, "bad_request")
    assert (await _post(stage, beat, token="garbage")).problem() == (401, "unauthorized")
    assert (await _post(stage, beat, content_type="text/plain;charset=UTF-8")).status == 200
    assert (await _post(stage, beat, content_type="text/html")).problem() == (415, "unsupported_media_type")
    assert (await _post(stage, b'"' + b"x" * 17_000 + b'"')).problem() == (413, "too_large")


@run_async
async def test_a_beacon_with_the_token_in_the_url_starts_the_grace(stage: Stage) -> None:
    watcher = await stage.watcher()
    alice = await stage.member("longpoll", stage.a, "alice")
    await alice.abort()

    answer = await request(
        stage.b.url,
        "POST",
        "/v1/commands",
        query={"session": alice.session, "token": tokens.make_token("alice")},
        headers={"Content-Type": "text/plain;charset=UTF-8"},
        body=b'{"type":"bye"}',
    )

    assert [reply["type"] for reply in answer.json()] == ["ok"]
    leave = await watcher.event(stage.channel, "leave", user="alice")
    assert leave["reason"] == "timeout"
    assert leave["at"] - leave["last_seen"] < 1700, "the grace, not the ttl"


@run_async
async def test_a_large_roster_is_truncated_in_joined_and_whole_by_who(stage: Stage) -> None:
    state = {"x": "y" * 900}
    for number in range(300):
        body = {"state": state, "ttl_ms": 60_000}
        await stage.ask("PUT", "channels", stage.channel, "members", f"user-{number:03}", json=body)
    alice = await stage.connect("websocket", stage.a, "alice")

    joined = await alice.join(stage.channel, "observer")

    assert joined["truncated"] is True
    assert joined["count"] == 300
    assert len(json.dumps(joined, separators=(",", ":"))) <= 256 * 1024
    users: list[str] = [member["user"] for member in joined["members"]]
    after: str | None = users[-1]
    while after:
        page = await alice.who(stage.channel, limit=1000, after=after)
        users += [member["user"] for member in page["members"]]
        after = page.get("next")
    assert users == [f"user-{number:03}" for number in range(300)]


@run_async
async def test_a_message_beyond_the_command_limit_is_too_large_and_beyond_64_kib_may_close(stage: Stage) -> None:
    alice = await stage.connect("websocket", stage.a, "alice")
    await alice.send_text('{"type":"beat","x":"' + "y" * 17_000 + '"}')
    assert (await alice.expect("error"))["code"] == "too_large"
    assert (await alice.beat())["type"] == "ok"

    await alice.send_text('{"type":"beat","x":"' + "y" * 70_000 + '"}')

    await eventually(lambda: alice.closed == 1009 or _last_code(alice) == "too_large")


@run_async
async def test_ids_of_any_integer_come_back_and_other_ids_are_refused(stage: Stage) -> None:
    alice = await stage.connect("websocket", stage.a, "alice")

    for number in (0, -1, 2**53):
        assert (await alice.send({"type": "beat", "id": number}))["id"] == number
    await alice.send_text('{"type":"beat","id":"text"}')
    assert (await alice.expect("error"))["code"] == "bad_request"


@run_async
async def test_info_comes_from_the_token_of_the_first_session_and_stays(stage: Stage, transport: str) -> None:
    await stage.member(transport, stage.a, "alice", info={"name": "Alice"})
    await stage.member(transport, stage.b, "alice", info={"name": "Alicia"})

    assert (await stage.roster())["alice"]["info"] == {"name": "Alice"}


@run_async
async def test_the_last_writer_of_the_state_wins_and_a_join_without_keeps_it(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher()
    first = await stage.member(transport, stage.a, "alice", state={"n": 1})
    second = await stage.member(transport, stage.b, "alice")
    assert (await stage.roster())["alice"]["state"] == {"n": 1}

    await second.set(stage.channel, {"n": 2})
    await first.leave(stage.channel)

    assert (await stage.roster())["alice"]["state"] == {"n": 2}
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "update"]


@run_async
async def test_a_refused_join_leaves_nothing_behind(stage: Stage, transport: str) -> None:
    alice = await stage.member(
        transport, stage.a, "alice", channel=stage.name("home"), grants={"home*": ["join", "see"]}
    )

    with pytest.raises(CommandError) as refusal:
        await alice.join(stage.channel)

    assert refusal.value.code == "forbidden"
    assert await stage.roster() == {}
    assert await stage.log() == []


async def _post(stage: Stage, body: bytes, *, token: str | None = None, content_type: str = "application/json") -> Any:
    headers = {"Content-Type": content_type}
    return await stage.command(stage.a, "alice", stage.session, body=body, token=token, headers=headers)


def _last_code(client: Any) -> str:
    return str(client.frames[-1].get("code"))
