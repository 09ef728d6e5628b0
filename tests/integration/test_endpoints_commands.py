"""Commands on every transport, and POST /v1/commands: replies, rosters, histories, states."""

from __future__ import annotations

import json

from tests.support import tokens
from tests.support.http import request
from tests.support.stage import Stage
from tests.support.waiting import run_async


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
