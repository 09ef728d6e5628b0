"""The stage of hostile tests: a channel that must stay as it is, ways to send what no proper client sends, clean logs.

Every bad input carries MARK where it can, so that a log that repeats input is found out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import tokens
from tests.support.clients import Client, Frame, WebSocketClient
from tests.support.clients.http_client import HttpClient
from tests.support.http import Exchange, Response, request
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage

MARK = "zqhostilezq"
JSON = {"Content-Type": "application/json"}
STREAM = {"Accept": "text/event-stream"}
OK = (200, "ok")

Answer = tuple[int, str]


class Arena(Stage):
    """A stage with a resident whose channel nothing that is refused may change."""

    resident = "resident"

    def __init__(self, nodes: list[Node], redis: RedisServer) -> None:
        super().__init__(nodes, redis)
        self._logged = [len(_log(node)) for node in nodes]

    async def settle(self) -> None:
        """Make the channel and remember how it looks."""
        body = {"state": {"n": 1}, "info": {"kept": True}, "ttl_ms": 600_000}
        await self.ask("PUT", "channels", self.channel, "members", self.resident, json=body)
        self._picture = await self.picture()

    async def picture(self) -> Any:
        """Roster and cursor of the channel."""
        return await self.ask("GET", "channels", self.channel, "members")

    async def untouched(self) -> None:
        """Fail when roster or cursor have changed, or the server does not answer."""
        assert await self.picture() == self._picture

    def verify(self) -> None:
        """As a stage; and no log names an error, a key, a token or what a client sent."""
        super().verify()
        for node, logged in zip(self.nodes, self._logged, strict=True):
            assert node.running, node.tail()
            log = _log(node)[logged:]
            assert " error " not in log and "Traceback" not in log, node.tail()
            for secret in (MARK, tokens.SECRET, tokens.OLD_SECRET, tokens.API_KEY, tokens.READ_KEY, "eyJ"):
                assert secret not in log, f"{secret} in the log:\n{node.tail()}"

    # -- ways in: each returns status and code, (200, "ok") where nothing was refused

    async def raw(self, target: str, *, method: str = "GET", node: Node | None = None, **options: Any) -> Response:
        """A request whose target goes out exactly as it is."""
        return await request((node or self.a).url, method, target, **options)

    async def post_text(
        self, text: bytes, *, user: str = "alice", session: str = "session-of-alice", kind: str = JSON["Content-Type"]
    ) -> Answer:
        """A body for POST /v1/commands; a single error reply counts as the answer."""
        headers = {**tokens.bearer(tokens.make_token(user)), "Content-Type": kind}
        answer = await self.raw(f"/v1/commands?session={session}", method="POST", headers=headers, body=text)
        if answer.status != 200:
            return answer.problem()
        replies = answer.json()
        refused = [reply for reply in replies if reply["type"] == "error"]
        return (200, refused[0]["code"]) if refused else OK

    async def api_text(self, method: str, target: str, text: bytes) -> Answer:
        """A back end's body as it is."""
        headers = {**tokens.bearer(tokens.API_KEY), **JSON}
        return problem_of(await self.raw(target, method=method, headers=headers, body=text))

    async def socket_text(self, client: WebSocketClient, text: bytes | str) -> str:
        """The code with which a WebSocket message is refused; the socket must answer a beat behind it."""
        await client.send_text(text)
        code = str((await client.expect("error"))["code"])
        assert (await client.beat())["type"] == "ok"
        return code

    async def head_of(self, node: Node, target: str, headers: Mapping[str, str], method: str = "GET") -> Exchange:
        """A request whose answer's head was read and nothing more."""
        exchange = await Exchange.open(node.url, method, target, headers)
        async with asyncio.timeout(5):
            await exchange.read_head()
        return exchange


def _log(node: Node) -> str:
    return node.log.read_text(errors="replace")


def problem_of(answer: Response) -> Answer:
    """Status and code of any answer."""
    return OK if answer.status in (200, 204) else answer.problem()


def fault_list(expected: Any, answers: Mapping[str, Any]) -> list[str]:
    """What answered otherwise than expected, in words."""
    return [f"{way}: {answer}, not {expected}" for way, answer in answers.items() if answer != expected]


def nested(levels: int, text: str = "1") -> str:
    """An object in an object … `levels` deep."""
    return '{"a":' * levels + text + "}" * levels


def memory_kb(node: Node, field: str = "VmRSS") -> int:
    """The node's resident memory."""
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")


async def metric(stage: Stage, name: str, node: Node | None = None) -> float:
    """The value of one series."""
    page = (await stage.probe("/metrics", node=node)).body.decode()
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + " "))


def compact(value: Any) -> str:
    """JSON as the server counts it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sized(size: int, character: str = "x") -> dict[str, str]:
    """An object of so many bytes as compact JSON."""
    room = size - len(compact({"k": ""}))
    width = len(character.encode())
    filled = {"k": character * (room // width) + "x" * (room % width)}
    assert len(compact(filled).encode()) == size
    return filled


async def refusals(client: Client, commands: Mapping[str, Frame]) -> dict[str, str]:
    """The code that each command is refused with ("" where it is not), in one request where the transport can."""
    if not isinstance(client, HttpClient):
        replies = [await client.send({"id": 1000 + at, **frame}) for at, frame in enumerate(commands.values())]
    else:
        answer = await client.post(json.dumps(list(commands.values())).encode())
        assert answer.status == 200, answer
        replies = answer.json()
    return {way: reply.get("code", "") for way, reply in zip(commands, replies, strict=True)}
