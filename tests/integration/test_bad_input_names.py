"""Names of channels, users and messages: what breaks the rules is `bad_name` everywhere, what is legal is taken
literally everywhere (contract §3)."""

from __future__ import annotations

import json
import unicodedata
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import tokens
from tests.support.clients import TRANSPORTS
from tests.support.hostile import MARK, STREAM, Arena, fault_list, refusals
from tests.support.http import sse_events
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

BAD_NAMES: dict[str, str] = {
    "empty": "",
    "201 bytes": "x" * 201,
    "101 letters of two bytes": "é" * 101,
    "51 letters of four bytes": "\U0001f600" * 51,
    "normal form D": unicodedata.normalize("NFD", MARK + "é"),
    "a compatibility letter with a canonical other": "\u212b",
    "Hangul in parts": unicodedata.normalize("NFD", "한"),
    "a leading space": " " + MARK,
    "a trailing space": MARK + " ",
    "a trailing line break": MARK + "\n",
    "a leading no-break space": "\u00a0x",
    "a trailing ideographic space": "x\u3000",
    "only a space": " ",
    "NUL": "a\x00b",
    "a tab inside": "a\tb",
    "a line break inside": "a\r\nb",
    "escape": "\x1b[31m" + MARK,
    "delete": "a\x7fb",
    "a unit separator": "a\x1fb",
    "a C1 control": "a\x85b",
    "a zero-width space": "a\u200bb",
    "a zero-width joiner": "a\u200db",
    "a right-to-left override": "a\u202eb",
    "a soft hyphen": "a\u00adb",
    "a byte order mark": "\ufeffx",
    "a tag character": "a\U000e0041",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "private use": "a\ue000",
    "private use of plane 16": "a\U0010fffd",
}
BAD_BYTES = {
    "a byte that is no UTF-8": "%FF",
    "cut UTF-8": "%F0%9F%98",
    "overlong UTF-8": "a%C0%AFb",
    "a surrogate": "%ED%A0%80",
    "NUL": "a%00b",
    "a response splitter": "a%0d%0aSet-Cookie:%20x=1",
    "white space at an end": "a%20",
}
NO_TEXTS: list[Any] = [None, 7, True, ["x"], {"x": 1}, 1.5]
GOOD_NAMES = [
    "*",
    "**",
    "{x}",
    "{}",
    "/",
    "a/b/../c",
    "..",
    ".",
    "|",
    "a|b:c,d",
    "__proto__",
    "constructor",
    "null",
    "0",
    "query",
    "%41",
    "%2F",
    "%00",
    "%25",
    "+",
    "a+b",
    "a&b=c;d",
    "a b",
    "?",
    "#x",
    '"',
    "'\\",
    "<script>",
    "$(x)",
    "ü한א漢",
    "\U0001f600",
    "ﬁ",
    "a\u00a0b",
    "x" * 200,
    "é" * 100,
    "\U0001f600" * 50,
    "\uffff",
]


