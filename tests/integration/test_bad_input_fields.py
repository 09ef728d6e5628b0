"""Fields of commands, bodies and queries: types, bounds and sizes (contract §3, §5, §7), on every way in."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.support import tokens
from tests.support.clients import CommandError, open_socket
from tests.support.hostile import JSON, MARK, STREAM, Arena, compact, fault_list, refusals, sized
from tests.support.http import Refused
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

NO_OBJECTS: list[Any] = [[], "x", 7, True, None]
BAD_TTLS: list[Any] = [999, 0, -1, 86_400_001, 10**30, 1000.0, 1500.5, "2000", True, False, [], {}]
BAD_IDS: list[Any] = [1.5, 1.0, "1", True, [], {}, 2**53 + 1, -(2**53) - 1, 10**100]
BAD_LIMITS: list[Any] = [0, -1, 1001, 10**20, 1.0, "5", True, None, [], {}]
BAD_CURSORS: list[Any] = [
    "",
    ":",
    "x",
    "e:",
    ":5",
    "e:-1",
    "e:1.5",
    "e:0x1",
    "e:" + "9" * 40,
    "e:١",
    f"{MARK} :1",
    7,
    [],
    {},
]
BAD_SESSIONS = [
    "",
    "short",
    "x" * 65,
    "with space",
    "a/b/c/d/e",
    "üüüüüüüü",
    "seven-7\n",
    "abcdefg\x00",
    "semi;colon",
    MARK + ".",
]
NO_CURSOR_TEXTS = [text for text in BAD_CURSORS if isinstance(text, str)]


@pytest.fixture
def arena(two_nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(two_nodes, redis_server)


def _bad_commands(room: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Words for a command that is refused, and with which code."""
    join = {"type": "join", "channel": room}
    bad: dict[str, tuple[str, dict[str, Any]]] = {
        "no type": ("bad_request", {"channel": room}),
        "an unknown type": ("bad_request", {**join, "type": MARK}),
        "a type in capitals": ("bad_request", {**join, "type": "JOIN"}),
        "a reply's type": ("bad_request", {**join, "type": "welcome"}),
        "a method's name": ("bad_request", {**join, "type": "__class__"}),
        "set without state": ("bad_request", {"type": "set", "channel": room}),
        "leave without being there": ("not_joined", {"type": "leave", "channel": room}),
        "set without being there": ("not_joined", {"type": "set", "channel": room, "state": {"n": 2}}),
        "publish without data": ("bad_request", {"type": "publish", "channel": room, "name": "x"}),
        "refresh without token": ("bad_request", {"type": "refresh"}),
        "refresh by no text": ("bad_request", {"type": "refresh", "token": ["x"]}),
        "refresh by garbage": ("unauthorized", {"type": "refresh", "token": MARK}),
        "refresh by an api key": ("unauthorized", {"type": "refresh", "token": tokens.API_KEY}),
        "refresh by another user's token": ("forbidden", {"type": "refresh", "token": tokens.make_token("mallory")}),
        "state of 1,025 bytes": ("too_large", {**join, "state": sized(1025)}),
        "state of 1,025 bytes in two-byte letters": ("too_large", {**join, "state": sized(1025, "é")}),
        "set of 1,025 bytes": ("too_large", {"type": "set", "channel": room, "state": sized(1025)}),
    }
    for kind in (None, 7, True, ["join"], {"join": 1}):
        bad[f"type {kind!r}"] = ("bad_request", {**join, "type": kind})
    for role in ("king", "", "Member", None, 7, ["member"], {}):
        bad[f"as {role!r}"] = ("bad_request", {**join, "as": role})
    for state in NO_OBJECTS:
        bad[f"join with state {state!r}"] = ("bad_request", {**join, "state": state})
        bad[f"set to {state!r}"] = ("bad_request", {"type": "set", "channel": room, "state": state})
    for ttl in BAD_TTLS:
        bad[f"ttl_ms {ttl!r}"] = ("bad_request", {**join, "ttl_ms": ttl})
    for limit in BAD_LIMITS:
        bad[f"who limit {limit!r}"] = ("bad_request", {"type": "who", "channel": room, "limit": limit})
        bad[f"fetch limit {limit!r}"] = ("bad_request", {"type": "fetch", "limit": limit})
        bad[f"history limit {limit!r}"] = ("bad_request", {"type": "history", "channel": room, "limit": limit})
    for cursor in BAD_CURSORS:
        bad[f"ack cursor {cursor!r}"] = ("bad_request", {"type": "ack", "channel": "@inbox", "cursor": cursor})
        bad[f"join cursor {cursor!r}"] = ("bad_request", {**join, "cursor": cursor})
        bad[f"history cursor {cursor!r}"] = ("bad_request", {"type": "history", "channel": room, "cursor": cursor})
    for after in ("", " x", "e\u0301", "a\x00", "x" * 201, 7, True, [], {}):
        bad[f"after {after!r}"] = ("bad_request", {"type": "who", "channel": room, "after": after})
    return bad


