"""Workers of the archive under test, started as an operator starts them: `python -m presence archive`."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from presence.client import AsyncClient, Unavailable
from tests.support import tokens
from tests.support.clients import Frame
from tests.support.databases import die_with_parent, execute
from tests.support.node import ROOT, Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import eventually, wait_until


class ArchiveWorker:
    """A running (or ended) worker process."""

    def __init__(self, folder: Path, node: Node, database: str, *arguments: str) -> None:
        self.log = folder / f"archive-{len(list(folder.glob('archive-*.log'))) + 1}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PRESENCE_")}
        environment |= {"PRESENCE_API_KEYS": tokens.API_KEY, "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "presence", "archive", "--server", node.url, "--database", database, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    def says(self, event: str) -> bool:
        """Whether it has logged that event."""
        return re.search(rf"\b{event}\b", self.text()) is not None

    def text(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")

    def ready(self) -> ArchiveWorker:
        """Wait until the queue is there."""
        wait_until(lambda: self.says("archive_ready") or self.ended(), "archive_ready", 20)
        assert not self.ended(), self.text()
        return self

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def pause(self) -> None:
        """Freeze it."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the freeze."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, also a frozen one."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Tell it to go; its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def complaints(self) -> list[str]:
        """Log lines that no test expects."""
        words = ("Traceback", "was never retrieved", "never awaited")
        return [line for line in self.text().splitlines() if any(word in line for word in words)]


def rows(database: str, **wanted: Any) -> list[dict[str, Any]]:
    """The archived rows, as an operator reads them; names as texts also where they are bytes."""
    where = " AND ".join(f"{name} = '{value}'" for name, value in wanted.items()) or "1 = 1"
    found = execute(database, f"SELECT * FROM ended_presences WHERE {where} ORDER BY generation")
    return [
        {name: value.decode() if isinstance(value, bytes) else value for name, value in row._mapping.items()}
        for row in found
    ]


def count(database: str, channel: str) -> int:
    """How many rows of the channel there are; 0 also before the table is there."""
    try:
        return len(rows(database, channel=channel))
    except Exception:
        return 0


class ArchiveStage(Stage):
    """A stage whose nodes look into a database, and workers that fill it."""

    def __init__(self, nodes: list[Node], redis: RedisServer, prefix: str, database: str, folder: Path) -> None:
        super().__init__(nodes, redis)
        self.database = database
        self.prefix = prefix
        self.workers: list[ArchiveWorker] = []
        self._folder = folder
        self._departing: asyncio.Task[None] | None = None

    def work(self, *arguments: str, database: str = "") -> ArchiveWorker:
        """One more worker. It ends with the test."""
        self.workers.append(ArchiveWorker(self._folder, self.a, database or self.database, *arguments))
        return self.workers[-1]

    async def enter(self, user: str, ttl_ms: int = 60_000, **body: Any) -> None:
        """A back end makes the user a member."""
        body["ttl_ms"] = ttl_ms
        await self.ask("PUT", "channels", self.channel, "members", user, json=body)

    async def go(self, user: str) -> None:
        """A back end ends it."""
        assert (await self.ask("DELETE", "channels", self.channel, "members", user))["left"]

    async def come_and_go(self, users: Sequence[str], state: Any = None) -> None:
        """All of them come and leave, many at once."""
        async with AsyncClient(self.a.url, tokens.API_KEY, connections=20) as client:
            turns = asyncio.Semaphore(20)

            async def one(user: str) -> None:
                async with turns:
                    await client.put_member(self.channel, user, state=state, ttl_ms=60_000)
                    await self._remove(client, user)

            await asyncio.gather(*map(one, users))

    async def _remove(self, client: AsyncClient, user: str) -> None:
        """As a back end must, say it again while Redis cannot be asked: the first time may have done it."""
        unsure = False
        while True:
            try:
                assert await client.remove_member(self.channel, user) or unsure
                return
            except Unavailable:
                unsure = True
                await asyncio.sleep(0.2)

    def depart(self, users: Sequence[str]) -> asyncio.Task[None]:
        """The same in the background; it ends with the test."""
        self._departing = asyncio.get_running_loop().create_task(self.come_and_go(users))
        return self._departing

    async def archived(self, number: int, within_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait for that many rows of the channel; they are one for each (channel, user, generation)."""
        await eventually(lambda: count(self.database, self.channel) >= number, within_s, 0.1, what=f"{number} rows")
        found = rows(self.database, channel=self.channel)
        assert len(found) == number
        assert len({(row["channel"], row["user_id"], row["generation"]) for row in found}) == number
        return found

    async def settled(self, within_s: float = 20.0) -> Frame:
        """Wait until the queue has nothing more; how it stands."""

        async def look() -> Frame | None:
            standing = await self.standing()
            return standing if standing["waiting"] == standing["in_flight"] == 0 else None

        return dict(await eventually(look, within_s, 0.05, what="an empty queue"))

    async def standing(self) -> Frame:
        """The queue in numbers."""
        return dict(await self.ask("GET", "queues", "archive"))

    async def last_seen(self, user: str) -> int | None:
        """What a back end is told."""
        answer = await self.ask("GET", "users", user)
        return None if answer["last_seen"] is None else int(answer["last_seen"])

    def forget(self, *kinds: str) -> int:
        """Delete keys of these kinds, as their expiry would."""
        client = self.redis.client()
        keys = [key for kind in kinds for key in client.scan_iter(f"{self.prefix}:*:{kind}:*", count=1000)]
        return int(client.delete(*keys)) if keys else 0

    async def aclose(self) -> None:
        """End all clients and workers."""
        await super().aclose()
        if self._departing is not None:
            self._departing.cancel()
            await asyncio.gather(self._departing, return_exceptions=True)
        for worker in self.workers:
            worker.kill()

    def verify(self) -> None:
        """As `Stage.verify`; and no worker may have met what nobody expects."""
        super().verify()
        complaints = [line for worker in self.workers for line in worker.complaints()]
        assert not complaints, "\n".join(complaints)


class ArchiveStages:
    """Makes stages on the shared Redis, each with a deployment of its own: `archive_stage(database, ttl_ms=1000)`."""

    def __init__(self, start: Callable[..., list[Node]], redis: RedisServer, folder: Path) -> None:
        self._start = start
        self._redis = redis
        self._folder = folder
        self._made: list[ArchiveStage] = []

    def __call__(self, database: str, nodes: int = 1, **settings: Any) -> ArchiveStage:
        """Start nodes; `archive_url` is the database unless something else is said."""
        prefix = secrets.token_hex(4)
        options = {"key_prefix": prefix, "archive_url": database, "partitions": 4, **settings}
        made = self._start(self._redis.url, nodes, **options)
        self._made.append(ArchiveStage(made, self._redis, prefix, database, self._folder))
        return self._made[-1]

    async def aclose(self) -> None:
        """End all clients and workers of all stages."""
        for stage in self._made:
            await stage.aclose()

    def verify(self) -> None:
        """As `ArchiveStage.verify`, for all stages."""
        for stage in self._made:
            stage.verify()
