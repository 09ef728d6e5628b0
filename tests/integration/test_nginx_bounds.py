"""What nginx, as it is configured in nginx/, keeps from the nodes, from the outside and out of its logs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.http import Exchange, Refused, request
from tests.support.nginx import Nginx
from tests.support.ports import free_ports
from tests.support.programs import need_program
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

CLOSED = (
    "/metrics", "/healthz", "/readyz", "/console", "/console/", "/", "/dev/token?user=ann", "/v1/channels",
    "/v1/channels/room/members", "/v1/users/ann", "/v1/heartbeats", "/v1/queues/q", "/v1/webhooks", "/v1/ws/",
    "/v1/events/x", "/v1/commands/../channels", "/static/../metrics", "/static/%2e%2e/metrics", "/static/..%2fmetrics",
    "//metrics", "/v1//channels", "/v1/events/..;/channels", "/v1/channels/../events", "/v1/channels/room%2f..%2f../events",
    "/v1/users/..%2fevents", "/v1/channels/room/members/..%2f..%2f..%2fws", "/v1/users/..%2f..%2fstatic%2fx",
)  # fmt: skip
OPEN_INSIDE = {"/metrics": 200, "/healthz": 200, "/readyz": 200, "/v1/channels": 200, "/v1/users/ann": 200}
TOO_MANY = 429


@run_async
async def test_only_what_browsers_need_is_open_to_the_outside(front: Stage, nginx: Nginx) -> None:
    key = tokens.bearer(tokens.API_KEY)
    closed = {path: await front.probe(path, nginx.outside, headers=key) for path in CLOSED}

    assert {path: answer.problem() for path, answer in closed.items()} == dict.fromkeys(CLOSED, (404, "not_found"))
    assert (await front.probe("/static/presence.js", nginx.outside)).status == 200
    inside = {path: (await front.probe(path, nginx.inside, headers=key)).status for path in OPEN_INSIDE}
    assert inside == OPEN_INSIDE
    assert await front.message("by way of the inside", node=nginx.inside)


@run_async
async def test_bodies_are_refused_in_json_whoever_refuses_them(front: Stage, nginx: Nginx) -> None:
    json_body = {"Content-Type": "application/json"}
    batch = await front.api("POST", "heartbeats", body=b" " * (1 << 20) + b"{}", node=nginx.inside, headers=json_body)
    for size in (20_000, 100_000):
        command = await front.command(nginx.outside, "ann", front.session, body=b" " * size, headers=json_body)
        assert command.problem() == (413, "too_large")

    assert batch.problem() == (413, "too_large")


@run_async
async def test_tokens_do_not_reach_nginxs_logs_on_any_transport(front: Stage, nginx: Nginx) -> None:
    token = tokens.make_token("ann")
    query = {"session": front.session, "token": token}
    before = len(nginx.log())

    socket = await open_socket(nginx.outside.ws_url, query, {})
    await socket.recv()
    await socket.close()
    for target in (nginx.outside, nginx.inside):
        poll = await request(target.url, "GET", "/v1/events", query={**query, "channel": front.channel})
        assert poll.status == 200
        command = await request(target.url, "POST", "/v1/commands", query=query, json_body={"type": "beat"})
        assert command.status == 200

    await eventually(lambda: len(nginx.log()) == before + 3)
    assert token not in nginx.written()


@run_async
async def test_tokens_do_not_reach_nginxs_logs_when_nodes_fail(tmp_path: Path) -> None:
    token = tokens.make_token("ann")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"half" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf an answer")
        writer.close()

    nodes = [f"http://127.0.0.1:{port}" for port in free_ports(1)]
    async with (
        _upstreams(hang_up) as alive,
        _nginx(tmp_path, [*nodes, *alive], {"max_fails=1": "max_fails=0"}) as server,
    ):
        for target in ("/v1/ws", "/v1/events", "/static/presence.js", "/nothing"):
            answer = await request(server.url, "GET", target, query={"token": token})
            assert answer.status == (404 if target == "/nothing" else 503)
        answer = await request(server.url, "POST", "/v1/commands", query={"token": token}, body=b"{}")
        assert answer.problem() == (503, "unavailable")
        with pytest.raises(ConnectionResetError):
            await request(server.url, "GET", "/v1/events", query={"token": token, "channel": "half"})

    assert "/v1/events" in server.written()
    assert token not in server.written()


@run_async
async def test_what_may_have_been_done_is_never_asked_for_again(tmp_path: Path) -> None:
    heads: list[str] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[0])
        writer.close()

    asked = {}
    for method in ("GET", "POST", "PUT", "DELETE"):
        async with _upstreams(hang_up, hang_up, hang_up) as nodes, _nginx(tmp_path, nodes, name=method) as server:
            door, path = (server.outside, "/v1/events") if method == "GET" else (server.inside, "/v1/users/ann")
            answer = await request(door.url, method, path)
            assert answer.problem() == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        asked[method] = [heads.count(method), len(heads)]
        heads.clear()

    assert asked == {"GET": [3, 3], "POST": [1, 1], "PUT": [1, 1], "DELETE": [1, 1]}


@run_async
async def test_what_no_node_got_goes_to_another_one(front: Stage, nginx: Nginx, tmp_path: Path) -> None:
    gone = [f"http://127.0.0.1:{port}" for port in free_ports(2)]

    async with _nginx(tmp_path, [*gone, nginx.nodes[0].url]) as server:
        for _ in range(6):
            sent = await front.api(
                "POST", "channels", front.channel, "messages", json={"name": "x", "data": 1}, node=server.inside
            )
            assert sent.status == 200
            beat = await front.command(server.outside, "ann", front.session, {"type": "beat", "id": 1})
            assert beat.status == 200


@run_async
async def test_who_sends_headers_slowly_is_cut_off_while_others_are_served(
    front: Stage, nginx: Nginx, tmp_path: Path
) -> None:
    async with _like(tmp_path, nginx, {"client_header_timeout 10s": "client_header_timeout 1s"}) as server:
        slow = [await asyncio.open_connection(*server.address) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n")

        assert (await front.poll(server.outside, "ann", front.channel)).status == 200
        async with asyncio.timeout(5):
            for reader, writer in slow:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()


@run_async
async def test_of_one_address_no_more_connections_are_taken_than_allowed(
    front: Stage, nginx: Nginx, tmp_path: Path
) -> None:
    ask = f"/v1/events?channel={front.channel}"
    async with _like(
        tmp_path, nginx, {"limit_conn presence_connections 500": "limit_conn presence_connections 3"}
    ) as server:
        streams = [await _stream(server, ask, f"user-{number}") for number in range(3)]

        refused = await front.poll(server.outside, "ann", front.channel)
        assert refused.problem() == (TOO_MANY, "limit")
        assert refused.headers["retry-after"] == "2"
        with pytest.raises(Refused) as handshake:
            await open_socket(server.outside.ws_url, {}, tokens.bearer(tokens.make_token("ann")))
        assert (handshake.value.status, handshake.value.code) == (TOO_MANY, "limit")

        assert await _from_another_address(server, ask) == 200
        streams[0].close()
        await eventually(lambda: _served(front, server), what="room for another one")
        for stream in streams:
            stream.close()


@run_async
async def test_of_one_address_no_more_requests_are_taken_than_allowed(
    front: Stage, nginx: Nginx, tmp_path: Path
) -> None:
    changes = {"rate=300r/s": "rate=1r/m", "burst=1000": "burst=2"}
    async with _like(tmp_path, nginx, changes) as server:
        statuses = [(await front.probe("/static/presence.js", server.outside)).status for _ in range(5)]

        assert statuses == [200, 200, 200, TOO_MANY, TOO_MANY]
        assert await _from_another_address(server, "/static/presence.js") == 200


@run_async
async def test_no_head_is_too_large_for_a_node_but_not_for_nginx(front: Stage, nginx: Nginx) -> None:
    bearer = tokens.bearer(tokens.make_token("ann"))
    statuses, before = [], len(nginx.log())
    for size in range(13_000, 17_000, 250):
        ask = f"/v1/events?channel={front.channel}&since={'x' * size}"
        headers = {**bearer, "Accept": "x" * size, "Cookie": "x" * 300}
        statuses.append((await request(nginx.url, "GET", ask, headers=headers)).status)

    assert set(statuses) == {400, 414}  # 400 is the node's word for such a `since`, and nginx's for such a head
    log = await eventually(lambda: len(seen := nginx.log()[before:]) == len(statuses) and seen)
    heard = [line.rpartition("/")[2] for line in log]
    assert set(heard) == {"400", "-"}, "a node hung up"
    assert heard[0] == "400"
    assert (await front.poll(nginx.outside, "ann", front.channel)).status == 200


@run_async
async def test_clients_come_in_over_tls_and_http_2(front: Stage, nginx: Nginx, tmp_path: Path) -> None:
    _make_certificate(tmp_path)
    async with _like(tmp_path, nginx, {}, certificates=tmp_path) as server:
        token = tokens.make_token("ann")
        ask = f"{server.tls_url}/v1/events?channel={front.channel}&token={token}"
        own = await _curl(tmp_path, "--http2", "--header", f"Origin: {server.tls_url}", ask)
        foreign = await _curl(tmp_path, "--http2", "--header", "Origin: https://elsewhere.example", ask)
        closed = await _curl(tmp_path, "--http2", f"{server.tls_url}/metrics")
        trust = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
        url = server.tls_url.replace("https", "wss") + f"/v1/ws?token={token}"
        async with connect(url, ssl=trust, proxy=None) as socket:
            assert '"welcome"' in str(await socket.recv())

    assert (own, foreign, closed) == ("2 200", "2 403", "2 404")
    assert "[warn]" not in server.written()
    assert token not in server.written()


# ---- below: helpers ----


@asynccontextmanager
async def _nginx(
    folder: Path, nodes: list[str], changes: Mapping[str, str] | None = None, *, name: str = "nginx", **more: Any
) -> AsyncIterator[Nginx]:
    server = await asyncio.to_thread(Nginx, folder / name, nodes, changes, **more)
    try:
        yield server
    finally:
        server.stop()


def _like(folder: Path, nginx: Nginx, changes: Mapping[str, str], **more: Any) -> Any:
    """An nginx before the same nodes, but for these changes."""
    return _nginx(folder, [node.url for node in nginx.nodes], changes, **more)


@asynccontextmanager
async def _upstreams(*answers: Any) -> AsyncIterator[list[str]]:
    """Servers in place of nodes; their URLs."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(await asyncio.start_server(a, "127.0.0.1", 0)) for a in answers]
        yield [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]


