"""What the Python client repeats, how long, and what it leaves alone."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from presence import client
from presence.client import calls
from presence.client.errors import error_of
from presence.client.patience import Attempts, Patience
from tests.support.back_ends import KINDS, make_back_end
from tests.support.documents import ROOT
from tests.support.middle import Middle
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage

Pair = tuple[Middle, Any]


@pytest.fixture(params=KINDS)
def through(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Pair]:
    """A client whose requests go through the middle."""
    with Middle(stage.a.url) as middle, make_back_end(request.param, middle.url) as back_end:
        yield middle, back_end


def test_a_message_whose_answer_was_lost_is_sent_again_and_announced_once(stage: Stage, through: Pair) -> None:
    middle, back_end = through
    middle.lose = 2

    cursor = back_end.publish(stage.channel, "note", {"n": 1})
    assert len(middle.requests) == 3
    assert [event.cursor for event in back_end.history(stage.channel).events] == [cursor]


def test_what_is_safe_to_repeat_is_repeated(stage: Stage, through: Pair) -> None:
    middle, back_end = through
    queue = back_end.queue(stage.name("queue"))
    queue.create(channels=stage.channel)
    repeated: list[Callable[[], Any]] = [
        lambda: back_end.put_member(stage.channel, "ann"),
        lambda: back_end.heartbeats([(stage.channel, "ann")]),
        lambda: back_end.user("ann"),
        lambda: back_end.users(["ann"]),
        lambda: queue.take("one"),
        lambda: queue.ack("one", []),
        lambda: queue.status(),
    ]
    for call in repeated:
        middle.requests.clear()
        middle.lose = 1
        call()
        assert len(middle.requests) == 2, middle.requests


@pytest.mark.parametrize(
    ("method", "request_line"),
    [("disconnect", "POST /v1/users/ann/disconnect"), ("remove_member", "DELETE /v1/channels/{room}/members/ann")],
)
def test_who_came_back_is_not_taken_out_by_a_repetition(
    method: str, request_line: str, stage: Stage, through: Pair
) -> None:
    middle, back_end = through
    back_end.put_member(stage.channel, "ann")
    middle.requests.clear()
    middle.lose = 1

    with pytest.raises(client.Unreachable) as failed:
        getattr(back_end, method)(*([stage.channel] if method == "remove_member" else []), "ann")
    assert (failed.value.status, failed.value.code, failed.value.sent) == (0, "unreachable", True)
    assert middle.requests == [request_line.format(room=stage.channel)]


def test_connections_are_used_again(stage: Stage, through: Pair) -> None:
    middle, back_end = through
    for number in range(20):
        back_end.publish(stage.channel, "note", number)

    assert (len(middle.requests), middle.connections) == (20, 1)


@pytest.mark.parametrize("kind", ["threads"])
def test_calls_outlive_a_restart_of_the_server(kind: str, nodes_on: Callable[..., list[Node]], stage: Stage) -> None:
    (node,) = nodes_on(stage.redis.url, 1, drain_ms=0)
    port = int(node.url.rpartition(":")[2])
    with make_back_end(kind, node.url, retries=30) as back_end, ThreadPoolExecutor() as pool:
        back_end.put_member(stage.channel, "ann", ttl_ms=60_000)
        node.kill()
        asked = pool.submit(back_end.put_member, stage.channel, "ann")
        nodes_on(stage.redis.url, 1, port=port)

        assert asked.result(20).joined is False
        assert back_end.disconnect("ann") == 1


@pytest.mark.parametrize("kind", ["asyncio"])
def test_calls_outlive_a_redis_that_stands_still(
    kind: str, own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer
) -> None:
    (node,) = own_nodes(1)
    with make_back_end(kind, node.url) as back_end, ThreadPoolExecutor() as pool:
        back_end.publish("room", "note", 1)
        fresh_redis.pause()
        with make_back_end(kind, node.url, retries=0) as impatient, pytest.raises(client.Unavailable) as refused:
            impatient.publish("room", "note", 2)
        asked = pool.submit(back_end.publish, "room", "note", 3)
        time.sleep(1.0)  # so that it is refused, too
        fresh_redis.resume()

        assert (refused.value.status, refused.value.retry_after_s) == (503, 1.0)
        asked.result(20)
        assert [event.data for event in back_end.history("room").events if event.data != 2] == [1, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_there_is_given_up_in_time(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    began = time.monotonic()
    with (
        make_back_end(kind, nobody, retries=1000, retry_within_s=1.0) as back_end,
        pytest.raises(client.Unreachable) as failed,
    ):
        back_end.disconnect("ann")
    assert not failed.value.sent
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_does_not_come_is_not_waited_for(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with make_back_end(kind, url, timeout_s=0.2, retries=1) as back_end, pytest.raises(client.Unreachable):
            back_end.user("ann")


def answer(status: str, body: str, **headers: str) -> bytes:
    lines = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode()


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives these answers, one a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for text in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(text)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_says_how_long_to_wait(kind: str) -> None:
    busy = answer("429 Too Many Requests", "", **{"Retry-After": "1"})
    with answering(busy, answer("200 OK", "{}")) as url, make_back_end(kind, url) as back_end:
        began = time.monotonic()

        back_end.ack_inbox("ann", "room", "epoch:1")
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_proxy_says_is_an_error_like_others(kind: str) -> None:
    pages = [answer(status, "<html>") for status in ("502 Bad Gateway", "200 OK", "418 Teapot")]
    with answering(*pages) as url, make_back_end(kind, url, retries=0) as back_end:
        with pytest.raises(client.Unavailable):
            back_end.user("ann")
        for code in ("bad_answer", "http_418"):
            with pytest.raises(client.PresenceError) as failed:
                back_end.user("ann")
            assert failed.value.code == code


def test_pauses_grow_are_left_to_chance_and_end_in_time() -> None:
    patience = Patience(retries=50, within_s=60, first_s=0.1, longest_s=5)
    pauses = [[patience.pause_s(failures) for _ in range(200)] for failures in range(1, 12)]

    for failures, some in enumerate(pauses):
        most = min(5.0, 0.1 * 2**failures)
        assert 0 <= min(some) < 0.2 * most < 0.8 * most < max(some) <= most
    assert 7 <= patience.pause_s(1, retry_after_s=7) <= 7.1
    away = error_of(503, {"Retry-After": "61"}, b"")
    with pytest.raises(client.Unavailable):
        Attempts(calls.user("ann"), patience).pause_s(away)


def test_the_client_loads_nothing_of_the_server() -> None:
    names = "[name for name in sys.modules if name.split('.')[0] in ('presence', 'tornado', 'redis', 'jwt')]"
    command = [sys.executable, "-c", f"import sys, presence.client; print(*{names})"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert all(re.match(r"presence(\.client|$)", name) for name in loaded), loaded
    assert "presence.client" in loaded


def test_a_type_checker_knows_what_calls_take_and_give(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from presence.client import AsyncClient, Client\n"
        "one, other = Client('', ''), AsyncClient('', '')\n"
        "reveal_type(one.put_member('room', 'ann', info={'a': 1}))\n"
        "reveal_type(one.members('room'))\n"
        "reveal_type(one.queue('q').take('me', 10, lease_ms=5))\n"
        "async def main() -> None:\n"
        "    reveal_type(await other.publish('room', 'note', 1))\n"
        "    reveal_type(await other.queue('q').status())\n"
        "one.publish('room')\n"
        "one.queue('q').worker(print, concurency=8)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    revealed = [re.sub(r"[\w.]*\.", "", text) for text in re.findall(r'Revealed type is "(.*)"', told)]
    assert revealed == ["Put", "Iterator[Member]", "list[Event]", "str", "QueueStatus"], told
    assert ":9: error: Too few arguments" in told, told
    assert ":10: error: Unexpected keyword argument" in told, told
