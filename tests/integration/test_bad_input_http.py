"""HTTP as such: content types, methods, paths, noise on the wire; and what hostile input leaves in logs and metrics."""

from __future__ import annotations

import asyncio
import json
import struct
from urllib.parse import urlsplit

import pytest

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.hostile import JSON, MARK, STREAM, Arena, fault_list
from tests.support.http import Refused, request
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async

BACKEND = tokens.bearer(tokens.API_KEY)
FOREIGN_KINDS = [
    "",
    "text/html",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
    "application/json-patch+json",
    "json",
    "application/json; charset=utf-16",
    "application/json;charset=latin-1",
    f"application/{MARK}",
]
GOOD_KINDS = [
    "application/json",
    "Application/JSON",
    "application/json;charset=utf-8",
    'application/json; charset="UTF-8"',
]


@pytest.fixture
def arena(two_nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(two_nodes, redis_server)


def _writes(arena: Arena) -> dict[str, tuple[str, str, bytes]]:
    room = f"/v1/channels/{arena.channel}"
    return {
        "PUT member": ("PUT", f"{room}/members/newcomer", b"{}"),
        "messages": ("POST", f"{room}/messages", b'{"name":"x","data":1}'),
        "heartbeats": ("POST", "/v1/heartbeats", b'{"members":[]}'),
        "users query": ("POST", "/v1/users/query", b'{"users":[]}'),
        "disconnect": ("POST", f"/v1/users/{arena.resident}/disconnect", b"{}"),
        "PUT subscriber": ("PUT", f"{room}/subscribers/newcomer", b"{}"),
        "user messages": ("POST", "/v1/users/newcomer/messages", b'{"name":"x","data":1}'),
        "inbox ack": ("POST", "/v1/users/newcomer/inbox/ack", b'{"channel":"@inbox","cursor":"e:1"}'),
    }


@run_async
async def test_a_body_of_another_content_type_is_refused_with_415_and_nothing_is_done(arena: Arena) -> None:
    await arena.settle()
    answers = {}
    for kind in [*FOREIGN_KINDS, "text/plain"]:
        header = {"Content-Type": kind} if kind else {}
        for way, (method, target, body) in _writes(arena).items():
            answer = await arena.raw(target, method=method, headers={**BACKEND, **header}, body=body)
            answers[f"{way} as {kind}"] = answer.problem()
    command = json.dumps({"type": "join", "channel": arena.channel}).encode()
    for kind in FOREIGN_KINDS[1:]:
        answers[f"commands as {kind}"] = await arena.post_text(command, kind=kind)
    for coding in ("gzip", "deflate", "br", MARK):
        headers = {**BACKEND, **JSON, "Content-Encoding": coding}
        for way, (method, target, body) in _writes(arena).items():
            answers[f"{way} in {coding}"] = (
                await arena.raw(target, method=method, headers=headers, body=body)
            ).problem()

    assert not fault_list((415, "unsupported_media_type"), answers)
    await arena.untouched()


@pytest.mark.parametrize("kind", GOOD_KINDS)
@run_async
async def test_json_is_known_by_every_spelling_of_its_type_and_text_plain_only_where_beacons_go(
    arena: Arena, kind: str
) -> None:
    headers = {**BACKEND, "Content-Type": kind}
    answer = await arena.raw("/v1/heartbeats", method="POST", headers=headers, body=b'{"members":[]}')

    assert answer.status == 200
    for allowed in (kind, "text/plain", "text/plain;charset=UTF-8"):
        assert await arena.post_text(b'{"type":"beat"}', kind=allowed) == (200, "ok")


@run_async
async def test_a_wrong_method_is_405_with_the_methods_that_are_taken(arena: Arena) -> None:
    room = f"/v1/channels/{arena.channel}"
    taken = {
        "/v1/channels": {"GET"},
        room: {"GET"},
        f"{room}/members": {"GET"},
        f"{room}/members/alice": {"PUT", "DELETE"},
        f"{room}/events": {"GET"},
        f"{room}/messages": {"POST"},
        "/v1/heartbeats": {"POST"},
        "/v1/users/query": {"GET", "POST", "DELETE"},
        "/v1/users/alice": {"GET", "DELETE"},
        "/v1/users/alice/disconnect": {"POST"},
        f"{room}/subscribers/alice": {"PUT", "DELETE"},
        "/v1/users/alice/messages": {"POST"},
        "/v1/users/alice/inbox": {"GET"},
        "/v1/users/alice/inbox/ack": {"POST"},
        "/v1/ws": {"GET", "OPTIONS"},
        "/v1/events": {"GET", "OPTIONS"},
        "/v1/commands": {"POST", "OPTIONS"},
        "/healthz": {"GET", "HEAD"},
        "/readyz": {"GET", "HEAD"},
        "/metrics": {"GET"},
        "/static/presence.js": {"GET", "HEAD"},
    }
    for target, methods in taken.items():
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"} - methods:
            answer = await arena.raw(target, method=method, headers={**BACKEND, **JSON}, body=b"{}")
            assert answer.problem() == (405, "bad_request"), (method, target)
            assert {each.strip() for each in answer.headers["allow"].split(",")} == methods, (method, target)
    assert await arena.roster() == {}


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v2/ws",
        "/v1/ws/",
        "/v1//channels",
        "/v1/channels/x/nothing",
        "/v1/channels/x/members/y/z",
        "/v1/channels/a/b/members",
        "/v1/users",
        "/v1/users/x/nothing",
        "/V1/channels",
        "/healthz/",
        "/dev/token?user=alice",
        "/static/",
        "/static/nothing.js",
        "/static/%00.js",
        "/static/a%00/../presence.js",
        "/static/../pyproject.toml",
        "/static/..%2fpyproject.toml",
        "/static/%2e%2e/pyproject.toml",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/..%5c..%5cpyproject.toml",
        "/static/%ff.js",
        "/static/" + "x" * 5000 + ".js",
        "/static/" + "x/" * 3000 + ".js",
        "/static/%ed%a0%80.js",
        "/" + MARK + "%0d%0aSet-Cookie:%20x=1",
        "/" + "x" * 20_000,
        "/favicon.ico",
        "/.git/config",
        "*",
    ],
    ids=lambda target: ascii(target)[:40],
)
@run_async
async def test_an_unknown_path_is_a_404_problem_whatever_the_method(arena: Arena, target: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        if target.startswith("/static") and method != "GET":
            continue
        answer = await arena.raw(target, method=method, headers=BACKEND)
        assert answer.problem() == (404, "not_found")
        assert "set-cookie" not in answer.headers
        assert MARK not in answer.body.decode()


@run_async
async def test_errors_name_no_software_and_are_not_to_be_kept_or_sniffed(arena: Arena) -> None:
    for target in ("/nothing", "/v1/channels", "/v1/events", "/v1/channels/%FF"):
        answer = await arena.raw(target)
        assert "server" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-length"] == str(len(answer.body))
    assert (await arena.raw("/v1/channels")).headers["www-authenticate"] == "Bearer"


NOISE: dict[str, bytes] = {
    "binary": bytes(range(256)) * 8,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "only line ends": b"\r\n" * 200,
    "no version": b"GET /" + MARK.encode() + b"\r\n\r\n",
    "a version of the future": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + MARK.encode() + b"\r\n\r\n",
    "a header with NUL": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00" + MARK.encode() + b"\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n " + MARK.encode() + b"\r\n\r\n",
    "a token in a malformed request": b"GET /v1/events?token=%b HTTP/1.1 x\r\nHost: x\r\nBroken\r\n\r\n"
    % tokens.make_token("alice").encode(),
    "a token in a malformed header": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer %b\r\n\r\n"
    % tokens.API_KEY.encode(),
    "huge headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + MARK.encode() * 20_000 + b"\r\n\r\n",
    "an endless path": b"GET /" + MARK.encode() * 20_000,
    "a negative length": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length that is no number": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n0123456789",
    "a length in other digits": "POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: ²\r\n\r\n12".encode(
        "latin-1"
    ),
    "two lengths": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    "length and chunks": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a huge chunk": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "a cut body": b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    "a multipart body": b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 21\r\n\r\n--b\r\n"
    + MARK.encode()
    + b"\r\n--b",
    "a form": b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 8\r\n\r\na=%FF&=;",
    "a bad cookie": b"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: \xff=\x01;;;\r\n\r\n",
    "raw bytes in the target": b"GET /v1/channels/\xff\xfe?limit=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "an absolute target": b"GET http://evil.example/v1/channels HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/1.0": b"GET /v1/channels HTTP/1.0\r\n\r\n",
    "pipelined": b"GET /v1/channels HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
}


@pytest.mark.parametrize("what", NOISE)
@run_async
async def test_noise_on_the_wire_harms_nobody_and_leaves_nothing_in_the_log(arena: Arena, what: str) -> None:
    await arena.settle()
    answer = await _exchange(arena.a, NOISE[what])

    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert b" 500 " not in answer and MARK.encode() not in answer
    await arena.untouched()


HANDSHAKES: dict[str, tuple[dict[str, str], int]] = {
    "no upgrade": ({"Upgrade": ""}, 426),
    "another protocol": ({"Upgrade": "h2c"}, 426),
    "no connection token": ({"Connection": "close"}, 426),
    "an old version": ({"Sec-WebSocket-Version": "8"}, 426),
    "no version": ({"Sec-WebSocket-Version": ""}, 426),
    "no key": ({"Sec-WebSocket-Key": ""}, 400),
    "a short key": ({"Sec-WebSocket-Key": "AAAA"}, 400),
    "a key that is no base64": ({"Sec-WebSocket-Key": MARK + "\\u00ff!!"}, 400),
}


@pytest.mark.parametrize("what", HANDSHAKES)
@run_async
async def test_a_handshake_that_is_none_is_a_problem(arena: Arena, what: str) -> None:
    change, status = HANDSHAKES[what]
    good = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    headers = {**tokens.bearer(tokens.make_token("alice")), **good, **change}

    assert (await arena.raw("/v1/ws", headers=headers)).problem() == (status, "bad_request")


FRAMES: dict[str, tuple[bytes, int]] = {
    "an unmasked frame": (b'\x81\x0f{"type":"beat"}', 1002),
    "reserved bits": (b"\xc1\x80\x00\x00\x00\x00", 1002),
    "an unknown opcode": (b"\x83\x80\x00\x00\x00\x00", 1002),
    "an unknown control": (b"\x8b\x80\x00\x00\x00\x00", 1002),
    "a fragmented ping": (b"\x09\x80\x00\x00\x00\x00", 1002),
    "a ping of 126 bytes": (b"\x89\xfe\x00\x7e" + b"\x00" * 130, 1002),
    "a continuation of nothing": (b"\x80\x80\x00\x00\x00\x00", 1002),
    "a new message inside of one": (b"\x01\x80\x00\x00\x00\x00" * 2, 1002),
    "a close of one byte": (b"\x88\x81\x00\x00\x00\x00\x03", 1002),
    "a close code nobody may send": (b"\x88\x82\x00\x00\x00\x00" + struct.pack("!H", 1006), 1002),
    "a reason that is no UTF-8": (b"\x88\x83\x00\x00\x00\x00" + struct.pack("!H", 1000) + b"\xff", 1007),
}


@pytest.mark.parametrize("what", FRAMES)
@run_async
async def test_a_broken_frame_ends_this_connection_alone(arena: Arena, what: str) -> None:
    data, code = FRAMES[what]
    bystander = await arena.member("websocket", arena.a, "bystander")
    socket = await open_socket(arena.a.ws_url, {}, tokens.bearer(tokens.make_token("alice")))
    socket.transport.write(data)

    await socket.wait_closed()

    assert socket.close_code == code
    assert (await bystander.beat())["type"] == "ok"


@run_async
async def test_connections_that_end_in_the_middle_of_anything_leave_nothing_behind(arena: Arena) -> None:
    token = tokens.make_token("alice")
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head = b"GET /v1/ws?token=%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b\r\n"
    socket = head % (token.encode(), key)
    stream = (
        b"GET /v1/events?channel=gone&token=%b HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        % token.encode()
    )
    starts = (
        [socket[:at] for at in (1, 40, len(socket) - 2)]
        + [socket, socket + b"\x81", socket + b"\x81\xfe\x10\x00" + b"\x00" * 50]
        + [stream[:-2], stream, stream.replace(b"text/event-stream", b"*/*")]
    )
    before = await _connections(arena)
    for start in starts * 3:
        _, writer = await asyncio.open_connection(*_address(arena.a))
        writer.write(start)
        await writer.drain()
        if start is socket:
            await asyncio.sleep(0.01)
        writer.transport.abort()

    async def as_before() -> bool:
        return await _connections(arena) == before

    await eventually(as_before)


@run_async
async def test_a_handshake_with_frames_right_behind_it_is_served(arena: Arena) -> None:
    command = json.dumps({"type": "join", "channel": arena.channel, "id": 1}).encode()
    frame = b"\x81" + bytes([0x80 | 126]) + struct.pack("!H", len(command)) + b"\x00" * 4 + command
    head = (
        b"GET /v1/ws?token=%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ) % tokens.make_token("alice").encode()

    answer = await _exchange(arena.a, head + frame + b"\x88\x80\x00\x00\x00\x00", end=False)

    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b'"type":"welcome"' in answer


@run_async
async def test_ten_thousand_channel_and_user_names_make_no_metric_series(arena: Arena) -> None:
    alice = await arena.member("websocket", arena.a, "alice")
    with pytest.raises(Refused):
        await open_socket(arena.a.ws_url, {"session": "x"}, {})
    before = await _series(arena)

    for batch in range(10):
        names = [f"{MARK}{batch}-{number}" for number in range(1000)]
        beats = [{"channel": name, "user": name} for name in names]
        await arena.ask("POST", "heartbeats", json={"members": beats})
        await arena.ask("POST", "users", "query", json={"users": names})
        for number in range(20):
            name = names[number]
            await arena.ask("PUT", "channels", name, "members", name, json={"ttl_ms": 1000})
            await arena.raw(f"/{name}/{name}", method=f"M{number}")
        codes = [await alice.refused({"type": name, "channel": name}) for name in names[:5]]
        assert codes == ["bad_request"] * 5
        await arena.poll(arena.a, names[0], *names[:10], as_="observer")

    assert await _series(arena) == before
    assert MARK not in str(before)


@run_async
async def test_neither_a_stream_nor_a_poll_repeats_input_in_its_head(arena: Arena) -> None:
    split = "%0d%0aX-Injected:%201"
    for accept in ({}, STREAM):
        headers = {**tokens.bearer(tokens.make_token("alice")), **accept, "Origin": "http://x\x0bX-Injected: 1"}
        answer = await arena.raw(f"/v1/events?channel={split}&session={split}", headers=headers)
        assert answer.status in (400, 403)
        assert "x-injected" not in answer.headers


async def _series(arena: Arena) -> set[str]:
    page = (await arena.probe("/metrics")).body.decode()
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


async def _connections(arena: Arena) -> list[str]:
    page = (await request(arena.a.url, "GET", "/metrics")).body.decode()
    return [line for line in page.splitlines() if line.startswith("presence_sessions{")]


async def _exchange(node: Node, data: bytes, end: bool = True) -> bytes:
    """Everything the node answers to these bytes until it or the time ends the connection."""
    reader, writer = await asyncio.open_connection(*_address(node))
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    except OSError:  # the node hung up while this was being sent
        return b""
    finally:
        writer.transport.abort()


def _address(node: Node) -> tuple[str, int]:
    parts = urlsplit(node.url)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port
