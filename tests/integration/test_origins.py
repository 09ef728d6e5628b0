"""Origins (contract §4): the node's own host and port under any scheme, the configured ones exactly, nobody else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.hostile import JSON, STREAM, Arena, fault_list
from tests.support.http import Refused, Response
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

CONFIGURED = ["https://app.example", "http://app.example:8081", "capacitor://localhost"]
FOREIGN = [
    "https://evil.example",
    "null",
    "",
    "*",
    "https://app.example.evil.example",
    "https://evil.app.example",
    "https://app.example:8443",
    "http://app.example",
    "http://app.example:80",
    "https://app.example/",
    "https://app.example/path",
    "https://APP.example",
    "https://app.example.",
    " https://app.exampl",
    "https://app.example,https://evil.example",
    "https://app.example https://evil.example",
    "capacitor://evil",
    "file://",
    "data:",
    "app.example",
    "//app.example",
]


@pytest.fixture(scope="module")
def node(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with configured origins."""
    settings = {"allowed_origins": ",".join(CONFIGURED), "key_prefix": secrets.token_hex(4)}
    node = Node.start(tmp_path_factory.mktemp("origins"), redis_server.url, **settings)
    yield node
    node.kill()
    assert not node.complaints(), node.tail()


@pytest.fixture
def arena(node: Node, redis_server: RedisServer) -> Arena:
    return Arena([node], redis_server)


