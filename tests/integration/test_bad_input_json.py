"""Text that is no strict JSON, or JSON of the wrong shape or size: refused alike on every way in (contract §3)."""

from __future__ import annotations

import json

import pytest

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.hostile import JSON, MARK, OK, Arena, fault_list, nested, problem_of
from tests.support.http import Exchange, request
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

BAD_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space only": b" \r\n\t ",
    "an open brace": b"{",
    "a cut text": b'{"type":"beat","x":"' + MARK.encode(),
    "trailing garbage": b'{"type":"beat"} ' + MARK.encode(),
    "two values": b'{"type":"beat"}{"type":"beat"}',
    "a trailing comma": b'{"type":"beat",}',
    "a comment": b'{"type":"beat"} // ' + MARK.encode(),
    "single quotes": b"{'type':'beat'}",
    "a bare word": MARK.encode(),
    "NaN": b'{"type":"beat","x":NaN}',
    "Infinity": b'{"type":"beat","x":Infinity}',
    "-Infinity": b'{"type":"beat","x":[-Infinity]}',
    "1e999": b'{"type":"beat","x":1e999}',
    "-1e999 deep inside": b'{"type":"beat","x":{"y":[-1e999]}}',
    "an integer of 5,000 digits": b'{"type":"beat","x":' + b"9" * 5000 + b"}",
    "an integer beyond every double": b'{"type":"beat","x":1' + b"0" * 309 + b"}",
    "a duplicate key": b'{"type":"beat","type":"bye"}',
    "a duplicate key by escape": b'{"type":"beat","ty\\u0070e":"bye"}',
    "a duplicate key inside": b'{"type":"beat","x":[{"a":1,"a":2}]}',
    "a lone high surrogate": b'{"type":"beat","x":"\\ud800"}',
    "a lone low surrogate": b'{"type":"beat","x":"\\udc00y"}',
    "a lone surrogate in a key": b'{"type":"beat","\\udfff":1}',
    "surrogates the wrong way round": b'{"type":"beat","x":"\\udc00\\ud800"}',
    "33 levels": b'{"type":"beat","x":' + nested(32).encode() + b"}",
    "33 levels of arrays": b'{"type":"beat","x":' + b"[" * 32 + b"]" * 32 + b"}",
    "5,000 levels": b'{"type":"beat","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "5,000 open brackets": b"[" * 5000,
    "a raw control character": b'{"type":"beat","x":"a\nb"}',
    "a raw NUL": b'{"type":"beat","x":"a\x00b"}',
    "a bad escape": b'{"type":"beat","x":"\\x41"}',
    "a leading zero": b'{"type":"beat","x":01}',
    "a hexadecimal number": b'{"type":"beat","x":0x1}',
    "digits of another script": '{"type":"beat","x":١}'.encode(),
    "no UTF-8": b'{"type":"beat","x":"\xff"}',
    "a surrogate in UTF-8": b'{"type":"beat","x":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"type":"beat","x":"\xc0\x80"}',
    "cut UTF-8": b'{"type":"beat","x":"\xf0\x9f\x98"}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"beat"}',
    "UTF-16": '{"type":"beat"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"type":"beat"}'.encode("utf-16-le"),
    "UTF-32": '{"type":"beat"}'.encode("utf-32-be"),
}
OTHER_SHAPES = [b"7", b"null", b"true", b'"text"', b"-0.5e3"]
NO_BODY_IS_ONE = {"PUT member", "PUT subscriber", "disconnect"}  # where a body is optional