@pytest.fixture
def arena(two_nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(two_nodes, redis_server)


def _commands(arena: Arena, name: Any) -> dict[str, dict[str, Any]]:
    """Every place of a command where a name stands."""
    return {
        "join": {"type": "join", "channel": name},
        "observe": {"type": "join", "channel": name, "as": "observer"},
        "leave": {"type": "leave", "channel": name},
        "set": {"type": "set", "channel": name, "state": {"n": 2}},
        "publish in": {"type": "publish", "channel": name, "name": "x", "data": 1},
        "publish name": {"type": "publish", "channel": arena.channel, "name": name, "data": 1},
        "history": {"type": "history", "channel": name},
        "who": {"type": "who", "channel": name},
        "ack": {"type": "ack", "channel": name, "cursor": "e:1"},
    }


@run_async
async def test_a_bad_name_is_refused_in_every_command_on_every_transport(arena: Arena, transport: str) -> None:
    await arena.settle()
    faults = []
    for number, (why, name) in enumerate(BAD_NAMES.items()):
        if number % 10 == 0:  # below the limit of commands a second
            alice = await arena.member(transport, arena.a, "alice", channel=arena.name("home"))
        codes = await refusals(alice, _commands(arena, name))
        faults += [f"{why}: {fault}" for fault in fault_list("bad_name", codes)]

    assert not faults
    assert (await alice.beat())["type"] == "ok"
    await arena.untouched()


@run_async
async def test_a_name_that_is_no_text_or_missing_is_a_bad_name_in_every_command(arena: Arena, transport: str) -> None:
    await arena.settle()
    alice = await arena.member(transport, arena.a, "alice", channel=arena.name("home"))

    for name in NO_TEXTS:
        assert not fault_list("bad_name", await refusals(alice, _commands(arena, name))), name
    without = {
        way: {key: value for key, value in command.items() if key != ("name" if way == "publish name" else "channel")}
        for way, command in _commands(arena, "x").items()
    }
    assert not fault_list("bad_name", await refusals(alice, without))
    await arena.untouched()


@run_async
async def test_channels_of_the_server_are_forbidden_in_every_command_whatever_the_grants(
    arena: Arena, transport: str
) -> None:
    grants = {"*": list(tokens.EVERYTHING["*"]), "@*": list(tokens.EVERYTHING["*"]), "@x": ["join", "see", "publish"]}
    alice = await arena.member(transport, arena.a, "alice", grants=grants)

    for name in ("@x", "@", "@presence"):
        commands = _commands(arena, name)
        del commands["publish name"]
        assert not fault_list("forbidden", await refusals(alice, commands)), name
    assert (await alice.beat())["type"] == "ok"


@run_async
async def test_a_bad_name_is_refused_at_every_back_end_endpoint(arena: Arena) -> None:
    await arena.settle()
    faults = []
    for why, name in BAD_NAMES.items():
        calls = _back_end_calls(arena, name)
        answers: dict[str, Any] = {
            way: (await arena.api(method, *parts, json=body)).problem() for way, (method, parts, body) in calls.items()
        }
        beats = [
            {"channel": name, "user": "x"},
            {"channel": arena.channel, "user": name},
            {"channel": "x", "user": "x"},
        ]
        results = (await arena.ask("POST", "heartbeats", json={"members": beats}))["results"]
        after = await arena.api("GET", "channels", arena.channel, "members", query={"after": name})
        faults += [f"{why}: {fault}" for fault in fault_list((400, "bad_name"), answers)]
        faults += fault_list(["bad_name", "bad_name", "not_joined"], {f"{why}: heartbeats": results})
        faults += fault_list((400, "bad_request"), {f"{why}: after": after.problem()})

    assert not faults
    await arena.untouched()


@run_async
async def test_a_name_that_is_no_text_is_a_bad_name_in_every_body_of_the_back_end(arena: Arena) -> None:
    await arena.settle()
    for name in NO_TEXTS:
        beats = [{"channel": name, "user": "x"}, {"channel": arena.channel, "user": name}, {}]
        assert (await arena.ask("POST", "heartbeats", json={"members": beats}))["results"] == ["bad_name"] * 3
        for method, parts, body in (
            ("POST", ("channels", arena.channel, "messages"), {"name": name, "data": 1}),
            ("POST", ("users", "query"), {"users": ["alice", name]}),
            ("POST", ("users", arena.resident, "disconnect"), {"channel": name}),
            ("POST", ("users", arena.resident, "messages"), {"name": name, "data": 1}),
            ("POST", ("users", arena.resident, "inbox", "ack"), {"channel": name, "cursor": "e:1"}),
        ):
            assert (await arena.api(method, *parts, json=body)).problem() == (400, "bad_name"), (parts, name)
    await arena.untouched()


@pytest.mark.parametrize("why", BAD_BYTES)
@run_async
async def test_bytes_in_a_path_or_query_that_are_no_name_are_refused(arena: Arena, why: str) -> None:
    raw, headers = BAD_BYTES[why], tokens.bearer(tokens.API_KEY)
    await arena.settle()
    targets = {
        "channel": ("GET", f"/v1/channels/{raw}"),
        "members": ("GET", f"/v1/channels/{raw}/members"),
        "events": ("GET", f"/v1/channels/{raw}/events"),
        "user": ("GET", f"/v1/users/{raw}"),
        "PUT in channel": ("PUT", f"/v1/channels/{raw}/members/newcomer"),
        "PUT user": ("PUT", f"/v1/channels/{arena.channel}/members/{raw}"),
        "DELETE user": ("DELETE", f"/v1/channels/{arena.channel}/members/{raw}"),
        "disconnect": ("POST", f"/v1/users/{raw}/disconnect"),
        "PUT subscriber": ("PUT", f"/v1/channels/{arena.channel}/subscribers/{raw}"),
        "subscribers of": ("DELETE", f"/v1/channels/{raw}/subscribers/newcomer"),
        "user messages": ("POST", f"/v1/users/{raw}/messages"),
        "inbox": ("GET", f"/v1/users/{raw}/inbox"),
    }

    answers = {}
    for way, (method, target) in targets.items():
        answer = await arena.raw(target, method=method, headers=headers)
        assert "set-cookie" not in answer.headers
        answers[way] = answer.problem()
    client = tokens.bearer(tokens.make_token("alice"))
    for way, accept in {"poll": {}, "stream": STREAM}.items():
        answer = await arena.raw(f"/v1/events?channel={raw}", headers={**client, **accept})
        answers[way] = answer.problem()

    assert not fault_list((400, "bad_name"), answers)
    await arena.untouched()


@pytest.mark.parametrize("raw", ["%", "%4", "%zz", "a%2", "%u0041"])
@run_async
async def test_a_path_that_is_not_percent_encoded_is_a_bad_name(arena: Arena, raw: str) -> None:
    headers = tokens.bearer(tokens.API_KEY)
    for target in (f"/v1/channels/{raw}", f"/v1/users/{raw}", f"/v1/channels/x/members/{raw}"):
        method = "DELETE" if "members" in target else "GET"
        assert (await arena.raw(target, method=method, headers=headers)).problem() == (400, "bad_name")


@pytest.mark.parametrize("accept", [{}, STREAM], ids=["poll", "stream"])
@run_async
async def test_a_bad_name_among_the_channels_of_a_poll_or_stream_does_not_stop_the_others(
    arena: Arena, accept: dict[str, str]
) -> None:
    headers = {**tokens.bearer(tokens.make_token("alice")), **accept}
    faults = []
    for why, name in BAD_NAMES.items():
        alone = await arena.raw(f"/v1/events?channel={quote(name)}", headers=headers)
        faults += fault_list((400, "bad_name"), {f"{why} alone": alone.problem()})

        target = f"/v1/events?channel={quote(name)}&channel={arena.channel}&channel=%40x&session=session-of-alice"
        frames = await _first_frames(arena, target, headers, 3)
        codes = {frame["channel"]: frame.get("code", "joined") for frame in frames}
        faults += fault_list({name: "bad_name", "@x": "forbidden", arena.channel: "joined"}, {why: codes})

    assert not faults
    assert list(await arena.roster()) == ["alice"]


async def _first_frames(arena: Arena, target: str, headers: dict[str, str], count: int) -> list[Any]:
    """The frames of a poll, or those of a stream after its `welcome`."""
    if "Accept" not in headers:
        return list((await arena.raw(target, headers=headers)).json()["frames"])
    exchange = await arena.head_of(arena.a, target, headers)
    stream = sse_events(exchange)
    frames = [json.loads((await anext(stream)).data) for _ in range(count + 1)]
    exchange.close()
    return frames[1:]


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
@run_async
async def test_a_legal_name_is_taken_literally_by_every_transport_and_the_back_end(arena: Arena, name: str) -> None:
    """The name is channel, user and message at once."""
    watcher = await arena.member("websocket", arena.b, "watcher", channel=name, as_="observer")
    clients = [await arena.member(kind, arena.a, name, channel=name) for kind in sorted(TRANSPORTS)]

    assert (await watcher.event(name, "join"))["user"] == name
    for client in clients:
        await client.publish(name, name, name)
        message = await watcher.event(name, "message")
        assert (message["name"], message["data"], message["user"]) == (name, name, name)
        assert (await clients[-1].event(name, "message"))["name"] == name
        assert [member["user"] for member in (await client.who(name))["members"]] == [name]
    roster = await arena.ask("GET", "channels", name, "members")
    assert (roster["channel"], [member["user"] for member in roster["members"]]) == (name, [name])
    summary = await arena.ask("GET", "channels", name)
    assert (summary["channel"], summary["count"], summary["sessions"]) == (name, 1, 3)
    user = await arena.ask("GET", "users", name)
    asked = (await arena.ask("POST", "users", "query", json={"users": [name]}))["users"]
    assert [(each["user"], each["online"], each["channels"]) for each in (user, *asked)] == [(name, True, [name])] * 2
    beats = {"members": [{"channel": name, "user": name, "session": client.session} for client in clients]}
    assert await arena.ask("POST", "heartbeats", json=beats) == {"results": ["refreshed"] * 3}
    listed = await arena.ask("GET", "channels", query={"prefix": name, "limit": 1000})
    assert {"channel": name, "count": 1} in listed["channels"]
    for client in clients:
        await client.leave(name)
    assert (await watcher.event(name, "leave"))["user"] == name


@run_async
async def test_names_that_differ_only_in_looks_are_different_names(arena: Arena) -> None:
    pairs = [("a/b", "a%2Fb"), ("A", "a"), ("x*", "xy"), ("a b", "a+b"), ("ﬁ", "fi"), ("{a}", "a"), ("0", "00")]
    tail = arena.name("-")
    for one, other in pairs:
        await arena.ask("PUT", "channels", one + tail, "members", "alice", json={})
        assert (await arena.ask("GET", "channels", one + tail))["count"] == 1
        assert (await arena.ask("GET", "channels", other + tail))["count"] == 0


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("%2541", "%41"),
        ("%252F", "%2F"),
        ("%2500", "%00"),
        ("%2a", "*"),
        ("a%2fb", "a/b"),
        ("a+b", "a+b"),
        ("%c3%a9", "é"),
        ("é", "é"),
        ("..%2f..", "../.."),
        ("@x", None),
        ("%40x", None),
    ],
)
@run_async
async def test_a_path_is_decoded_once_and_only_once(arena: Arena, raw: str, name: str | None) -> None:
    headers = tokens.bearer(tokens.API_KEY)

    answer = await arena.raw(f"/v1/channels/{raw}", headers=headers)
    user = await arena.raw(f"/v1/users/{raw}", headers=headers)

    if name is None:
        assert answer.problem() == (403, "forbidden")
        assert user.json()["user"] == "@x"
    else:
        assert (answer.json()["channel"], user.json()["user"]) == (name, name)


