"""The stage of a test: the nodes, an unused channel, the clients on it, and the back end's calls."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from tests.support import clients, tokens
from tests.support.clients import Client, Frame
from tests.support.http import Response, request
from tests.support.node import Node
from tests.support.redis_server import RedisServer


def path(*parts: str) -> str:
    """A path under /v1 whose parts are percent-encoded, so that names are taken literally."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class Stage:
    """Everything a scenario touches. Ended by `run_async`, which then fails on any breach of order a client saw."""

    def __init__(self, nodes: list[Node], redis: Any) -> None:
        self.nodes = nodes
        self.redis = redis
        self.channel = self.name("room")
        self.session = self.name("session")
        self.clients: list[Client] = []

    @property
    def a(self) -> Node:
        """The first node."""
        return self.nodes[0]

    @property
    def b(self) -> Node:
        """The second node."""
        return self.nodes[1]

    def name(self, word: str) -> str:
        """A name that no other test uses."""
        return f"{word}-{secrets.token_hex(4)}"

    def sketch(self, transport: str, node: Node, user: str, **options: Any) -> Any:
        """A client that is not connected yet, and ends with the test."""
        client = clients.make_client(transport, node, user, **options)
        self.clients.append(client)
        return client

    async def connect(self, transport: str, node: Node, user: str, **options: Any) -> Any:
        """A connected client that ends with the test."""
        client = self.sketch(transport, node, user, **options)
        await client.connect()
        return client

    async def poll(
        self,
        node: Node,
        user: str,
        *channels: str,
        session: str | None = None,
        since: str | None = None,
        wait: Any = None,
        as_: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One GET of /v1/events, written out: for what the client objects do by themselves."""
        query: list[tuple[str, Any]] = [("channel", channel) for channel in channels]
        more = {"session": session, "since": since, "wait": wait, "as": as_}
        query += [(name, value) for name, value in more.items() if value is not None]
        lines = {**tokens.bearer(token or tokens.make_token(user)), **(headers or {})}
        return await request(node.url, "GET", "/v1/events", query=query, headers=lines)

    async def command(
        self,
        node: Node,
        user: str,
        session: str | None,
        commands: Any = None,
        *,
        token: str | None = None,
        **options: Any,
    ) -> Response:
        """One POST to /v1/commands, written out."""
        query = {"session": session} if session is not None else None
        lines = {**tokens.bearer(token or tokens.make_token(user)), **options.pop("headers", {})}
        options["json_body"] = commands
        return await request(node.url, "POST", "/v1/commands", query=query, headers=lines, **options)

    async def member(
        self,
        transport: str,
        node: Node,
        user: str,
        *,
        channel: str = "",
        as_: str = "member",
        state: Frame | None = None,
        ttl_ms: int | None = None,
        **options: Any,
    ) -> Any:
        """A client that has joined the stage's channel (or another)."""
        client = await self.connect(transport, node, user, **options)
        await client.join(channel or self.channel, as_, state=state, ttl_ms=ttl_ms)
        return client

    async def watcher(self, transport: str = "websocket", node: Node | None = None) -> Client:
        """An observer of the stage's channel, on the second node unless told otherwise."""
        return await self.member(transport, node or self.nodes[-1], "watcher", as_="observer")

    async def api(
        self,
        method: str,
        *parts: str,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        node: Node | None = None,
        key: str | None = tokens.API_KEY,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Response:
        """A back end's call to the first node (or another); `key=None` leaves the key out."""
        lines = {**(tokens.bearer(key) if key else {}), **(headers or {})}
        url = (node or self.a).url
        return await request(url, method, path(*parts), query=query, headers=lines, json_body=json, **options)

    async def ask(self, method: str, *parts: str, **options: Any) -> Any:
        """A back end's call that must succeed; the answer's body."""
        response = await self.api(method, *parts, **options)
        assert response.status == 200, response
        assert response.headers["content-type"].startswith("application/json"), response
        return response.json()

    async def probe(self, target: str, node: Node | None = None, **options: Any) -> Response:
        """GET something that needs no key, by its whole path."""
        return await request((node or self.a).url, "GET", target, **options)

    async def roster(self, channel: str = "", node: Node | None = None) -> dict[str, Frame]:
        """The members of the channel as a back end sees them, by user."""
        answer = await self.ask("GET", "channels", channel or self.channel, "members", query={"limit": 1000}, node=node)
        return {member["user"]: member for member in answer["members"]}

    async def log(self, channel: str = "", node: Node | None = None) -> list[Frame]:
        """The channel's last events as a back end sees them."""
        answer = await self.ask("GET", "channels", channel or self.channel, "events", query={"limit": 1000}, node=node)
        return list(answer["events"])

    async def message(self, name: str, data: Any = None, channel: str = "", node: Node | None = None) -> str:
        """Publish as a back end; the message's cursor."""
        body = {"name": name, "data": data}
        answer = await self.ask("POST", "channels", channel or self.channel, "messages", json=body, node=node)
        return str(answer["cursor"])

    async def fence(self, *watchers: Client, channel: str = "") -> None:
        """Wait until all watchers are as far as a message that is sent now: behind everything announced before."""
        channel = channel or self.channel
        live = next(node for node in self.nodes if node.running)
        cursor = await self.message("fence", channel=channel, node=live)
        await asyncio.gather(*(watcher.reaches(channel, cursor) for watcher in watchers))

    async def aclose(self) -> None:
        """End all clients."""
        await asyncio.gather(*(client.drop() for client in self.clients))

    def verify(self) -> None:
        """Fail on everything that broke order, folding or frame shape for any client."""
        breaches = [breach for client in self.clients for breach in client.breaches()]
        assert not breaches, "\n".join(breaches)


class OwnStage(Stage):
    """A stage that can start further nodes, with the settings of the first."""

    def __init__(self, start: Callable[..., list[Node]], redis: Any, count: int, settings: Frame) -> None:
        super().__init__(start(count, **settings), redis)
        self._start = start
        self._settings = settings

    async def start_node(self, **more: Any) -> Node:
        """One more node. It dies with the pool thread that starts it, which lasts as long as the test's loop."""
        (node,) = await asyncio.to_thread(self._start, 1, **{**self._settings, **more})
        self.nodes.append(node)
        return node


class Makers:
    """Stages of a test's own, ended with it."""

    def __init__(self) -> None:
        self._made: list[OwnStage] = []

    def _keep(self, stage: OwnStage) -> OwnStage:
        self._made.append(stage)
        return stage

    async def aclose(self) -> None:
        """End all clients of all stages."""
        for stage in self._made:
            await stage.aclose()

    def verify(self) -> None:
        """As `Stage.verify`, for all stages."""
        for stage in self._made:
            stage.verify()


class StageMaker(Makers):
    """Makes stages on one Redis of the test's own."""

    def __init__(self, start: Callable[..., list[Node]], redis: RedisServer) -> None:
        super().__init__()
        self._start = start
        self._redis = redis

    def __call__(self, nodes: int = 2, **settings: Any) -> OwnStage:
        """Start nodes on the test's own Redis; settings as in `Node.launch`."""
        return self._keep(OwnStage(self._start, self._redis, nodes, settings))


class EngineStageMaker(Makers):
    """Makes stages on engines of the test's own; `make` starts an engine by its kind."""

    def __init__(self, start: Callable[..., list[Node]], make: Callable[[str], Any]) -> None:
        super().__init__()
        self._start = start
        self._make = make

    def __call__(self, kind: str, nodes: int = 2, **settings: Any) -> OwnStage:
        """Start an engine and nodes on it; settings as in `Node.launch`."""
        engine = self._make(kind)
        return self._keep(OwnStage(partial(self._start, engine.url), engine, nodes, settings))
