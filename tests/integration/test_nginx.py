"""The nginx configuration, as it stands in nginx/, in front of two nodes and without stickiness."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from tests.support import tokens
from tests.support.clients import make_client
from tests.support.documents import ROOT
from tests.support.http import Refused, request
from tests.support.node import Node
from tests.support.programs import need_program
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async


class Nginx:
    """A running nginx whose configuration differs from the repository's in nothing but ports and paths."""

    def __init__(self, folder: Path, nodes: list[Node]) -> None:
        self.folder = folder
        port = _free_port()
        shutil.copytree(ROOT / "nginx", folder)
        ports = [port, *(urlsplit(node.url).port for node in nodes)]
        for path in folder.iterdir():
            text = path.read_text("utf-8").replace("/var/log/nginx", str(folder))
            for given, own in zip((8080, 8081, 8082), ports, strict=True):
                text = text.replace(f"127.0.0.1:{given}", f"127.0.0.1:{own}")
            path.write_text(text.replace("http {", "http {\n" + _temporary_paths(folder)))
        self.url = f"http://127.0.0.1:{port}"
        command = [need_program("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        # As root its workers would be nobody, who may not enter a test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        command += ["-g", f"daemon off; pid {folder}/pid; {user}"]
        with (folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(command, stderr=errors)
        self._wait(port)

    @property
    def node(self) -> Node:
        """What test clients take for a node: they only need its addresses."""
        return cast(Node, SimpleNamespace(url=self.url, ws_url=self.url.replace("http", "ws", 1), name="nginx"))

    def log(self) -> str:
        """What it has noted of requests."""
        return (self.folder / "presence.log").read_text()

    def stop(self) -> None:
        """End it, workers included."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def _wait(self, port: int) -> None:
        ends = time.monotonic() + 10
        while True:
            assert self.process.poll() is None and time.monotonic() < ends, (self.folder / "errors").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)


@pytest.fixture
def nginx(two_nodes: list[Node], tmp_path: Path) -> Iterator[Nginx]:
    """nginx before the module's two nodes."""
    server = Nginx(tmp_path / "nginx", two_nodes)
    yield server
    server.stop()


@run_async
async def test_joins_and_leaves_come_through_on_every_transport(stage: Stage, nginx: Nginx, transport: str) -> None:
    watcher = await stage.watcher(transport, nginx.node)
    bob = await stage.member("websocket", nginx.node, "bob")
    await watcher.event(stage.channel, "join", user="bob")

    await bob.drop()

    left = await watcher.event(stage.channel, "leave", user="bob")
    assert left["reason"] == "timeout"


@run_async
async def test_requests_of_one_session_reach_both_nodes_and_nothing_is_missed(stage: Stage, nginx: Nginx) -> None:
    ann = await stage.member("longpoll", nginx.node, "ann")

    for number in range(6):
        await stage.message(f"m{number}")
        await ann.event(stage.channel, "message", name=f"m{number}")

    served = {line.rsplit("node=", 1)[1].split("/")[0] for line in nginx.log().splitlines() if "/v1/events" in line}
    assert served == {urlsplit(node.url).netloc for node in stage.nodes}


@run_async
async def test_a_page_of_nginxs_own_address_may_connect_and_a_foreign_one_may_not(stage: Stage, nginx: Nginx) -> None:
    async def ask(origin: str) -> int:
        headers = {**tokens.bearer(tokens.make_token("ann")), "Origin": origin}
        query = {"channel": stage.channel}
        return (await request(nginx.url, "GET", "/v1/events", query=query, headers=headers)).status

    assert await ask(nginx.url) == 200
    assert await ask("http://elsewhere.example") == 403


@run_async
async def test_tokens_do_not_reach_nginxs_logs(stage: Stage, nginx: Nginx) -> None:
    token = tokens.make_token("ann")

    answer = await request(nginx.url, "GET", "/v1/events", query={"channel": stage.channel, "token": token})

    assert answer.status == 200
    await eventually(lambda: "/v1/events" in nginx.log())
    assert not [path for path in nginx.folder.iterdir() if path.is_file() and token in path.read_text("utf-8")]


@run_async
async def test_too_large_a_body_is_refused_by_the_node_in_json(stage: Stage, nginx: Nginx) -> None:
    answer = await stage.api("POST", "heartbeats", body=b" " * (1 << 20) + b"{}", node=nginx.node,
                             headers={"Content-Type": "application/json"})  # fmt: skip

    assert answer.problem() == (413, "too_large")


@run_async
async def test_only_the_api_and_the_browser_client_are_open_to_the_outside(stage: Stage, nginx: Nginx) -> None:
    statuses = [(await stage.probe(path, nginx.node)).status for path in ("/metrics", "/readyz", "/", "/dev/token")]

    assert statuses == [404] * 4
    assert (await stage.probe("/static/presence.js", nginx.node)).status == 200


@run_async
async def test_clients_go_on_when_one_of_the_nodes_dies(own_stage: Any, tmp_path: Path) -> None:
    stage = own_stage(nodes=2)
    nginx = await asyncio.to_thread(Nginx, tmp_path / "nginx", stage.nodes)
    try:
        watcher = await stage.watcher(node=stage.b)
        ann = await stage.member("longpoll", nginx.node, "ann")

        stage.a.kill()
        for number in range(4):
            await stage.message(f"m{number}", node=stage.b)
            await ann.event(stage.channel, "message", name=f"m{number}")

        assert not [event for event in await stage.log(node=stage.b) if event["type"] == "leave"]
        await _comes_back(nginx, "bob")
        await stage.fence(watcher)
    finally:
        nginx.stop()


async def _comes_back(nginx: Nginx, user: str) -> None:
    """A new connection finds the node that lives."""
    client = make_client("websocket", nginx.node, user)

    async def connected() -> bool:
        try:
            await client.connect()
        except (Refused, OSError):
            return False
        return True

    await eventually(connected)
    await client.drop()


def _temporary_paths(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
