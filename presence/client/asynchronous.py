"""The client for asyncio: the same calls as coroutines."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

import httpx

from presence.client import calls, queue_calls
from presence.client.answers import Event, Page
from presence.client.calls import Call
from presence.client.errors import PresenceError
from presence.client.patience import Attempts, Patience
from presence.client.wire import Place, failure_of, meaning_of, problem_of
from presence.client.worker import AsyncWorker, Options, Terms

P = ParamSpec("P")
T = TypeVar("T")


class _Method(Generic[P, T]):
    """Makes a method of the client out of the function that describes its call."""

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe

    def __get__(self, client: AsyncClient, owner: type[AsyncClient]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(self._describe)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.do(self._describe(*args, **kwargs))

        return method


class _Listing(Generic[P, T]):
    """The same for a list that comes in pages: an iterator over all of it."""

    def __init__(self, describe: Callable[P, Call[Page[T]]]) -> None:
        self._describe = describe

    def __get__(self, client: AsyncClient, owner: type[AsyncClient]) -> Callable[P, AsyncIterator[T]]:
        @wraps(self._describe)
        async def method(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            call: Call[Page[T]] | None = self._describe(*args, **kwargs)
            while call is not None:
                page = await client.do(call)
                for item in page:
                    yield item
                call = None if page.next is None else call.after(page.next)

        return method


class _QueueMethod(Generic[P, T]):
    """The same for a call whose first argument is the name of the queue."""

    def __init__(self, describe: Callable[Concatenate[str, P], Call[T]]) -> None:
        self._describe = describe

    def __get__(self, queue: AsyncQueue, owner: type[AsyncQueue]) -> Callable[P, Coroutine[Any, Any, T]]:
        describe: Callable[P, Call[T]] = partial(self._describe, queue.group)

        @wraps(self._describe)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await queue.client.do(describe(*args, **kwargs))

        vars(method)["__wrapped__"] = describe  # what `inspect` shows: without the queue's name
        return method


class AsyncClient:
    """A back end's client for one event loop. It keeps connections open; closed by `aclose` or `async with`.

    What is safe to repeat is repeated for a while when the server is away. Every call raises PresenceError.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_s: float = 10.0,
        retries: int = 5,
        retry_within_s: float = 30.0,
        verify: ssl.SSLContext | bool = True,
        connections: int = 10,
    ) -> None:
        """As `Client`."""
        self._open(Place(url, api_key, timeout_s, Patience(retries, retry_within_s), verify, connections))

    @classmethod
    def at(cls, place: Place) -> Self:
        """A client of the same server as another one."""
        client = cls.__new__(cls)
        client._open(place)
        return client

    put_member = _Method(calls.put_member)
    remove_member = _Method(calls.remove_member)
    heartbeats = _Method(calls.heartbeats)
    members = _Listing(calls.members)
    channel = _Method(calls.channel)
    channels = _Listing(calls.channels)
    history = _Method(calls.history)
    user = _Method(calls.user)
    users = _Method(calls.users)
    disconnect = _Method(calls.disconnect)
    publish = _Method(calls.publish)
    send = _Method(calls.send)
    subscribe = _Method(calls.subscribe)
    unsubscribe = _Method(calls.unsubscribe)
    inbox = _Method(calls.inbox)
    ack_inbox = _Method(calls.ack_inbox)
    erase_user = _Method(calls.erase_user)

    def queue(self, group: str) -> AsyncQueue:
        """The work queue of this name, whether it exists or not."""
        return AsyncQueue(self, group)

    async def do(self, call: Call[T]) -> T:
        """Make a call, again where that is safe and may help."""
        attempts = Attempts(call, self.place.patience)
        while True:
            try:
                return await self.once(call)
            except PresenceError as error:
                await asyncio.sleep(attempts.pause_s(error))

    async def once(self, call: Call[T]) -> T:
        """Make a call, once."""
        try:
            answer = await self._http.request(**self.place.request(call))
        except httpx.TransportError as error:
            raise failure_of(error) from error
        problem = problem_of(answer)
        if problem is not None:
            raise problem
        return meaning_of(call, answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _open(self, place: Place) -> None:
        self.place = place
        self._http = httpx.AsyncClient(**place.options())


class AsyncQueue:
    """A work queue: events of all channels, each handed out until somebody acknowledges it."""

    def __init__(self, client: AsyncClient, group: str) -> None:
        self.client = client
        self.group = group

    create = _QueueMethod(queue_calls.create)
    end = _QueueMethod(queue_calls.end)
    take = _QueueMethod(queue_calls.take)
    ack = _QueueMethod(queue_calls.ack)
    release = _QueueMethod(queue_calls.release)
    extend = _QueueMethod(queue_calls.extend)
    status = _QueueMethod(queue_calls.status)
    dead = _QueueMethod(queue_calls.dead)
    requeue = _QueueMethod(queue_calls.requeue)

    def worker(self, handle: Callable[[Event], Awaitable[object]], **options: Unpack[Options]) -> AsyncWorker:
        """A worker that awaits `handle` for each event, `concurrency` (8) at a time; `async with` starts and stops it.

        The options are those of `Terms`.
        """
        return AsyncWorker(self.client, self.group, handle, Terms(**options))