@run_async
async def test_a_bad_field_is_refused_with_its_code_and_changes_nothing(arena: Arena, transport: str) -> None:
    await arena.settle()
    bad = list(_bad_commands(arena.channel).items())
    faults: list[str] = []
    for at in range(0, len(bad), 50):
        alice = await arena.member(transport, arena.a, "alice", channel=arena.name("home"))
        codes = await refusals(alice, {way: command for way, (_, command) in bad[at : at + 50]})
        faults += [f"{way}: {codes[way]}, not {code}" for way, (code, _) in bad[at : at + 50] if codes[way] != code]
        assert (await alice.beat())["type"] == "ok"
        assert alice.closed is None

    assert not faults
    await arena.untouched()


@run_async
async def test_an_id_that_is_no_whole_number_is_refused_and_nothing_is_done(arena: Arena, transport: str) -> None:
    await arena.settle()
    alice = await arena.member(transport, arena.a, "alice", channel=arena.name("home"))
    for value in BAD_IDS:
        command = {"type": "join", "channel": arena.channel, "id": value}
        if transport == "websocket":
            assert await arena.socket_text(alice, json.dumps(command)) == "bad_request", value
        else:
            (reply,) = (await alice.post(json.dumps([command]).encode())).json()
            assert (reply["code"], "id" in reply) == ("bad_request", False), value
    await arena.untouched()


@run_async
async def test_the_error_of_a_command_carries_its_id_and_its_channel(arena: Arena, transport: str) -> None:
    alice = await arena.member(transport, arena.a, "alice", grants={arena.channel: ["join", "see"]})
    for value in (0, -1, 2**53, -(2**53)):
        reply = await alice.send({"type": "join", "channel": "elsewhere", "id": value})
        assert (reply["id"], reply["channel"], reply["code"]) == (value, "elsewhere", "forbidden")


@run_async
async def test_bounds_themselves_are_allowed(arena: Arena, transport: str) -> None:
    alice = await arena.member(transport, arena.a, "alice", state=sized(1024))
    assert (await arena.roster())["alice"]["state"] == sized(1024)
    await alice.set(arena.channel, sized(1024, "é"))
    spaced = '{"k":' + " " * 8000 + compact(sized(1024))[len('{"k":') :]
    if transport == "websocket":
        await alice.send_text(f'{{"type":"set","channel":"{arena.channel}","state":{spaced}}}')
    else:
        await alice.post(f'{{"type":"set","channel":"{arena.channel}","state":{spaced}}}'.encode())
    assert (await alice.who(arena.channel, limit=1000))["members"][0]["state"] == sized(1024)
    for limit in (1, 1000):
        assert (await alice.history(arena.channel, limit=limit))["type"] == "history"
    for ttl_ms in (86_400_000, 1000):
        await alice.join(arena.channel, ttl_ms=ttl_ms)


# ---- bodies of the back end ----


@run_async
async def test_a_bad_body_is_refused_with_its_code_and_changes_nothing(arena: Arena) -> None:
    await arena.settle()
    newcomer = ("PUT", ("channels", arena.channel, "members", "newcomer"))
    resident = ("PUT", ("channels", arena.channel, "members", arena.resident))
    message = ("POST", ("channels", arena.channel, "messages"))
    many = [{"channel": arena.channel, "user": arena.resident}] * 1001
    cases: list[tuple[tuple[str, tuple[str, ...]], Any, tuple[int, str]]] = [
        *(
            (where, {"ttl_ms": ttl}, (400, "bad_request"))
            for ttl in [*BAD_TTLS, None]
            for where in (newcomer, resident)
        ),
        *((newcomer, {"state": state}, (400, "bad_request")) for state in NO_OBJECTS),
        *((resident, {"info": info}, (400, "bad_request")) for info in NO_OBJECTS),
        (newcomer, {"state": sized(1025)}, (413, "too_large")),
        (resident, {"info": sized(1025, "é"), "state": {"n": 2}}, (413, "too_large")),
        *((newcomer, {"session": text}, (400, "bad_request")) for text in [*BAD_SESSIONS, None, 7, []]),
        (message, {}, (400, "bad_name")),
        (message, {"name": "x"}, (400, "bad_request")),
        (message, {"data": 1}, (400, "bad_name")),
        (("POST", ("heartbeats",)), {}, (400, "bad_request")),
        *((("POST", ("heartbeats",)), {"members": no_list}, (400, "bad_request")) for no_list in ({}, None, "x", 7)),
        (("POST", ("heartbeats",)), {"members": many}, (400, "bad_request")),
        (("POST", ("users", "query")), {}, (400, "bad_request")),
        *((("POST", ("users", "query")), {"users": no_list}, (400, "bad_request")) for no_list in ({}, None, "x", 7)),
        (("POST", ("users", "query")), {"users": ["u"] * 1001}, (400, "bad_request")),
        (("POST", ("users", arena.resident, "disconnect")), {"channel": "@x"}, (403, "forbidden")),
        (("POST", ("users", "newcomer", "messages")), {}, (400, "bad_name")),
        (("POST", ("users", "newcomer", "messages")), {"name": "x"}, (400, "bad_request")),
        *(
            (("POST", ("users", "newcomer", "inbox", "ack")), {"channel": "@inbox", **wrong}, (400, "bad_request"))
            for wrong in [{}, *({"cursor": cursor} for cursor in BAD_CURSORS)]
        ),
    ]
    answers = {}
    for (method, parts), body, expected in cases:
        answers[f"{parts} {str(body)[:60]} {expected}"] = (
            await arena.api(method, *parts, json=body)
        ).problem() == expected

    assert not fault_list(True, answers)
    await arena.untouched()