@run_async
async def test_a_query_is_decoded_once_and_a_plus_in_it_is_a_space(arena: Arena) -> None:
    headers = tokens.bearer(tokens.make_token("alice"))
    for raw, name in (("a%2541", "a%41"), ("a+b", "a b"), ("a%2Bb", "a+b"), ("%zz", "%zz"), ("a%26b", "a&b")):
        answer = await arena.raw(f"/v1/events?channel={raw}&as=observer", headers=headers)
        assert [frame["channel"] for frame in answer.json()["frames"]] == [name]


def _back_end_calls(arena: Arena, name: str) -> dict[str, tuple[str, tuple[str, ...], Any]]:
    room = ("channels", arena.channel)
    return {
        "channel": ("GET", ("channels", name), None),
        "members": ("GET", ("channels", name, "members"), None),
        "events": ("GET", ("channels", name, "events"), None),
        "user": ("GET", ("users", name), None),
        "PUT in channel": ("PUT", ("channels", name, "members", "newcomer"), {}),
        "PUT user": ("PUT", (*room, "members", name), {}),
        "DELETE user": ("DELETE", (*room, "members", name), None),
        "DELETE in channel": ("DELETE", ("channels", name, "members", "newcomer"), None),
        "messages in": ("POST", ("channels", name, "messages"), {"name": "x", "data": 1}),
        "message name": ("POST", (*room, "messages"), {"name": name, "data": 1}),
        "users query": ("POST", ("users", "query"), {"users": ["alice", name]}),
        "disconnect": ("POST", ("users", name, "disconnect"), {}),
        "disconnect from": ("POST", ("users", arena.resident, "disconnect"), {"channel": name}),
        "PUT subscriber": ("PUT", (*room, "subscribers", name), {}),
        "subscribers of": ("DELETE", ("channels", name, "subscribers", "newcomer"), None),
        "user messages": ("POST", ("users", name, "messages"), {"name": "x", "data": 1}),
        "inbox": ("GET", ("users", name, "inbox"), None),
        "inbox ack": ("POST", ("users", "newcomer", "inbox", "ack"), {"channel": name, "cursor": "e:1"}),
    }