async def _stream(server: Nginx, ask: str, user: str) -> Exchange:
    headers = {**tokens.bearer(tokens.make_token(user)), "Accept": "text/event-stream"}
    exchange = await Exchange.open(server.url, "GET", ask, headers)
    await exchange.read_head()
    assert exchange.status == 200
    return exchange


async def _from_another_address(server: Nginx, ask: str) -> int:
    """The status for a client on 127.0.0.2."""
    reader, writer = await asyncio.open_connection(*server.address, local_addr=("127.0.0.2", 0))
    bearer = tokens.bearer(tokens.make_token("elsewhere"))["Authorization"]
    writer.write(f"GET {ask} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def _served(front: Stage, server: Nginx) -> bool:
    return (await front.poll(server.outside, "ann", front.channel)).status == 200


def _make_certificate(folder: Path) -> None:
    subject = ("-subj", "/CN=presence", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "server.key", "-out", "server.crt")
    command = [need_program("openssl"), "req", "-x509", *key, *subject]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


async def _curl(folder: Path, *arguments: str) -> str:
    """HTTP version and status of an answer over TLS."""
    shown = ("--silent", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}")
    command = [need_program("curl"), *shown, "--cacert", str(folder / "server.crt"), *arguments]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await done.communicate())[0].decode()
