"""Runs the Lua scripts: the only way by which this server changes anything in Redis.

Calls made in one turn of the event loop travel together in one pipeline; the next pipeline leaves when the
answers to the one before are there. So the busier the node, the larger its batches, without a timer.
Scripts are never retried by the client library: a retried script would run twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

from presence.errors import Unavailable
from presence.logs import get

log = get(__name__)

PARTS = {
    "join": ("_announce", "_view"),
    "leave": ("_announce",),
    "set": ("_announce",),
    "publish": ("_announce",),
    "expire": ("_announce",),
    "snapshot": ("_view",),
    "touch": (),
    "close": (),
    "connect": (),
    "record": (),
    "release": (),
    "renew": (),
}
MAX_PIPELINE = 500
COMPLAIN_S = 1.0
MAX_WAITING = 20_000

Reply = Any  # nested lists of bytes and integers, as each script's header says


def read_script(name: str) -> str:
    """Text of a script with the parts that it needs before it."""
    folder = resources.files(__package__)
    texts = [(folder / f"{part}.lua").read_text("utf-8") for part in ("_prelude", *PARTS[name], name)]
    return "\n".join(texts)


class Script:
    """One script and the digest by which Redis knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = read_script(name)
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


class Scripts:
    """Calls scripts in batches over one client; every failure to ask is `Unavailable`."""

    def __init__(self, client: redis.asyncio.Redis, is_away: Callable[[], bool] = lambda: False) -> None:
        """`is_away`: whether it is known already that Redis does not answer; then nobody waits for it."""
        self._client = client
        self._is_away = is_away
        self._complained_at = -COMPLAIN_S
        self.away = False  # whether the last pipeline got no answer
        self._scripts = {name: Script(name) for name in PARTS}
        self._waiting: list[tuple[Script, Sequence[str], Sequence[str | int], asyncio.Future[Reply]]] = []
        self._sender: asyncio.Task[None] | None = None

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> asyncio.Future[Reply]:
        """Queue one call; the future has the script's reply, or raises Unavailable."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._is_away():
            future.set_exception(Unavailable("Redis cannot be asked right now; try again"))
            future.exception()  # an abandoned request is no unhandled error
            return future
        if len(self._waiting) >= MAX_WAITING:
            future.set_exception(Unavailable("too many requests are waiting for Redis"))
            return future
        self._waiting.append((self._scripts[name], keys, arguments, future))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())
        return future

    async def close(self) -> None:
        """Wait for the calls on their way."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_PIPELINE], self._waiting[MAX_PIPELINE:]
                try:
                    replies = await self._execute([(s, k, a) for s, k, a, _ in batch])
                    self.away = False
                except Exception as error:  # whatever it is: who waits must get an answer
                    self.away = True
                    # Whoever waits behind a Redis that does not answer has waited long enough, too.
                    batch, self._waiting = batch + self._waiting, []
                    replies = [error] * len(batch)
                self._settle(batch, replies)
        finally:
            self._sender = None

    async def _execute(self, calls: list[tuple[Script, Sequence[str], Sequence[str | int]]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for script, keys, arguments in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        replies = await pipeline.execute(raise_on_error=False)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # a script that Redis does not know did not run: sending its text cannot run it twice
            pipeline = self._client.pipeline(transaction=False)
            for at in unknown:
                script, keys, arguments = calls[at]
                pipeline.eval(script.text, len(keys), *keys, *arguments)
            for at, reply in zip(unknown, await pipeline.execute(raise_on_error=False), strict=True):
                replies[at] = reply
        return replies

    def _settle(self, batch: list[Any], replies: list[Any]) -> None:
        for (script, _, _, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                self._complain(script.name, reply)
                future.set_exception(Unavailable("Redis cannot be asked right now; try again"))
                future.exception()
            else:
                future.set_result(reply)

    def _complain(self, script: str, error: Exception) -> None:
        """One line a second tells as much as one for each of a thousand calls."""
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.warning("redis_refused", script=script, error=_short(error))


def _short(error: Exception) -> str:
    # A script error can quote its arguments: only its kind is for the log.
    return f"{type(error).__name__}: {re.split(r'[:,]', str(error))[0][:80]}"
