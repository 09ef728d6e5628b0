"""The client for threads: each call returns when the server has answered."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

import httpx

from presence.client import calls, queue_calls
from presence.client.answers import Event, Page
from presence.client.calls import Call
from presence.client.errors import PresenceError
from presence.client.patience import Attempts, Patience
from presence.client.threads import Worker
from presence.client.wire import Place, failure_of, meaning_of, problem_of
from presence.client.worker import Options, Terms

P = ParamSpec("P")
T = TypeVar("T")


class _Method(Generic[P, T]):
    """Makes a method of the client out of the function that describes its call."""

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe

    def __get__(self, client: Client, owner: type[Client]) -> Callable[P, T]:
        @wraps(self._describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.do(self._describe(*args, **kwargs))

        return method


class _Listing(Generic[P, T]):
    """The same for a list that comes in pages: an iterator over all of it."""

    def __init__(self, describe: Callable[P, Call[Page[T]]]) -> None:
        self._describe = describe

    def __get__(self, client: Client, owner: type[Client]) -> Callable[P, Iterator[T]]:
        @wraps(self._describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            call = self._describe(*args, **kwargs)
            page = client.do(call)
            yield from page
            while page.next is not None:
                page = client.do(call.after(page.next))
                yield from page

        return method


class _QueueMethod(Generic[P, T]):
    """The same for a call whose first argument is the name of the queue."""

    def __init__(self, describe: Callable[Concatenate[str, P], Call[T]]) -> None:
        self._describe = describe

    def __get__(self, queue: Queue, owner: type[Queue]) -> Callable[P, T]:
        describe: Callable[P, Call[T]] = partial(self._describe, queue.group)

        @wraps(self._describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return queue.client.do(describe(*args, **kwargs))

        vars(method)["__wrapped__"] = describe  # what `inspect` shows: without the queue's name
        return method


class Client:
    """A back end's client. It keeps connections open, may be used by many threads, and is closed by `close` or `with`.

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
        """Connect when first asked. `retries` further attempts, none of them later than `retry_within_s`; `verify`: as
        in httpx, how the server's certificate is checked. So many `connections`, so many calls at a time: others wait
        for their turn, and a `take` that waits holds one."""
        patience = Patience(retries, retry_within_s)
        self.place = Place(url, api_key, timeout_s, patience, verify, connections)
        self._http = httpx.Client(**self.place.options())

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

    def queue(self, group: str) -> Queue:
        """The work queue of this name, whether it exists or not."""
        return Queue(self, group)

    def do(self, call: Call[T]) -> T:
        """Make a call, again where that is safe and may help."""
        attempts = Attempts(call, self.place.patience)
        while True:
            try:
                return self.once(call)
            except PresenceError as error:
                time.sleep(attempts.pause_s(error))

    def once(self, call: Call[T]) -> T:
        """Make a call, once."""
        try:
            answer = self._http.request(**self.place.request(call))
        except httpx.TransportError as error:
            raise failure_of(error) from error
        problem = problem_of(answer)
        if problem is not None:
            raise problem
        return meaning_of(call, answer)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Queue:
    """A work queue: events of all channels, each handed out until somebody acknowledges it."""

    def __init__(self, client: Client, group: str) -> None:
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

    def worker(self, handle: Callable[[Event], object], **options: Unpack[Options]) -> Worker:
        """A worker that calls `handle` for each event, in `concurrency` (8) threads; `with` starts and stops it.

        The options are those of `Terms`.
        """
        return Worker(self.client.place, self.group, handle, Terms(**options))
