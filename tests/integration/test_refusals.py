"""What back-end endpoints refuse (contract §3, §4, §7): names, bodies, limits, keys; and that nothing changed."""

from __future__ import annotations

import pytest

from tests.support import tokens
from tests.support.stage import Stage, path
from tests.support.waiting import run_async

AWKWARD = ["*", "{x}", "a/b", "|", "__proto__", "Zoë ☂", "a%2Fb", "..", "?q#f", "x" * 200, "a:b", '"', "\\"]
BAD_NAMES = ["x" * 201, " x", "x ", "e\u0301", "a\u0000b", "a\u200bb", "a\u2028b", "\ue000", "é" * 101]


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
        ("POST", ("users", "alice", "messages")),
        ("PUT", (*room, "subscribers", "alice")),
        ("DELETE", (*room, "subscribers", "alice")),
        ("POST", ("users", "alice", "inbox", "ack")),
    ]
    for method, parts in writes:
        body = {"name": "x", "data": 1, "members": []}
        answer = await stage.api(method, *parts, key=tokens.READ_KEY, json=body if method != "DELETE" else None)
        assert answer.problem() == (403, "forbidden")
    assert await stage.log() == []


def test_the_path_helper_encodes_everything() -> None:
    assert path("channels", "a/b", "members", "é?") == "/v1/channels/a%2Fb/members/%C3%A9%3F"
