"""What the tests of the client play on: a stage, the front before its nodes, and tabs of a real browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from tests.support.browser import Browser, Page
from tests.support.clients import Frame
from tests.support.front import Front
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import eventually

TRANSPORTS = ("websocket", "sse", "longpoll")
SOON_S = 20.0
"""Long enough for a browser on a busy machine; nothing is expected to take so long."""


class Tab:
    """A tab with the test page in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def begin(self, key: str, **options: Any) -> None:
        """One more client in this page."""
        await self.page.run("window.begin", key, options)

    async def seen(self, key: str = "0") -> Any:
        """What the page was told, and how things stand for it."""
        return await self.page.run("(key) => JSON.parse(JSON.stringify(window.journals.get(key) ?? null))", key)

    async def until(self, right: Callable[[Any], Any], what: str, key: str = "0", within_s: float = SOON_S) -> Any:
        """What was seen when it first was right; a test shows all that was seen instead."""
        found: list[Any] = [None]

        async def look() -> bool:
            found[0] = await self.seen(key)
            assert found[0] is not None and right(found[0]), found[0]
            return True

        await eventually(look, within_s, 0.05, what=what)
        return found[0]

    async def hears(self, kind: str, key: str = "0", **fields: Any) -> Frame:
        """The first event of that kind with these fields."""
        wanted = {"type": kind, **fields}

        def there(seen: Any) -> bool:
            return any(wanted.items() <= event.items() for event in seen["events"])

        seen = await self.until(there, f"{wanted} is heard", key)
        return dict(next(event for event in seen["events"] if wanted.items() <= event.items()))

    async def joined(self, key: str = "0") -> Any:
        """Wait until the channel was joined."""
        return await self.until(lambda seen: seen["rosters"] or seen["refused"], "the channel is joined", key)

    async def roster(self, key: str = "0") -> dict[str, Frame]:
        """The members as the page has them; `sessions` is not folded."""
        ((_, members),) = (await self.seen(key))["rosters"]
        return {member["user"]: {**member, "sessions": 1} for member in members}

    def forgive(self, words: str) -> None:
        """Errors of the page that the test expects: there must be one."""
        expected = [error for error in self.page.errors if words in error]
        assert expected, self.page.errors
        self.page.errors = [error for error in self.page.errors if error not in expected]

    async def reload(self) -> None:
        """As a user reloads; returns when all channels are joined again."""
        await self.page.reload()
        await self.page.run("window.ready")


class Scene(Stage):
    """Ended by `run_async`, which fails on uncaught errors of a page."""

    def __init__(self, nodes: list[Node], redis: RedisServer, front: Front, browser: Browser) -> None:
        super().__init__(nodes, redis)
        self.front = front
        self.browser = browser

    async def tab(self, user: str, *transports: str, place: Frame | None = None, **options: Any) -> Tab:
        """A tab whose user has joined the channel; its `place` as in `busy_tab`."""
        return await self.busy_tab({"0": self.wish(user, *transports, **options)}, **place or {})

    def wish(self, user: str, *transports: str, **options: Any) -> Frame:
        """What a page is to begin for one client."""
        wish = {"user": user, "channel": self.channel, **options}
        return {**wish, "transports": transports} if transports else wish

    async def busy_tab(
        self, wishes: dict[str, Frame], *, url: str = "", beside: bool = False, profile: str = "", show: bool = False
    ) -> Tab:
        """A tab with several clients, by key; returns when all have joined, or were refused.

        It is in a browser of its own unless a `profile` is named. With `show` it lists the members for a user.
        """
        query = urlencode({"begin": json.dumps(wishes), **({"show": ""} if show else {})})
        name = profile or self.name("profile")
        page = await self.browser.open(f"{url or self.front.url}/page.html?{query}", profile=name, beside=beside)
        await page.run("window.ready")
        return Tab(page)

    async def tabs(self, prefix: str = "", **options: Any) -> dict[str, Tab]:
        """One tab for each transport, whose user is called as it is (behind `prefix`)."""
        opened = await asyncio.gather(*(self.tab(prefix + name, name, **options) for name in TRANSPORTS))
        return dict(zip(TRANSPORTS, opened, strict=True))

    async def history(self, kinds: str = "join leave update message") -> list[Frame]:
        """What was announced, but for fences."""
        events = await self.log(node=next(node for node in self.nodes if node.running))
        return [event for event in events if event["type"] in kinds.split() and event.get("name") != "fence"]

    async def leaves(self, count: int) -> dict[str, Frame]:
        """The leave of each user, when there are so many."""

        async def enough() -> list[Frame]:
            found = await self.history("leave")
            assert len(found) >= count, found
            return found

        found = await eventually(enough, SOON_S, 0.05, what=f"{count} leaves")
        leaves = {event["user"]: event for event in found}
        assert len(leaves) == len(found), found
        return leaves

    async def passes(self, ms: int) -> None:
        """Wait until so much time has passed for Redis."""
        began_ms = self.now_ms()
        await eventually(lambda: self.now_ms() > began_ms + ms, ms / 1000 + SOON_S, 0.05, what=f"{ms} ms have passed")

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, microseconds = self.redis.client().time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def aclose(self) -> None:
        """End the pages and clients."""
        await self.browser.aclose()
        self.front.close()
        await super().aclose()

    def verify(self) -> None:
        """Fail on what no test expects of pages and clients."""
        self.browser.verify()
        super().verify()
