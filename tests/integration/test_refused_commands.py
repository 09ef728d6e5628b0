"""Commands that are refused, on every transport: with which code, and that nothing changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.clients import CommandError
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async


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