@run_async
async def test_a_heartbeat_that_is_none_is_named_and_the_others_are_done(arena: Arena) -> None:
    await arena.settle()
    good = {"channel": arena.channel, "user": arena.resident}
    entries: list[tuple[Any, str]] = [
        (good, "refreshed"),
        ({**good, "session": "short"}, "bad_request"),
        ({**good, "session": 7}, "bad_request"),
        ({**good, "session": None}, "bad_request"),
        ({**good, "channel": "@x"}, "forbidden"),
        ({**good, "session": "another-one"}, "not_joined"),
        (7, "bad_request"),
        (None, "bad_request"),
        ([], "bad_request"),
        (good, "refreshed"),
    ]

    answer = await arena.ask("POST", "heartbeats", json={"members": [entry for entry, _ in entries]})

    assert answer["results"] == [result for _, result in entries]
    await arena.untouched()


@run_async
async def test_a_thousand_entries_are_allowed_and_one_more_is_not(arena: Arena) -> None:
    users = [f"u-{number}" for number in range(1001)]
    beats = [{"channel": "nowhere", "user": user} for user in users]

    assert (await arena.ask("POST", "heartbeats", json={"members": beats[:1000]}))["results"] == ["not_joined"] * 1000
    found = (await arena.ask("POST", "users", "query", json={"users": users[:1000]}))["users"]
    assert [entry["user"] for entry in found] == users[:1000]
    assert (await arena.api("POST", "heartbeats", json={"members": beats})).problem() == (400, "bad_request")
    assert (await arena.api("POST", "users", "query", json={"users": users})).problem() == (400, "bad_request")


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "tab\there", "del\x7f", "nul\x00", "\x01"], ids=ascii)
@run_async
async def test_a_malformed_idempotency_key_is_refused_and_announces_nothing(arena: Arena, key: str) -> None:
    await arena.settle()
    where, body = ("channels", arena.channel, "messages"), {"name": "x", "data": 1}

    answer = await arena.api("POST", *where, json=body, headers={"Idempotency-Key": key})

    assert answer.status == 400
    if not set(key) & set("\x00\x01\x7f"):  # those are no header at all: refused before any endpoint sees it
        assert answer.problem() == (400, "bad_request")
    await arena.untouched()


# ---- queries ----


@run_async
async def test_a_malformed_query_of_the_back_end_is_a_bad_request(arena: Arena) -> None:
    await arena.settle()
    headers = tokens.bearer(tokens.API_KEY)
    room = f"/v1/channels/{arena.channel}"
    numbers = [
        "",
        "0",
        "-1",
        "1001",
        "99999999999999999999",
        "1.0",
        "1e2",
        "+5",
        "%2B5",
        "%205",
        "5%20",
        "0x10",
        "٥",
        "NaN",
        "%00",
        "%FF",
    ]
    names = ["", "%20x", "e%CC%81", "a%00", "x" * 201, "%FF", "%ED%A0%80", "%E2%80%8B"]
    queries = [
        *(
            (path, f"limit={number}")
            for number in numbers
            for path in ("/v1/channels", f"{room}/members", f"{room}/events")
        ),
        *((path, f"after={name}") for name in names for path in ("/v1/channels", f"{room}/members")),
        *((f"{room}/events", f"cursor={quote(cursor)}") for cursor in NO_CURSOR_TEXTS),
        ("/v1/channels", "prefix=" + "x" * 201),
        ("/v1/channels", "prefix=%00"),
        ("/v1/channels", "prefix=%FF"),
        ("/v1/channels", "limit=1&limit=2"),
        (f"{room}/members", "after=a&after=b"),
    ]
    answers = {}
    for path, query in queries:
        answers[f"{path}?{query}"] = (await arena.raw(f"{path}?{query}", headers=headers)).problem()
    for session in BAD_SESSIONS:
        target = f"{room}/members/{arena.resident}?session={quote(session)}"
        answers[target] = (await arena.raw(target, method="DELETE", headers=headers)).problem()

    assert not fault_list((400, "bad_request"), answers)
    await arena.untouched()