async def knock(arena: Arena, origin: str, **headers: str) -> dict[str, Any]:
    """Status and allowed origin by every door of a client, with a good token."""
    token = tokens.bearer(tokens.make_token("alice"))
    lines = {**token, "Origin": origin, **headers}
    asking = {**lines, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    room, command = arena.channel, b'{"type":"join","channel":"%b"}' % arena.channel.encode()
    events, commands = f"/v1/events?channel={room}", "/v1/commands?session=session-of-alice"
    stream = await arena.head_of(arena.a, events, {**lines, **STREAM})
    stream.close()
    return {
        "poll": _seen(await arena.raw(events, headers=lines)),
        "stream": (stream.status, stream.headers.get("access-control-allow-origin")),
        "commands": _seen(await arena.raw(commands, method="POST", headers={**lines, **JSON}, body=command)),
        "preflight of events": _seen(await arena.raw(events, method="OPTIONS", headers=asking)),
        "preflight of commands": _seen(await arena.raw(commands, method="OPTIONS", headers=asking)),
        "socket": (await _handshake(arena, lines), None),
    }


@pytest.mark.parametrize("origin", FOREIGN)
@run_async
async def test_a_foreign_origin_is_refused_by_every_door_and_may_read_nothing(arena: Arena, origin: str) -> None:
    await arena.settle()

    assert not fault_list((403, None), await knock(arena, origin))

    await arena.untouched()


@run_async
async def test_hosts_that_only_look_like_the_node_s_are_foreign(arena: Arena) -> None:
    own = arena.a.url.removeprefix("http://")
    port = own.rpartition(":")[2]
    await arena.settle()
    for origin in (
        "http://127.0.0.1",
        f"http://127.0.0.1:{int(port) - 1}",
        f"http://127.0.0.1:{port}0",
        f"http://localhost:{port}",
        f"http://{own}.evil.example",
        f"http://evil.example:{port}",
        f"http://{own}@evil.example",
        f"http://evil@{own}",
        f"http://{own}/",
        f"http://{own}#evil.example",
        f"ftp://{own}",
        f"javascript://{own}",
        own,
        f"//{own}",
        f"http://[::1]:{port}",
        "http://[",
        f"http://127.0.0.1:{port}x",
        f"http://127.0.0.1:99{port}",
    ):
        assert not fault_list((403, None), await knock(arena, origin)), origin
    await arena.untouched()


@pytest.mark.parametrize("origin", CONFIGURED)
@run_async
async def test_a_configured_origin_is_let_in_and_may_read_the_answers(arena: Arena, origin: str) -> None:
    answers = await knock(arena, origin)

    assert answers.pop("socket") == (101, None)
    assert answers == {
        "poll": (200, origin),
        "stream": (200, origin),
        "commands": (200, origin),
        "preflight of events": (204, origin),
        "preflight of commands": (204, origin),
    }


@run_async
async def test_the_same_host_and_port_are_let_in_whatever_the_scheme_and_the_spelling(arena: Arena) -> None:
    pairs = [
        ("presence.example", "http://presence.example"),
        ("presence.example", "https://presence.example"),
        ("presence.example:443", "https://presence.example"),
        ("presence.example:80", "http://presence.example"),
        ("PRESENCE.example", "https://presence.example"),
        ("presence.example:8443", "https://presence.example:8443"),
        ("presence.example:8443", "http://presence.example:8443"),
        ("[::1]:8080", "http://[::1]:8080"),
    ]
    own = arena.a.url.removeprefix("http://")
    for host, origin in [*pairs, (own, f"http://{own}"), (own, f"https://{own}")]:
        answers = await knock(arena, origin, Host=host)
        assert [status for status, _ in answers.values()] == [200, 200, 200, 204, 204, 101], (host, origin)
    for host, origin in (
        ("presence.example:8443", "https://presence.example"),
        ("presence.example", "https://x.example"),
    ):
        assert not fault_list((403, None), await knock(arena, origin, Host=host)), (host, origin)


@run_async
async def test_a_preflight_needs_no_token_and_names_what_is_allowed(arena: Arena) -> None:
    for target, method in (("/v1/events", "GET"), ("/v1/commands", "POST")):
        headers = {
            "Origin": CONFIGURED[0],
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = await arena.raw(target, method="OPTIONS", headers=headers)

        assert (answer.status, answer.body) == (204, b"")
        assert method in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert "authorization" in allowed and "content-type" in allowed
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


@run_async
async def test_errors_can_be_read_by_an_allowed_origin_and_nothing_says_more_to_a_foreign_one(arena: Arena) -> None:
    allowed = {"Origin": CONFIGURED[0]}
    for headers in (allowed, {**allowed, **STREAM}):
        answer = await arena.raw(f"/v1/events?channel={arena.channel}", headers=headers)
        assert answer.problem() == (401, "unauthorized")
        assert answer.headers["access-control-allow-origin"] == CONFIGURED[0]
    foreign = await arena.raw("/v1/events", headers={"Origin": FOREIGN[0]})
    assert foreign.problem() == (403, "forbidden")
    assert FOREIGN[0] not in str(foreign)


@run_async
async def test_without_an_origin_every_door_opens_and_no_browser_may_read(arena: Arena) -> None:
    headers = tokens.bearer(tokens.make_token("alice"))

    answer = await arena.raw(f"/v1/events?channel={arena.channel}", headers=headers)

    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers
    assert "origin" in answer.headers["vary"].lower()
    assert await _handshake(arena, headers) == 101


@run_async
async def test_no_browser_may_read_the_back_end_s_answers(arena: Arena) -> None:
    for origin in (CONFIGURED[0], arena.a.url, FOREIGN[0]):
        answer = await arena.api("GET", "channels", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers


def _seen(answer: Response) -> tuple[int, str | None]:
    if answer.status == 403:
        assert answer.problem() == (403, "forbidden")
    return answer.status, answer.headers.get("access-control-allow-origin")


async def _handshake(arena: Arena, headers: dict[str, str]) -> int:
    """101, or the status with which the handshake was refused."""
    host = headers.get("Host")
    if host is not None:
        good = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        exchange = await arena.head_of(arena.a, "/v1/ws", {**headers, **good})
        exchange.close()
        return exchange.status
    try:
        socket = await open_socket(arena.a.ws_url, {}, headers)
    except Refused as refusal:
        assert refusal.code == "forbidden"
        return refusal.status
    socket.transport.abort()
    return 101
