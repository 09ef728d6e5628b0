"""Nodes behind nginx die and are upgraded: nobody is announced as gone, and nothing is missed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import WebSocketException

from tests.support import tokens
from tests.support.clients import TRANSPORTS, Client
from tests.support.clients.base import ABNORMAL, CommandError
from tests.support.http import Exchange, Refused, request
from tests.support.nginx import Nginx
from tests.support.node import Node
from tests.support.ports import free_ports
from tests.support.redis_server import RedisServer
from tests.support.stage import OwnStage, Stage, StageMaker
from tests.support.waiting import eventually, limited, run_async

SETTINGS = {"ttl_ms": 6000, "grace_ms": 2500, "ping_ms": 2000, "drain_ms": 400, "max_commands_per_second": 0}
TROUBLES = (CommandError, AssertionError, OSError, EOFError, WebSocketException, Refused)
PUBLISH_EVERY_S = 0.02
RETRY_S = 0.1


class Audience:
    """Members on every transport who come back whenever they are cut off, and a back end that publishes; all of them
    by way of nginx."""

    def __init__(self, stage: OwnStage, server: Nginx) -> None:
        self.stage = stage
        self.server = server
        self.members: list[Client] = []
        self.sent: list[str] = []
        self.refused = 0
        self.returns = 0
        self._over = asyncio.Event()

    async def play(self, trouble: Callable[[], Awaitable[None]], of_each: int = 1) -> None:
        """Seat them, let the trouble happen while they act, and judge: no leave, each message once and in order."""
        names = [(kind, f"{kind}-{number}") for kind in TRANSPORTS for number in range(of_each)]
        for kind, name in names:
            client = self.stage.sketch(kind, self.server.outside, name)
            client.ttl_ms = int(SETTINGS["ttl_ms"])
            await client.connect()
            await client.join(self.stage.channel)
            self.members.append(client)
        publishing = asyncio.create_task(self._publish())
        staying = [asyncio.create_task(self._stay(member)) for member in self.members]
        try:
            await trouble()
            self._over.set()
            await publishing
            await self._judge([name for _, name in names])
        finally:
            for task in [publishing, *staying]:
                task.cancel()
            done = await asyncio.gather(publishing, *staying, return_exceptions=True)
        assert [each for each in done if isinstance(each, Exception)] == []

    async def _publish(self) -> None:
        while not self._over.is_set():
            name, key = f"m{len(self.sent)}", {"Idempotency-Key": secrets.token_hex(8)}
            message = {"name": name, "data": None}
            path = ("channels", self.stage.channel, "messages")
            answer = await self.stage.api("POST", *path, json=message, headers=key, node=self.server.inside)
            if answer.status == 503:
                self.refused += 1
                answer = await eventually(lambda p=path, m=message, k=key: self._again(p, m, k), every_s=RETRY_S)  # type: ignore[misc]
            self.sent.append(name)
            await asyncio.sleep(PUBLISH_EVERY_S)

    async def _again(self, path: tuple[str, ...], message: dict[str, object], key: dict[str, str]) -> bool:
        answer = await self.stage.api("POST", *path, json=message, headers=key, node=self.server.inside)
        return answer.status == 200

    async def _stay(self, client: Client) -> None:
        while True:
            if client.closed is None:
                await asyncio.sleep(PUBLISH_EVERY_S)
                continue
            self.returns += 1
            try:
                await client.reconnect()
            except TROUBLES:
                client.closed = ABNORMAL
                await asyncio.sleep(RETRY_S)

    async def _judge(self, names: list[str]) -> None:
        channel = self.stage.channel
        await eventually(lambda: not self._behind(), 30, what="everybody to have seen the last message")
        for member in self.members:
            assert self._seen(member) == self.sent, f"{member!r} missed or repeated something"
            gone = member.events(channel, "leave")
            assert gone == [], "somebody was announced as gone"
        log = await eventually(lambda: self.stage.log(node=self.server.inside))
        assert [event for event in log if event["type"] == "leave"] == []
        assert sorted(await self.stage.roster(node=self.server.inside)) == sorted(names)

    def _behind(self) -> list[Client]:
        behind = [member for member in self.members if self._seen(member)[-1:] != self.sent[-1:]]
        assert not behind, behind[:3]
        return behind

    def _seen(self, member: Client) -> list[str]:
        return [event["name"] for event in member.events(self.stage.channel, "message")]


@run_async
@limited(90)
async def test_killing_a_node_and_upgrading_all_in_their_places_is_no_leave_and_loses_nothing(
    own_stage: StageMaker, tmp_path: Path
) -> None:
    """As docs/nodes.md says: one node after the other is drained, ends and is started again on its port."""
    async with _audience(own_stage, tmp_path) as audience:

        async def kill_and_upgrade() -> None:
            await _some_are_sent(audience, 15)
            audience.stage.a.kill()
            await _some_are_sent(audience, 30)
            await _start_at(audience.stage, urlsplit(audience.stage.a.url).port)
            await _restart_each(audience)

        await audience.play(kill_and_upgrade)
        assert audience.returns >= 2 * len(TRANSPORTS) - 1, "the nodes had no clients"


@pytest.mark.long
@run_async
@limited(90)
async def test_an_upgrade_to_new_nodes_by_a_reload_is_no_leave_and_loses_nothing(
    own_stage: StageMaker, tmp_path: Path
) -> None:
    """As docs/nodes.md says: new nodes are started, nginx is told of them, and only then the old ones are drained."""
    async with _audience(own_stage, tmp_path, nodes=2) as audience:

        async def replace_all() -> None:
            old = list(audience.stage.nodes)
            new = await asyncio.gather(*(audience.stage.start_node() for _ in old))
            for was, now in zip(old, new, strict=True):
                audience.server.change(urlsplit(was.url).netloc, urlsplit(now.url).netloc)
            await asyncio.to_thread(audience.server.reload)
            await _some_are_sent(audience, 5)
            assert await asyncio.gather(*(asyncio.to_thread(node.stop) for node in old)) == [0] * len(old)
            await _some_are_sent(audience, 5)

        await audience.play(replace_all)
        assert audience.refused == 0, "a back end was refused"


@run_async
async def test_a_node_takes_no_connection_before_it_can_serve(fresh_redis: RedisServer, tmp_path: Path) -> None:
    """Else a proxy would take it for one that answers, and let requests wait there."""
    fresh_redis.client().execute_command("ACL", "SETUSER", "default", "-subscribe")
    (port,) = free_ports(1)
    node = Node.launch(tmp_path, fresh_redis.url, port=port)
    try:
        await eventually(lambda: "subscription_lost" in node.log.read_text())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

        fresh_redis.client().execute_command("ACL", "SETUSER", "default", "+subscribe")
        await asyncio.to_thread(node.ready)
        assert (await request(node.url, "GET", "/readyz")).status == 200
    finally:
        node.kill()


@run_async
async def test_who_is_closed_at_the_end_of_a_drain_cannot_come_back_to_that_node(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, drain_ms=300)
    ann = await stage.member("websocket", stage.a, "ann")
    bob = await stage.member("websocket", stage.a, "bob")
    bob.freeze()  # so that the node waits for the end of his connection, too

    stage.a.terminate()

    assert await ann.until_closed() == 4200
    with pytest.raises(OSError):
        await ann.reconnect()
    assert stage.a.running


@run_async
async def test_a_change_under_way_when_a_drain_ends_is_answered_and_its_connection_not_used_again(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=1, drain_ms=300)
    stage.redis.pause()
    headers = {**tokens.bearer(tokens.API_KEY), "Content-Type": "application/json", "Connection": "keep-alive"}
    change = await Exchange.open(stage.a.url, "PUT", "/v1/channels/room/members/ann", headers, b"{}")
    await asyncio.sleep(0.1)

    stage.a.terminate()
    await eventually(lambda: "draining" in stage.a.log.read_text())
    await asyncio.sleep(0.2)
    stage.redis.resume()

    answer = await change.whole()
    assert answer.status in (200, 503)
    assert answer.headers["connection"] == "close"


@run_async
async def test_when_all_nodes_were_passed_over_they_are_asked_all_the_same(tmp_path: Path) -> None:
    """One after the other was restarted, quicker than nginx forgets that it was away."""
    port, other = free_ports(2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        writer.close()

    nodes = [f"http://127.0.0.1:{number}" for number in (port, other)]
    server = await asyncio.to_thread(Nginx, tmp_path / "nginx", nodes)
    try:
        assert (await request(server.outside.url, "GET", "/v1/events")).status == 503
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            assert (await request(server.outside.url, "GET", "/v1/events")).status == 200
    finally:
        server.stop()


@run_async
async def test_a_change_that_no_node_got_is_made_by_another_one(front: Stage, nginx: Nginx, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    gone, node = f"http://127.0.0.1:{port}", nginx.nodes[0].url
    server = await asyncio.to_thread(Nginx, tmp_path / "nginx", [gone, node])
    try:
        member = ("channels", front.channel, "members", "ann")
        answers = [await front.api(method, *member, json={}, node=server.inside) for method in ("PUT", "DELETE") * 2]
    finally:
        server.stop()

    assert [answer.json().get("joined", answer.json().get("left")) for answer in answers] == [True] * 4


@pytest.mark.long
@run_async
@limited(240)
async def test_upgrades_reloads_and_kills_under_load_are_no_leave_and_lose_nothing(
    own_stage: StageMaker, tmp_path: Path
) -> None:
    async with _audience(own_stage, tmp_path) as audience:

        async def everything() -> None:
            for _ in range(3):
                await _restart_each(audience)
                await asyncio.to_thread(audience.server.reload)
                port = urlsplit(audience.stage.a.url).port
                audience.stage.a.kill()
                await _some_are_sent(audience, 20)
                await _start_at(audience.stage, port)

        await audience.play(everything, of_each=15)


@asynccontextmanager
async def _audience(own_stage: StageMaker, folder: Path, nodes: int = 3) -> AsyncIterator[Audience]:
    stage = own_stage(nodes=nodes, **SETTINGS)
    server = await asyncio.to_thread(Nginx, folder / "nginx", [node.url for node in stage.nodes])
    try:
        yield Audience(stage, server)
    finally:
        server.stop()


async def _restart_each(audience: Audience) -> None:
    for old in list(audience.stage.nodes):
        await _some_are_sent(audience, 10)
        assert await asyncio.to_thread(old.stop) == 0
        await _start_at(audience.stage, urlsplit(old.url).port)


async def _start_at(stage: OwnStage, port: int | None) -> None:
    await stage.start_node(port=port)
    stage.nodes = [node for node in stage.nodes if node.running]


async def _some_are_sent(audience: Audience, count: int) -> None:
    goal = len(audience.sent) + count
    await eventually(lambda: len(audience.sent) >= goal, 30, what=f"{count} more messages")