@pytest.mark.parametrize("accept", [{}, STREAM], ids=["poll", "stream"])
@run_async
async def test_a_malformed_query_for_events_is_a_bad_request_and_joins_nothing(
    arena: Arena, accept: dict[str, str]
) -> None:
    await arena.settle()
    first = (await arena.poll(arena.a, "alice", arena.name("home"), session="session-of-alice")).json()["next"]
    swapped = first[:-1] + ("0" if first[-1] != "0" else "1")
    room = {"channel": arena.channel}
    queries: list[Any] = [
        {},
        *({**room, "session": text} for text in BAD_SESSIONS),
        *(
            {**room, "wait": text}
            for text in ("", "soon", "-1", "1e3", "NaN", "inf", "1,5", "٥", "0x1", "9" * 40, " 1")
        ),
        *({**room, "as": text} for text in ("king", "Member", "member,observer", "\x00")),
        *(
            {**room, "since": text}
            for text in (MARK, "1.1..", "1.1..00000000", "0", first + "x", swapped, first * 250, "é", "\x00")
        ),
        [("channel", f"{arena.channel}-{number}") for number in range(21)],
        [("channel", arena.channel), ("session", "session-1"), ("session", "session-2")],
        [("channel", arena.channel), ("wait", "1"), ("wait", "2")],
        [("channel", arena.channel), ("as", "member"), ("as", "observer")],
    ]
    answers = {}
    for query in queries:
        headers = {**tokens.bearer(tokens.make_token("alice")), **accept}
        answers[str(query)[:150]] = (await arena.raw(f"/v1/events?{urlencode(query)}", headers=headers)).problem()
    if accept:
        for text in (MARK, swapped, first * 250):
            headers["Last-Event-ID"] = text
            answer = await arena.raw(f"/v1/events?channel={arena.channel}", headers=headers)
            answers[f"Last-Event-ID {text[:20]}"] = answer.problem()

    assert not fault_list((400, "bad_request"), answers)
    await arena.untouched()


@run_async
async def test_a_session_text_that_is_none_is_refused_at_every_door_of_a_client(arena: Arena) -> None:
    token = tokens.bearer(tokens.make_token("alice"))
    answers: dict[str, Any] = {}
    for session in BAD_SESSIONS:
        with pytest.raises(Refused) as refusal:
            await open_socket(arena.a.ws_url, {"session": session}, token)
        answers[f"socket {session}"] = refusal.value.response.problem()
        target = f"/v1/commands?session={quote(session)}"
        answer = await arena.raw(target, method="POST", headers={**token, **JSON}, body=b'{"type":"beat"}')
        answers[f"commands {session}"] = answer.problem()
    answer = await arena.raw("/v1/commands", method="POST", headers={**token, **JSON}, body=b'{"type":"beat"}')
    answers["commands without"] = answer.problem()

    assert not fault_list((400, "bad_request"), answers)


@run_async
async def test_the_same_session_text_under_another_user_is_another_session(arena: Arena, transport: str) -> None:
    alice = await arena.member(transport, arena.a, "alice", session="session-they-share")
    mallory = await arena.member(transport, arena.b, "mallory", session="session-they-share")

    await mallory.set(arena.channel, {"who": "mallory"})
    await mallory.leave(arena.channel)

    assert (await alice.beat())["type"] == "ok"
    assert alice.closed is None
    assert {user: member["state"] for user, member in (await arena.roster()).items()} == {"alice": {}}


@run_async
async def test_what_a_token_may_not_is_refused_before_anything_is_done(arena: Arena, transport: str) -> None:
    await arena.settle()
    grants = {"home": ["join", "see"], "[a-z]*": ["join"], "?*": ["see"], arena.channel[:-1] + "?": ["join", "see"]}
    alice = await arena.connect(transport, arena.a, "alice", grants=grants)

    with pytest.raises(CommandError) as refusal:
        await alice.join(arena.channel)
    assert refusal.value.code == "forbidden"
    with pytest.raises(CommandError) as watching:
        await alice.join(arena.channel, "observer")
    assert watching.value.code == "forbidden"
    await arena.untouched()
