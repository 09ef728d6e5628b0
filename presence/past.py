"""What ended presences have left behind: when a user was last seen, and the state they had.

A leave lies in the queue `archive` until a worker has committed it to SQL, and only then leaves the queue. Before
changing it: so the queue is always asked first and SQL second; the other order could miss it in both.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from presence import codec
from presence.announcing import announcing
from presence.archive import open_store
from presence.directory import Directory, UserPresence
from presence.errors import Conflict, PresenceError, Unavailable
from presence.keys import Keys
from presence.logs import get
from presence.lua import Scripts
from presence.metrics import Metrics
from presence.settings import Settings

if TYPE_CHECKING:
    from presence.archive.store import Store

T = TypeVar("T")
R = TypeVar("R")
Place = tuple[str, str]  # channel, user

THREADS = 4
MOST_ASKED = 32  # questions on their way to the database
PATIENCE_MS = 1000
RESTORED_AT_ONCE = 100
MOST_RETURNED = 10_000
RESTORE_S = 60.0  # how long the archive is asked for the state of a user who returned
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

log = get(__name__)


class Past:
    """Looks into the queue and the archive; without PRESENCE_ARCHIVE_URL there is no past but the hot one."""

    def __init__(
        self, directory: Directory, scripts: Scripts, keys: Keys, settings: Settings, metrics: Metrics
    ) -> None:
        """Raises BadSetting where the database's driver is missing."""
        self._directory = directory
        self._scripts = scripts
        self._keys = keys
        self._settings = settings
        self._metrics = metrics
        self._store = _store(settings.archive_url)
        self._threads = ThreadPoolExecutor(THREADS, "archive") if self._store else None
        self._asked = 0
        self._returned: dict[Place, tuple[str, float]] = {}  # generation, and until when it is worth asking (monotonic)
        self._restoring: asyncio.Task[None] | None = None

    async def users(self, users: list[str]) -> list[UserPresence]:
        """Presence of each user, in the same order. Raises Unavailable where someone's past cannot be asked for."""
        found = await self._directory.users(users)
        forgotten = list(dict.fromkeys(each.user for each in found if each.last_seen is None))
        if not forgotten or self._store is None:
            return found
        seen = await self._recall(forgotten)
        try:
            archived = await self._ask(self._store.last_seen, forgotten)
        except Unavailable:
            if len(seen) < len(forgotten):
                raise
            archived = {}
        for user, moment in archived.items():
            seen[user] = max(moment, seen.get(user, 0))
        return [
            dataclasses.replace(each, last_seen=seen.get(each.user)) if each.last_seen is None else each
            for each in found
        ]

    def returned(self, channel: str, user: str, generation: str) -> None:
        """A user entered whose last state only the archive may know: it comes as an `update`, soon."""
        if self._store is None or len(self._returned) >= MOST_RETURNED:
            self._metrics.states_restored["given_up"].inc()
            return
        self._returned[channel, user] = generation, time.monotonic() + RESTORE_S
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.get_running_loop().create_task(self._restore(self._store))

    async def forget(self, user: str, scripts: Scripts) -> int:
        """Forget what Redis keeps of the user's presences that have ended, by these scripts; returns a generation that
        only later presences exceed. Raises Unavailable, Conflict where there is an archive that this node cannot
        reach."""
        numbers, can_reach = range(self._keys.partitions), 0 if self._store is None else 1
        replies = await asyncio.gather(
            *(scripts.call("forget", self._keys.script(number), (user, can_reach)) for number in numbers)
        )
        if any(reply[0] == b"archive" for reply in replies):
            raise Conflict("the queue `archive` exists; ask a node that has PRESENCE_ARCHIVE_URL")
        return max(int(reply[2]) for reply in replies)

    async def erase(self, user: str, scripts: Scripts) -> int:
        """As `forget`, and every row of the archive, also those that the queue still has; returns how many rows there
        were."""
        until, store = await self.forget(user, scripts), self._store
        return 0 if store is None else await self._ask(lambda name: store.erase(name, until), user)

    async def stop(self) -> None:
        """End what is under way; a question to the database ends by itself."""
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)
        if self._threads is not None and self._store is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._store.close()

    # ---- below: private ----

    async def _recall(self, users: list[str]) -> dict[str, int]:
        """What the queue has not given to the archive yet."""
        numbers = range(self._keys.partitions)
        replies = await asyncio.gather(*(self._scripts.call("recall", self._keys.script(n), users) for n in numbers))
        seen: dict[str, int] = {}
        for reply in replies:
            if reply[0] == b"settling":
                raise Unavailable("Redis has lost its data; presence is being gathered again", retry_ms=2000)
            for user, moment in zip(users, reply[1:], strict=True):
                if moment:
                    seen[user] = max(int(moment), seen.get(user, 0))
        return seen

    async def _restore(self, store: Store) -> None:
        pause_s, at_once = PAUSE_S, RESTORED_AT_ONCE
        while self._returned:
            batch = dict(itertools.islice(self._returned.items(), at_once))
            asked = [(channel, user, int(generation)) for (channel, user), (generation, _) in batch.items()]
            try:
                states = await self._ask(store.last_states, asked)
                await asyncio.gather(
                    *(self._promote(place, batch[place][0], old) for place, old in zip(batch, states, strict=True))
                )
            except Unavailable:
                self._give_up(batch)
                await asyncio.sleep(pause_s)
                # Of a database that is slow, fewer may be known in time.
                pause_s, at_once = min(2 * pause_s, LONGEST_PAUSE_S), max(1, at_once // 2)
                continue
            pause_s, at_once = PAUSE_S, min(2 * at_once, RESTORED_AT_ONCE)
            self._forget(batch)

    async def _promote(self, place: Place, generation: str, old: tuple[int, str] | None) -> None:
        channel, user = place
        partition = self._keys.partition(channel)
        state = _small(old[1]) if old else ""
        changed = await self._scripts.call(
            "promote",
            self._keys.script(partition),
            (
                *announcing(self._settings, self._keys, partition),
                *(channel, user, generation, old[0] if old else 0, state),
            ),
        )
        if changed[1]:
            self._metrics.events["update", ""].inc()
        self._metrics.states_restored["restored" if changed[1] else "none"].inc()

    def _give_up(self, batch: dict[Place, tuple[str, float]]) -> None:
        now = time.monotonic()
        old = {place: entry for place, entry in batch.items() if entry[1] < now}
        if old:
            self._metrics.states_restored["given_up"].inc(len(old))
            log.warning("states_not_restored", users=len(old), remedy="look after the archive's database")
        self._forget(old)
        for place in batch.keys() - old.keys():  # behind the others, who may have better luck
            if place in self._returned:
                self._returned[place] = self._returned.pop(place)

    def _forget(self, batch: dict[Place, tuple[str, float]]) -> None:
        for place, entry in batch.items():
            if self._returned.get(place) == entry:
                del self._returned[place]

    async def _ask(self, question: Callable[[T], R], argument: T) -> R:
        """Ask the database in a thread. Raises Unavailable where it does not answer in time."""
        from presence.archive.store import StoreAway

        if self._asked >= MOST_ASKED:
            raise self._no_answer("the archive has too much to do")
        self._asked += 1
        asking = asyncio.get_running_loop().run_in_executor(self._threads, question, argument)
        asking.add_done_callback(self._answered)
        try:
            async with asyncio.timeout(PATIENCE_MS / 1000):
                answer = await asyncio.shield(asking)
        except TimeoutError:
            raise self._no_answer("the archive did not answer in time") from None
        except StoreAway:
            raise self._no_answer("the archive cannot be asked") from None
        self._metrics.archive_reads["answered"].inc()
        return answer

    def _no_answer(self, why: str) -> Unavailable:
        self._metrics.archive_reads["failed"].inc()
        return Unavailable(why)

    def _answered(self, asking: asyncio.Future[Any]) -> None:
        self._asked -= 1
        if not asking.cancelled():
            asking.exception()  # an answer that came too late is nobody's


def _store(url: str) -> Store | None:
    return open_store(url, patience_ms=PATIENCE_MS, connections=THREADS) if url else None


def _small(text: str) -> str:
    """A state as it may come back, '' where it is none any more: others may write to that database, too."""
    with suppress(PresenceError):
        return codec.small_object(codec.decode_object(text.encode(), max_bytes=codec.MAX_OBJECT_BYTES), "state")
    return ""
