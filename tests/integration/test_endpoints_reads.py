"""What a back end reads and publishes (contract §7): rosters, channels, events, users, messages."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.stage import Stage
from tests.support.waiting import run_async


@run_async
async def test_the_roster_pages_in_the_order_of_user_ids(stage: Stage) -> None:
    users = [f"user-{number:02}" for number in range(7)] + ["Ä", "z"]
    for user in users:
        await stage.ask("PUT", "channels", stage.channel, "members", user, json={})

    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(10):
        page = await stage.ask("GET", "channels", stage.channel, "members", query={"limit": 2, **after})
        assert page.keys() - {"next"} == {"channel", "epoch", "cursor", "count", "members"}
        assert (page["channel"], page["count"]) == (stage.channel, len(users))
        assert page["cursor"].startswith(page["epoch"] + ":")
        seen += [member["user"] for member in page["members"]]
        if "next" not in page:
            break
        after = {"after": page["next"]}

    assert seen == sorted(users, key=str.encode)


@run_async
async def test_a_channel_s_summary_counts_members_and_sessions(stage: Stage) -> None:
    where = ("channels", stage.channel, "members")
    await stage.ask("PUT", *where, "alice", json={"session": "session-1"})
    await stage.ask("PUT", *where, "alice", json={"session": "session-2"})
    answer = await stage.ask("PUT", *where, "bob", json={})

    summary = await stage.ask("GET", "channels", stage.channel)

    assert summary == {"channel": stage.channel, "count": 2, "sessions": 3, "cursor": answer["cursor"]}


@run_async
async def test_an_unknown_channel_is_an_empty_one(stage: Stage) -> None:
    summary = await stage.ask("GET", "channels", stage.channel)
    roster = await stage.ask("GET", "channels", stage.channel, "members")
    events = await stage.ask("GET", "channels", stage.channel, "events")

    assert (summary["channel"], summary["count"], summary["sessions"]) == (stage.channel, 0, 0)
    assert (roster["count"], roster["members"]) == (0, [])
    assert events["events"] == []


@run_async
async def test_channels_are_listed_by_prefix_in_pages(stage: Stage) -> None:
    prefix = stage.name("list")
    for number in range(5):
        for user in range(number + 1):
            await stage.ask("PUT", "channels", f"{prefix}-{number}", "members", f"user-{user}", json={})

    first = await stage.ask("GET", "channels", query={"prefix": prefix, "limit": 3})
    rest = await stage.ask("GET", "channels", query={"prefix": prefix, "limit": 3, "after": first["next"]})
    none = await stage.ask("GET", "channels", query={"prefix": prefix + "-none"})

    assert first["channels"] == [{"channel": f"{prefix}-{n}", "count": n + 1} for n in range(3)]
    assert rest == {"channels": [{"channel": f"{prefix}-{n}", "count": n + 1} for n in (3, 4)]}
    assert none == {"channels": []}


@run_async
async def test_past_events_are_read_by_cursor_and_limit(stage: Stage) -> None:
    cursors = [await stage.message("news", number) for number in range(5)]
    where = ("channels", stage.channel, "events")

    last = await stage.ask("GET", *where, query={"limit": 2})
    after = await stage.ask("GET", *where, query={"cursor": cursors[0], "limit": 2})
    rest = await stage.ask("GET", *where, query={"cursor": after["cursor"]})
    end = await stage.ask("GET", *where, query={"cursor": cursors[-1]})
    foreign = await stage.ask("GET", *where, query={"cursor": "elsewhere:1"})

    assert last.keys() == {"epoch", "cursor", "recovered", "events"}
    assert [event["data"] for event in last["events"]] == [3, 4]
    assert last["cursor"] == cursors[-1]
    assert (after["recovered"], after["cursor"]) == (True, cursors[2])
    assert [event["data"] for event in after["events"]] == [1, 2]
    assert [event["data"] for event in rest["events"]] == [3, 4]
    assert (end["recovered"], end["events"], end["cursor"]) == (True, [], cursors[-1])
    assert (foreign["recovered"], foreign["events"]) == (False, [])
    message = last["events"][0]
    assert message == {"type": "message", "name": "news", "data": 3, "seq": message["seq"], "at": message["at"]}


@run_async
async def test_a_user_s_presence_over_channels_and_after_the_end(stage: Stage) -> None:
    user, other = stage.name("alice"), stage.name("other-room")
    await stage.ask("PUT", "channels", stage.channel, "members", user, json={})
    await stage.ask("PUT", "channels", other, "members", user, json={})

    online = await stage.ask("GET", "users", user, node=stage.b)
    for room in (stage.channel, other):
        await stage.ask("DELETE", "channels", room, "members", user)
    offline = await stage.ask("GET", "users", user, node=stage.b)
    unknown = await stage.ask("GET", "users", stage.name("nobody"))

    assert online.keys() == {"user", "online", "sessions", "channels", "last_seen"}
    assert (online["user"], online["online"], online["sessions"]) == (user, True, 1)
    assert sorted(online["channels"]) == sorted([stage.channel, other])
    assert abs(online["last_seen"] - time.time() * 1000) < 10_000
    assert (offline["online"], offline["sessions"], offline["channels"]) == (False, 0, [])
    assert abs(offline["last_seen"] - time.time() * 1000) < 10_000
    assert (unknown["online"], unknown["last_seen"], unknown["channels"]) == (False, None, [])


@run_async
async def test_many_users_are_queried_in_the_order_asked(stage: Stage) -> None:
    names = [stage.name("user") for _ in range(4)]
    for user in names[::2]:
        await stage.ask("PUT", "channels", stage.channel, "members", user, json={})

    answer = await stage.ask("POST", "users", "query", json={"users": [*names, names[0]]})
    over = await stage.api("POST", "users", "query", json={"users": ["x"] * 1001})

    assert [entry["user"] for entry in answer["users"]] == [*names, names[0]]
    assert [entry["online"] for entry in answer["users"]] == [True, False, True, False, True]
    assert answer["users"][0].keys() == {"user", "online", "sessions", "channels", "last_seen"}
    assert over.problem() == (400, "bad_request")


@run_async
async def test_the_disconnect_of_somebody_absent_ends_nothing(stage: Stage) -> None:
    assert await stage.ask("POST", "users", stage.name("nobody"), "disconnect", json={}) == {"sessions": 0}


@run_async
async def test_a_message_reaches_observers_and_tells_its_cursor(stage: Stage) -> None:
    watcher = await stage.watcher()

    cursor = await stage.message("news", {"n": [1.5, None, "☂", {}]})

    message = await watcher.event(stage.channel, "message", name="news")
    assert message["data"] == {"n": [1.5, None, "☂", {}]}
    assert "user" not in message
    assert watcher.cursor(stage.channel) == cursor


@run_async
async def test_a_repeated_idempotency_key_is_one_event_and_another_body_a_conflict(stage: Stage) -> None:
    where = ("channels", stage.channel, "messages")
    body = {"name": "order", "data": {"n": 1}}
    key = {"Idempotency-Key": "order-0001"}

    answers = [await stage.ask("POST", *where, json=body, headers=key, node=node) for node in stage.nodes]
    conflict = await stage.api("POST", *where, json={"name": "order", "data": {"n": 2}}, headers=key)
    elsewhere = await stage.ask("POST", "channels", stage.name("other"), "messages", json=body, headers=key)

    assert answers[0] == answers[1]
    assert conflict.problem() == (409, "conflict")
    assert elsewhere != answers[0]
    assert len(await stage.log()) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "tab\there", "ümlaut"])
@run_async
async def test_a_malformed_idempotency_key_is_refused(stage: Stage, key: str) -> None:
    headers = {"Idempotency-Key": key}
    answer = await stage.api("POST", "channels", stage.channel, "messages", json={"name": "x"}, headers=headers)

    assert answer.problem() == (400, "bad_request")
    assert await stage.log() == []


@run_async
async def test_repeats_at_the_same_time_are_one_event(stage: Stage) -> None:
    body, key = {"name": "order", "data": 1}, {"Idempotency-Key": "at-once"}
    where = ("channels", stage.channel, "messages")

    answers = await asyncio.gather(
        *(stage.ask("POST", *where, json=body, headers=key, node=stage.nodes[i % 2]) for i in range(8))
    )

    assert len({answer["cursor"] for answer in answers}) == 1
    assert len(await stage.log()) == 1
