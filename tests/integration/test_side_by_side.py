"""Nodes of different versions on the same data: the schema number decides who may work there."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from presence.keys import SCHEMA
from tests.support.node import Node
from tests.support.redis_server import RedisServer


@pytest.mark.parametrize(("difference", "said"), [(1, "newer than"), (-1, "older than")])
def test_a_node_refuses_data_of_another_schema_and_says_what_to_do(
    redis_server: RedisServer, tmp_path: Path, difference: int, said: str
) -> None:
    prefix = secrets.token_hex(4)
    guard = f"{prefix}:{{p0}}:guard"
    redis_server.client().hset(guard, mapping={"schema": str(int(SCHEMA) + difference), "partitions": "16"})

    node = Node.launch(tmp_path, redis_server.url, key_prefix=prefix)

    assert node.wait() == 2
    message = node.tail()
    assert f"schema {int(SCHEMA) + difference}, {said} {SCHEMA}" in message
    assert "upgrade" in message or "PRESENCE_KEY_PREFIX" in message
    assert redis_server.client().hget(guard, "birth") is None, "it changed data that it does not understand"


def test_a_node_that_runs_goes_on_beside_one_that_was_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    prefix = secrets.token_hex(4)
    (tmp_path / "old").mkdir()
    running = Node.start(tmp_path / "old", redis_server.url, key_prefix=prefix)
    guard = f"{prefix}:{{p0}}:guard"
    assert redis_server.client().hget(guard, "schema") == SCHEMA.encode()

    redis_server.client().hset(guard, "schema", str(int(SCHEMA) - 1))  # as if the running one were older
    newer = Node.launch(tmp_path, redis_server.url, key_prefix=prefix)

    assert newer.wait() == 2
    assert running.stop() == 0
