"""The back end's endpoints (contract §7): exact shapes, paging, idempotency, refusals."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.support import tokens
from tests.support.stage import Stage, path
from tests.support.waiting import run_async

CURSOR = re.compile(r"^[^:\s]+:\d+$")
AWKWARD = ["*", "{x}", "a/b", "|", "__proto__", "Zoë ☂", "a%2Fb", "..", "?q#f", "x" * 200, "a:b", '"', "\\"]
BAD_NAMES = ["x" * 201, " x", "x ", "e\u0301", "a\u0000b", "a\u200bb", "a\u2028b", "\ue000", "é" * 101]


@run_async
async def test_put_makes_a_member_once_and_delete_ends_it_once(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    watcher = await stage.watcher()

    first = await stage.ask("PUT", *where, json={"info": {"kind": "probe"}, "state": {"on": True}})
    again = await stage.ask("PUT", *where, json={})
    (member,) = (await stage.roster()).values()
    gone = await stage.ask("DELETE", *where)
    gone_again = await stage.ask("DELETE", *where)

    assert first.keys() == again.keys() == {"joined", "cursor"}
    assert (first["joined"], again["joined"]) == (True, False)
    assert CURSOR.match(first["cursor"])
    assert member == {
        "user": "sensor",
        "info": {"kind": "probe"},
        "state": {"on": True},
        "sessions": 1,
        "since": member["since"],
    }
    assert abs(member["since"] - time.time() * 1000) < 10_000
    assert (gone, gone_again) == ({"left": True}, {"left": False})
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "sensor") == ["join", "leave:left"]
    join = watcher.events(stage.channel, "join")[0]
    assert join == {
        "type": "join",
        "user": "sensor",
        "info": {"kind": "probe"},
        "state": {"on": True},
        "seq": join["seq"],
        "at": join["at"],
    }
    leave = watcher.events(stage.channel, "leave")[0]
    assert leave.keys() == {"type", "user", "reason", "last_seen", "seq", "at"}


@run_async
async def test_delete_with_a_session_ends_only_that_one(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    for session in ("probe-one", "probe-two"):
        await stage.ask("PUT", *where, json={"session": session})
    assert (await stage.roster())["sensor"]["sessions"] == 2

    one = await stage.ask("DELETE", *where, query={"session": "probe-one"})
    other = await stage.ask("DELETE", *where, query={"session": "back-end"})
    last = await stage.ask("DELETE", *where, query={"session": "probe-two"})

    assert (one, other, last) == ({"left": False}, {"left": False}, {"left": True})


@run_async
async def test_delete_without_a_session_ends_all_of_them(stage: Stage) -> None:
    where = ("channels", stage.channel, "members", "sensor")
    for session in ("probe-one", "probe-two"):
        await stage.ask("PUT", *where, json={"session": session})

    assert await stage.ask("DELETE", *where) == {"left": True}
    assert await stage.roster() == {}


@run_async
async def test_a_delete_by_the_back_end_tells_the_connected_client(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.b, "alice")

    assert await stage.ask("DELETE", "channels", stage.channel, "members", "alice") == {"left": True}

    await alice.expect("error", code="not_joined", channel=stage.channel)
    assert alice.closed is None
    assert (await alice.beat())["not_joined"] == [stage.channel]


@run_async
async def test_heartbeats_keep_their_order_and_never_create(stage: Stage) -> None:
    room = stage.channel
    for number in (1, 3):
        await stage.ask("PUT", "channels", room, "members", f"user-{number}", json={})
    await stage.ask("PUT", "channels", room, "members", "user-1", json={"session": "second-one"})
    beats = [
        {"channel": room, "user": "user-3"},
        {"channel": room, "user": "user-2"},
        {"channel": room, "user": "user-1", "session": "second-one"},
        {"channel": room, "user": "user-1", "session": "third-one"},
        {"channel": stage.name("never"), "user": "user-1"},
        {"channel": "@server", "user": "user-1"},
        {"channel": room, "user": " padded"},
        {"channel": room, "user": "user-1"},
    ]

    answer = await stage.ask("POST", "heartbeats", json={"members": beats})

    assert answer == {
        "results": [
            "refreshed",
            "not_joined",
            "refreshed",
            "not_joined",
            "not_joined",
            "forbidden",
            "bad_name",
            "refreshed",
        ]
    }
    assert sorted(await stage.roster()) == ["user-1", "user-3"]


@run_async
async def test_heartbeats_keep_members_of_a_back_end_online(stage: Stage) -> None:
    watcher = await stage.watcher()
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={"ttl_ms": 1000})

    for _ in range(6):
        await asyncio.sleep(0.3)
        beat = {"members": [{"channel": stage.channel, "user": "sensor"}]}
        assert await stage.ask("POST", "heartbeats", json=beat) == {"results": ["refreshed"]}

    await stage.fence(watcher)
    assert watcher.story(stage.channel, "sensor") == ["join"]


@run_async
async def test_a_heartbeat_after_a_leave_does_not_bring_the_member_back(stage: Stage) -> None:
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={})
    await stage.ask("DELETE", "channels", stage.channel, "members", "sensor")

    answer = await stage.ask("POST", "heartbeats", json={"members": [{"channel": stage.channel, "user": "sensor"}]})

    assert answer == {"results": ["not_joined"]}
    assert await stage.roster() == {}


@run_async
async def test_a_thousand_heartbeats_are_one_call_and_one_more_is_refused(stage: Stage) -> None:
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={})
    beat = {"channel": stage.channel, "user": "sensor"}

    full = await stage.ask("POST", "heartbeats", json={"members": [beat] * 1000})
    over = await stage.api("POST", "heartbeats", json={"members": [beat] * 1001})

    assert full == {"results": ["refreshed"] * 1000}
    assert over.problem() == (400, "bad_request")


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


@pytest.mark.parametrize("name", AWKWARD)
@run_async
async def test_names_are_taken_literally(stage: Stage, name: str) -> None:
    channel = name if len(name) == 200 else stage.channel + name

    assert (await stage.ask("PUT", "channels", channel, "members", name, json={}))["joined"] is True
    roster = await stage.ask("GET", "channels", channel, "members")
    user = await stage.ask("GET", "users", name)

    assert roster["channel"] == channel
    assert [member["user"] for member in roster["members"]] == [name]
    assert user["user"] == name
    assert channel in user["channels"]
    await stage.ask("DELETE", "channels", channel, "members", name)


@pytest.mark.parametrize(
    "name", ["x" * 201, " x", "x ", "e\u0301", "a\u0000b", "a\u200bb", "a\u2028b", "\ue000", "é" * 101]
)
@run_async
async def test_bad_names_are_refused_everywhere(stage: Stage, name: str) -> None:
    calls = [
        stage.api("PUT", "channels", name, "members", "alice", json={}),
        stage.api("PUT", "channels", stage.channel, "members", name, json={}),
        stage.api("GET", "channels", name),
        stage.api("GET", "users", name),
        stage.api("POST", "channels", stage.channel, "messages", json={"name": name, "data": 1}),
    ]

    for call in calls:
        assert (await call).problem() == (400, "bad_name")
    assert await stage.log() == []


@run_async
async def test_the_server_s_own_channels_are_forbidden_to_api_keys(stage: Stage) -> None:
    for method, *rest in (("PUT", "members", "alice"), ("GET", "members"), ("GET",), ("GET", "events")):
        answer = await stage.api(method, "channels", "@server", *rest, json={} if method == "PUT" else None)
        assert answer.problem() == (403, "forbidden")
    answer = await stage.api("POST", "channels", "@server", "messages", json={"name": "x", "data": 1})
    assert answer.problem() == (403, "forbidden")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", ""])
@run_async
async def test_a_limit_out_of_bounds_is_refused(stage: Stage, limit: str) -> None:
    for parts in (("channels",), ("channels", stage.channel, "members"), ("channels", stage.channel, "events")):
        assert (await stage.api("GET", *parts, query={"limit": limit})).problem() == (400, "bad_request")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "bad_json")),
        (b"\xff{}", (400, "bad_json")),
        (b"\xef\xbb\xbf{}", (400, "bad_json")),
        (b'{"ttl_ms":NaN}', (400, "bad_json")),
        (b'{"ttl_ms":1e999}', (400, "bad_json")),
        (b'{"state":{},"state":{}}', (400, "bad_json")),
        (b'{"state":{"x":"\\ud800"}}', (400, "bad_json")),
        (b'{"state":' + b'{"a":' * 40 + b"1" + b"}" * 41, (400, "bad_json")),
        (b'{"ttl_ms":' + b"9" * 5000 + b"}", (400, "bad_json")),
        (b"[]", (400, "bad_request")),
        (b"null", (400, "bad_request")),
        (b'{"ttl_ms":999}', (400, "bad_request")),
        (b'{"ttl_ms":86400001}', (400, "bad_request")),
        (b'{"ttl_ms":true}', (400, "bad_request")),
        (b'{"ttl_ms":"2000"}', (400, "bad_request")),
        (b'{"session":"short"}', (400, "bad_request")),
        (b'{"session":"white space"}', (400, "bad_request")),
        (b'{"info":[]}', (400, "bad_request")),
        (b'{"state":"x"}', (400, "bad_request")),
        (b'{"state":{"x":"' + b"y" * 1100 + b'"}}', (413, "too_large")),
        (b'{"x":"' + b"y" * 17_000 + b'"}', (413, "too_large")),
    ],
)
@run_async
async def test_a_bad_body_is_refused_and_changes_nothing(stage: Stage, body: bytes, expected: tuple[int, str]) -> None:
    where = ("channels", stage.channel, "members", "alice")
    answer = await stage.api("PUT", *where, body=body, headers={"Content-Type": "application/json"})

    assert answer.problem() == expected
    assert await stage.roster() == {}


@run_async
async def test_another_content_type_is_refused(stage: Stage) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": content_type}
        answer = await stage.api("PUT", "channels", stage.channel, "members", "alice", body=b"{}", headers=headers)
        assert answer.problem() == (415, "unsupported_media_type")


@run_async
async def test_a_batch_may_be_a_megabyte_and_not_more(stage: Stage) -> None:
    padding = {"members": [], "x": "y" * 900_000}
    assert await stage.ask("POST", "heartbeats", json=padding) == {"results": []}

    padding["x"] = "y" * 1_100_000
    assert (await stage.api("POST", "heartbeats", json=padding)).problem() == (413, "too_large")


@run_async
async def test_unknown_paths_and_methods_are_problems_too(stage: Stage) -> None:
    missing = await stage.api("GET", "nothing", "here")
    wrong = await stage.api("DELETE", "channels", stage.channel)

    assert missing.problem() == (404, "not_found")
    assert wrong.status == 405
    assert wrong.headers["content-type"].startswith("application/problem+json")
    assert "GET" in wrong.headers["allow"]


@pytest.mark.parametrize("key", [None, "", "wrong-key", tokens.API_KEY + "x", "client-token"])
@run_async
async def test_back_end_endpoints_open_only_to_an_api_key(stage: Stage, key: str | None) -> None:
    key = tokens.make_token("alice") if key == "client-token" else key
    for method, parts in (("GET", ("channels",)), ("PUT", ("channels", "x", "members", "y"))):
        answer = await stage.api(method, *parts, key=key, json={} if method == "PUT" else None)
        assert answer.problem() == (401, "unauthorized")


@run_async
async def test_a_read_key_reads_and_never_writes(stage: Stage) -> None:
    room = ("channels", stage.channel)
    reads = [("GET", ("channels",)), ("GET", room), ("GET", (*room, "members")), ("GET", (*room, "events"))]
    for method, parts in [*reads, ("GET", ("users", "alice"))]:
        assert (await stage.api(method, *parts, key=tokens.READ_KEY)).status == 200
    query = await stage.api("POST", "users", "query", json={"users": ["alice"]}, key=tokens.READ_KEY)
    assert query.status == 200

    writes = [
        ("PUT", (*room, "members", "alice")),
        ("DELETE", (*room, "members", "alice")),
        ("POST", ("heartbeats",)),
        ("POST", (*room, "messages")),
        ("POST", ("users", "alice", "disconnect")),
    ]
    for method, parts in writes:
        body = {"name": "x", "data": 1, "members": []}
        answer = await stage.api(method, *parts, key=tokens.READ_KEY, json=body if method != "DELETE" else None)
        assert answer.problem() == (403, "forbidden")
    assert await stage.log() == []


def test_the_path_helper_encodes_everything() -> None:
    assert path("channels", "a/b", "members", "é?") == "/v1/channels/a%2Fb/members/%C3%A9%3F"
