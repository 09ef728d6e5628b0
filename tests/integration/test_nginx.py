"""What comes through nginx, as it is configured in nginx/, before three nodes and without stickiness."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.documents import ROOT
from tests.support.http import Exchange, request
from tests.support.nginx import CONFIGURATION, Nginx
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

ROUNDS = 7
IDLE_S = 2.5
SENT_BY_NGINX = {"Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Host", "X-Forwarded-For"}


@run_async
async def test_joins_and_leaves_come_through_on_every_transport(front: Stage, nginx: Nginx, transport: str) -> None:
    watcher = await front.watcher(transport, nginx.outside)
    bob = await front.member("websocket", nginx.outside, "bob")
    await watcher.event(front.channel, "join", user="bob")

    await bob.drop()

    left = await watcher.event(front.channel, "leave", user="bob")
    assert left["reason"] == "timeout"


@run_async
async def test_last_words_of_a_page_arrive_though_its_browser_is_gone(front: Stage, nginx: Nginx) -> None:
    join = json.dumps({"type": "join", "channel": front.channel}).encode()
    for number in range(20):
        beacon = {**tokens.bearer(tokens.make_token(f"user-{number}")), "Content-Type": "text/plain"}
        exchange = await Exchange.open(nginx.url, "POST", f"/v1/commands?session={front.session}", beacon, join)
        exchange.close()

    await eventually(lambda: _all_there(front, 20), what="what every one of them said")


@run_async
async def test_requests_of_one_session_reach_all_nodes_and_nothing_is_missed(
    front: Stage, nginx: Nginx, transport: str
) -> None:
    path = "/v1/ws" if transport == "websocket" else "/v1/events"
    before = len(nginx.asked(path))
    ann = await front.member(transport, nginx.outside, "ann")
    names = [f"m{number}" for number in range(ROUNDS)]

    for name in names:
        await front.message(name)
        await ann.event(front.channel, "message", name=name)
        await ann.beat()
        if transport != "longpoll":
            await ann.reconnect()
    await ann.drop()

    assert [event["name"] for event in ann.events(front.channel, "message")] == names
    every = {urlsplit(node.url).netloc for node in front.nodes}
    await eventually(lambda: {asked[-1] for asked in nginx.asked(path)[before:]} == every)


@run_async
async def test_a_reload_of_nginx_cuts_nobody_off_and_loses_nothing(front: Stage, nginx: Nginx, transport: str) -> None:
    ann = await front.member(transport, nginx.outside, "ann")
    await ann.parked()
    old = nginx.workers()

    await asyncio.to_thread(nginx.reload)
    for number in range(3):
        await front.message(f"m{number}")
        await ann.event(front.channel, "message", name=f"m{number}")
    bob = await front.member(transport, nginx.outside, "bob")
    await ann.event(front.channel, "join", user="bob")

    assert ann.closed is None
    assert [frame["type"] for frame in ann.frames].count("welcome") <= 1, "it had to connect again"
    assert ann.events(front.channel, "leave") == []
    await asyncio.gather(ann.drop(), bob.drop())
    await eventually(lambda: not old & nginx.workers(), what="the old workers to go when their last client has gone")


@run_async
async def test_a_page_of_nginxs_own_address_may_connect_and_a_foreign_one_may_not(front: Stage, nginx: Nginx) -> None:
    async def ask(origin: str) -> int:
        return (await front.poll(nginx.outside, "ann", front.channel, headers={"Origin": origin})).status

    assert await ask(nginx.url) == 200
    assert await ask("http://elsewhere.example") == 403


@run_async
async def test_idle_connections_outlive_nginxs_time_out_because_nodes_ping(
    front: Stage, nginx: Nginx, tmp_path: Path
) -> None:
    with _nginx(tmp_path, nginx, {"proxy_read_timeout 75s": "proxy_read_timeout 1500ms"}) as short:
        ann = await front.member("websocket", short.outside, "ann")

        await asyncio.sleep(IDLE_S)

        assert ann.closed is None
        assert (await ann.beat())["type"] == "ok"


def test_time_outs_are_longer_than_whatever_a_node_lets_wait() -> None:
    from presence.handlers.longpoll import DEFAULT_WAIT_S
    from presence.handlers.queues import MAX_WAIT_MS
    from presence.handlers.sse import COMMENT_S
    from presence.settings import Settings

    (timeout_s,) = {int(found) for found in re.findall(r"proxy_(?:read|send)_timeout (\d+)s", _text("proxy.conf"))}
    longest_s = max(DEFAULT_WAIT_S, MAX_WAIT_MS / 1000, COMMENT_S, Settings().ping_ms / 1000)
    assert timeout_s >= longest_s + 10


@run_async
async def test_who_somebody_is_says_the_token_and_no_header_from_outside(front: Stage, nginx: Nginx) -> None:
    forged = {"X-User": "root", "X-Forwarded-User": "root", "Forwarded": "for=10.0.0.1", "Cookie": "user=root"}

    socket = await open_socket(nginx.outside.ws_url, {}, {**tokens.bearer(tokens.make_token("ann")), **forged})
    welcome = json.loads(await socket.recv())
    await socket.close()

    assert welcome["user"] == "ann"
    assert (await front.poll(nginx.outside, "", front.channel, token="x", headers=forged)).status == 401


@run_async
async def test_only_headers_that_nodes_read_get_through_to_them(tmp_path: Path) -> None:
    heads: list[list[str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    lying = dict.fromkeys(("X-Real-IP", "X-Forwarded-For", "Forwarded", "X-User", "Via", "Cookie", "Referer"), "a lie")
    true = {"Authorization": "Bearer x", "Origin": "http://a.example", "Last-Event-ID": "7"}
    upstream = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with upstream:
        port = upstream.sockets[0].getsockname()[1]
        server = await asyncio.to_thread(Nginx, tmp_path / "nginx", [f"http://127.0.0.1:{port}"])
        try:
            await request(server.url, "GET", "/v1/events", headers={**lying, **true, "Upgrade": "h2c"})
        finally:
            server.stop()

    (head,) = heads
    assert "a lie" not in "".join(head)
    host = {"Host": urlsplit(server.url).netloc, "X-Forwarded-For": "127.0.0.1"}
    assert dict(line.split(": ", 1) for line in head) == {**true, **host}


def test_every_header_that_a_handler_reads_is_let_through() -> None:
    handlers = "".join(path.read_text("utf-8") for path in (ROOT / "presence" / "handlers").glob("*.py"))
    read = set(re.findall(r"headers\.get\(\"([\w-]+)\"", handlers)) - SENT_BY_NGINX

    passed = set(re.findall(r"^proxy_set_header ([\w-]+)", _text("proxy.conf"), re.MULTILINE)) - SENT_BY_NGINX
    assert read <= passed
    assert passed - read == {"If-None-Match"}  # this Tornado reads


@run_async
async def test_a_demo_behind_a_proxy_gives_nobody_a_token(
    front: Stage, nodes_on: Callable[..., list[Node]], redis_server: RedisServer, tmp_path: Path
) -> None:
    (demo,) = nodes_on(redis_server.url, 1, arguments=("--dev",))
    server = await asyncio.to_thread(Nginx, tmp_path / "nginx", [demo.url])
    ask = "/dev/token?user=ann"
    try:
        forged = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
        assert (await front.probe(ask, demo)).status == 200
        assert (await front.probe(ask, server.inside)).problem() == (403, "forbidden")
        assert (await front.probe(ask, server.inside, headers=forged)).problem() == (403, "forbidden")
        assert (await front.probe(ask, server.outside)).problem() == (404, "not_found")
        assert (await front.probe("/", server.outside)).problem() == (404, "not_found")
    finally:
        server.stop()


@pytest.mark.parametrize("through", ["nginx", "a node"])
@run_async
async def test_a_browser_that_has_a_file_is_told_so_and_gets_it_anew_only_when_it_changed(
    front: Stage, nginx: Nginx, through: str
) -> None:
    door = nginx.outside if through == "nginx" else front.a
    ask = "/static/presence.js"

    first = await front.probe(ask, door)
    etag = first.headers["etag"]
    again = await front.probe(ask, door, headers={"If-None-Match": etag})
    changed = await front.probe(ask, door, headers={"If-None-Match": '"of another file"'})
    head = await request(door.url, "HEAD", ask)

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert (changed.status, changed.body) == (200, first.body)
    assert (head.status, head.body, head.headers["etag"]) == (200, b"", etag)


@run_async
async def test_files_are_compressed_and_answers_with_events_are_not(front: Stage, nginx: Nginx) -> None:
    zipping = {"Accept-Encoding": "gzip"}

    file = await front.probe("/static/presence.js", nginx.outside, headers=zipping)
    known = {**zipping, "If-None-Match": file.headers["etag"]}
    poll = await front.poll(nginx.outside, "ann", front.channel, headers=zipping)

    assert file.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in file.headers["vary"].lower()
    assert (await front.probe("/static/presence.js", nginx.outside, headers=known)).status == 304
    assert "content-encoding" not in poll.headers


@contextmanager
def _nginx(folder: Path, like: Nginx, changes: dict[str, str]) -> Iterator[Any]:
    server = Nginx(folder / "nginx", [node.url for node in like.nodes], changes)
    try:
        yield server
    finally:
        server.stop()


def _text(name: str) -> str:
    return (CONFIGURATION / name).read_text("utf-8")


async def _all_there(front: Stage, count: int) -> bool:
    return len(await front.roster()) == count