@pytest.fixture
def arena(two_nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(two_nodes, redis_server)


@pytest.mark.parametrize("why", BAD_JSON)
@run_async
async def test_text_that_is_no_strict_json_is_bad_json_on_every_way_in(arena: Arena, why: str) -> None:
    text = BAD_JSON[why]
    await arena.settle()
    alice = await arena.connect("websocket", arena.a, "alice")
    calls = {way: call for way, call in _back_end_calls(arena).items() if text or way not in NO_BODY_IS_ONE}

    answers = {
        "POST commands": await arena.post_text(text),
        "POST beacon": await arena.post_text(text, kind="text/plain;charset=UTF-8"),
        **{way: await arena.api_text(*call, text) for way, call in calls.items()},
    }
    codes = {"binary message": await arena.socket_text(alice, text)}
    if _is_text(text):
        codes["text message"] = await arena.socket_text(alice, text.decode())

    assert not fault_list((400, "bad_json"), answers)
    assert not fault_list("bad_json", codes)
    assert alice.closed is None
    await arena.untouched()


@pytest.mark.parametrize("text", OTHER_SHAPES)
@run_async
async def test_json_of_another_shape_is_a_bad_request_on_every_way_in(arena: Arena, text: bytes) -> None:
    await arena.settle()
    alice = await arena.connect("websocket", arena.a, "alice")

    answers = {way: await arena.api_text(*call, text) for way, call in _back_end_calls(arena).items()}
    answers["POST commands"] = await arena.post_text(text)

    assert not fault_list((400, "bad_request"), answers)
    assert await arena.socket_text(alice, text) == "bad_request"
    assert await arena.socket_text(alice, b"[]") == "bad_request"
    assert await arena.socket_text(alice, b'[{"type":"beat"}]') == "bad_request"
    await arena.untouched()


@pytest.mark.parametrize("item", [b"7", b"null", b'"beat"', b"[]", b'[{"type":"beat"}]', b"{}"])
@run_async
async def test_one_command_of_a_batch_that_is_none_is_answered_and_the_others_are_done(
    arena: Arena, item: bytes
) -> None:
    headers = {**tokens.bearer(tokens.make_token("alice")), **JSON}
    batch = b'[{"type":"beat","id":1},' + item + b',{"type":"beat","id":3}]'

    answer = await arena.raw("/v1/commands?session=session-of-alice", method="POST", headers=headers, body=batch)

    replies = answer.json()
    assert [(reply["type"], reply.get("id")) for reply in replies] == [("ok", 1), ("error", None), ("ok", 3)]
    assert replies[1]["code"] == "bad_request"


@run_async
async def test_what_strict_json_allows_comes_through_unchanged_on_every_way(arena: Arena, transport: str) -> None:
    good = json.loads(
        '{"nul":"\\u0000","pair":"\\ud83d\\ude00","line":"a\\nb\\u2028\\r\\n\\r\\n","small":5e-324,"large":1.7976931348623157e308,'
        '"whole":' + "9" * 300 + ',"__proto__":{"x":1},"":[],"empty":{},"quote":"\\"}],","nothing":null,"minus":-0.0}'
    )
    deep = json.loads(nested(30))  # the command is the outermost level, `data` the value inside of it
    watcher = await arena.watcher()
    alice = await arena.member(transport, arena.a, "alice", state={"a": good["pair"], "": {}, "b": good["line"]})

    for data in (good, deep, [], None, False, 0, ""):
        await alice.publish(arena.channel, "as-it-was", data)
        assert (await watcher.event(arena.channel, "message"))["data"] == data
        await arena.message("as-it-was", data)
        assert (await alice.event(arena.channel, "message", name="as-it-was"))["data"] == data
        assert (await alice.event(arena.channel, "message", name="as-it-was"))["data"] == data
        await watcher.event(arena.channel, "message")
    roster = await arena.roster()
    assert roster["alice"]["state"] == {"a": good["pair"], "": {}, "b": good["line"]}
    assert [event["data"] for event in await arena.log() if event["type"] == "message"][0] == good


# ---- sizes ----


@run_async
async def test_a_command_has_at_most_16_kib_on_every_way_and_a_batch_of_the_back_end_1_mib(arena: Arena) -> None:
    await arena.settle()
    alice = await arena.connect("websocket", arena.a, "alice")
    small, large = _padded(b'{"type":"beat"', 16_384), _padded(b'{"type":"beat"', 16_385)
    pair = b"[" + small[: 16_384 - 20] + b"]"

    assert await arena.post_text(small) == OK
    assert await arena.post_text(large) == (413, "too_large")
    assert await arena.post_text(large, kind="text/plain") == (413, "too_large")
    assert await arena.post_text(pair) == (400, "bad_json")
    await alice.send_text(small.decode())
    await alice.expect("ok")
    assert await arena.socket_text(alice, large) == "too_large"
    assert await arena.socket_text(alice, ('{"x":"' + "é" * 8_200 + '"}')) == "too_large"

    calls = _back_end_calls(arena)
    batches = {"heartbeats", "users query"}
    for way, call in calls.items():
        bound = 1 << 20 if way in batches else 16_384
        assert await arena.api_text(*call, _padded(b'{"name":7', bound)) != (413, "too_large"), way
        assert await arena.api_text(*call, _padded(b'{"name":7', bound + 1)) == (413, "too_large"), way


@pytest.mark.parametrize("size", [16_385, 65_536])
@run_async
async def test_a_websocket_message_up_to_64_kib_is_refused_without_closing(arena: Arena, size: int) -> None:
    alice = await arena.member("websocket", arena.a, "alice")

    assert await arena.socket_text(alice, "x" * size) == "too_large"
    assert list(await arena.roster()) == ["alice"]


@pytest.mark.parametrize("fragments", [1, 2, 40])
@run_async
async def test_a_websocket_message_beyond_64_kib_is_closed_with_1009_and_nothing_of_it_is_done(
    arena: Arena, fragments: int
) -> None:
    await arena.settle()
    alice = await arena.connect("websocket", arena.a, "alice")
    text = _padded(b'{"type":"join","channel":"' + arena.channel.encode() + b'"', 70_000).decode()
    step = -(-len(text) // fragments)

    await alice.send_text([text[at : at + step] for at in range(0, len(text), step)] if fragments > 1 else text)

    assert await alice.until_closed() == 1009
    await arena.untouched()


@run_async
async def test_a_websocket_frame_that_only_announces_to_be_huge_is_closed_at_once(arena: Arena) -> None:
    for announced in (b"\x81\xff" + b"\x7f" + b"\xff" * 7, b"\x81\xff" + (1 << 20).to_bytes(8)):
        socket = await open_socket(arena.a.ws_url, {}, tokens.bearer(tokens.make_token("alice")))
        socket.transport.write(announced + b"\x00\x00\x00\x00")
        await socket.wait_closed()
        assert socket.close_code == 1009


@run_async
async def test_a_body_that_is_far_too_large_is_refused_by_its_length_or_while_it_comes(arena: Arena) -> None:
    await arena.settle()
    auth = {**tokens.bearer(tokens.API_KEY), **JSON}
    token = {**tokens.bearer(tokens.make_token("alice")), **JSON}
    targets = [("PUT", arena.channel, auth), ("POST", "", auth), ("POST", "commands", token)]
    for method, what, headers in targets:
        target = {
            arena.channel: f"/v1/channels/{arena.channel}/members/newcomer",
            "": "/v1/heartbeats",
            "commands": "/v1/commands?session=session-of-alice",
        }[what]
        announced = {**headers, "Content-Length": str(1 << 40)}
        exchange = await arena.head_of(arena.a, target, announced, method)
        assert exchange.status == 413
        exchange.close()
        answer = await request(arena.a.url, method, target, headers=headers, body=b"[" * 1_500_000)
        assert answer.problem() == (413, "too_large")
    await arena.untouched()


@run_async
async def test_a_chunked_body_is_read_and_bounded_like_any_other(arena: Arena) -> None:
    await arena.settle()
    headers = {**tokens.bearer(tokens.API_KEY), **JSON, "Transfer-Encoding": "chunked"}
    for chunks, expected in (
        ([b'{"users":', b"[]", b"}"], OK),
        ([b'{"users":', b"[NaN]", b"}"], (400, "bad_json")),
        ([b'{"users":[]', *[b" " * 60_000] * 20, b"}"], (413, "too_large")),
    ):
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        exchange = await Exchange.open(arena.a.url, "POST", "/v1/users/query", headers)
        exchange.writer.write(body)
        assert problem_of(await exchange.whole()) == expected
    await arena.untouched()


def _back_end_calls(arena: Arena) -> dict[str, tuple[str, str]]:
    room = f"/v1/channels/{arena.channel}"
    return {
        "PUT member": ("PUT", f"{room}/members/newcomer"),
        "messages": ("POST", f"{room}/messages"),
        "heartbeats": ("POST", "/v1/heartbeats"),
        "users query": ("POST", "/v1/users/query"),
        "disconnect": ("POST", "/v1/users/nobody-here/disconnect"),
        "PUT subscriber": ("PUT", f"{room}/subscribers/newcomer"),
        "user messages": ("POST", "/v1/users/nobody-here/messages"),
        "inbox ack": ("POST", "/v1/users/nobody-here/inbox/ack"),
    }


def _padded(start: bytes, size: int) -> bytes:
    """An object that begins so and has this size."""
    text = start + b',"pad":"'
    return text + b"x" * (size - len(text) - 2) + b'"}'


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
