"""The handlers over pytest-tornado: a whole node in the test's own loop, on a real Redis, asked by Tornado's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.ioloop import IOLoop
from tornado.web import Application
from tornado.websocket import websocket_connect

from presence.handlers import make_application
from presence.node import Node
from presence.settings import Settings
from tests.support import tokens
from tests.support.redis_server import RedisServer

KEY = "handlers-key"
JSON = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@pytest.fixture
def node(io_loop: IOLoop, fresh_redis: RedisServer) -> Iterator[Node]:
    settings = Settings(
        port=0, redis_url=fresh_redis.url, token_secret=(tokens.SECRET,), api_keys=(KEY,), partitions=4, ttl_ms=5000
    )
    node = Node(settings, fresh_redis.url)
    io_loop.run_sync(node.start)
    yield node
    io_loop.run_sync(node.stop)


@pytest.fixture
def app(node: Node) -> Application:
    """What pytest-tornado serves."""
    return make_application(node.services)


async def ask(client: AsyncHTTPClient, url: str, method: str = "GET", **more: Any) -> tuple[HTTPResponse, Any]:
    response = await client.fetch(
        url, method=method, raise_error=False, headers=JSON, allow_nonstandard_methods=True, **more
    )
    return response, json.loads(response.body or b"null")


@pytest.mark.gen_test
async def test_a_node_is_healthy_and_ready(http_client: AsyncHTTPClient, base_url: str) -> None:
    for path in ("/healthz", "/readyz"):
        response, _ = await ask(http_client, base_url + path)

        assert response.code == 200


@pytest.mark.gen_test
async def test_a_put_member_is_in_the_roster_and_a_deleted_one_is_not(
    http_client: AsyncHTTPClient, base_url: str
) -> None:
    room = f"{base_url}/v1/channels/room"

    _, put = await ask(http_client, f"{room}/members/ann", "PUT", body='{"info":{"name":"Ann"}}')
    _, roster = await ask(http_client, f"{room}/members")
    _, gone = await ask(http_client, f"{room}/members/ann", "DELETE")
    _, empty = await ask(http_client, f"{room}/members")

    assert put["joined"] is True
    assert [(member["user"], member["info"]) for member in roster["members"]] == [("ann", {"name": "Ann"})]
    assert roster["cursor"] == put["cursor"]
    assert gone == {"left": True}
    assert empty["members"] == []


@pytest.mark.gen_test
async def test_an_error_is_a_problem_with_its_code(http_client: AsyncHTTPClient, base_url: str) -> None:
    cases = {
        ("GET", "/v1/nowhere"): (404, "not_found"),
        ("PATCH", "/v1/channels"): (405, "bad_request"),
        ("GET", "/v1/channels?limit=0"): (400, "bad_request"),
        ("GET", "/v1/channels/%00"): (400, "bad_name"),
        ("GET", "/v1/channels/@server"): (403, "forbidden"),
        ("GET", "/v1/events?channel=room"): (401, "unauthorized"),
    }
    for (method, path), expected in cases.items():
        response, problem = await ask(http_client, base_url + path, method)

        assert (response.code, problem["code"]) == expected, path
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.gen_test
async def test_a_websocket_is_welcomed_and_hears_of_a_back_ends_member(
    http_client: AsyncHTTPClient, base_url: str
) -> None:
    socket = await websocket_connect(f"{base_url.replace('http', 'ws')}/v1/ws?token={tokens.make_token('ann')}")
    welcome = json.loads(str(await socket.read_message()))
    await socket.write_message('{"type":"join","id":1,"channel":"room"}')
    joined = json.loads(str(await socket.read_message()))

    await ask(http_client, f"{base_url}/v1/channels/room/members/ben", "PUT", body="{}")
    heard = json.loads(str(await socket.read_message()))

    assert (welcome["type"], welcome["user"]) == ("welcome", "ann")
    assert [member["user"] for member in joined["members"]] == ["ann"]
    assert [(event["type"], event["user"]) for event in heard["events"]] == [("join", "ben")]
    socket.close()
