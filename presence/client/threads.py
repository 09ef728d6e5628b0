"""A worker for programs without a loop: handlers run in threads, all else in one thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from presence.client.answers import Event
from presence.client.asynchronous import AsyncClient
from presence.client.wire import Place
from presence.client.worker import AsyncWorker, Terms

_Errand = tuple[Event, "asyncio.Future[BaseException | None]"]


class Worker:
    """A worker whose handlers are plain functions, called from `concurrency` threads. `with` starts and stops it."""

    def __init__(self, place: Place, group: str, handle: Callable[[Event], object], terms: Terms) -> None:
        if inspect.iscoroutinefunction(handle):  # it would be acknowledged without ever having run
            raise TypeError("a coroutine as handler needs the worker of an AsyncClient")
        self._place = place
        self._group = group
        self._handle = handle
        self._terms = terms
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: AsyncWorker | None = None
        self._thread: threading.Thread | None = None
        self._asked_to_stop = False  # also before there is a worker to be told
        self._started = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to take events."""
        if self._thread is None:
            self._thread = _thread(self._main, "presence-worker")
            self._started.wait()

    def stop(self) -> None:
        """Take nothing more, let running handlers end, give back what was not begun; raises what ended the worker."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join()
        self._raise()

    def ask_to_stop(self) -> None:
        """The same without waiting for it."""
        self._asked_to_stop = True
        if self._loop is not None and self._worker is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._worker.ask_to_stop)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the worker has ended; False if the time is over before. Raises PresenceError where the server refused
        for good."""
        ended = self._ended.wait(timeout_s)
        if ended:
            self._raise()
        return ended

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop; only in the main thread, as signals go there."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            self.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask_to_stop()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()
            self._ended.set()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Daemons: a handler that never ends must not keep the process from ending.
        for number in range(self._terms.concurrency):
            _thread(self._hand, f"presence-hand-{number}")
        try:
            async with AsyncClient.at(self._place) as client:
                self._worker = AsyncWorker(client, self._group, self._hand_over, self._terms)
                if self._asked_to_stop:
                    self._worker.ask_to_stop()
                self._started.set()
                await self._worker.work()
        finally:
            for _ in range(self._terms.concurrency):
                self._errands.put(None)

    async def _hand_over(self, event: Event) -> None:
        future: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._errands.put((event, future))
        error = await future
        if isinstance(error, Exception):
            raise error
        if error is not None:  # SystemExit, say: it is the handler's failure, not the end of this thread
            raise RuntimeError("the handler tried to end its thread") from error

    def _hand(self) -> None:
        while (errand := self._errands.get()) is not None:
            event, future = errand
            failure: BaseException | None = None
            try:
                self._handle(event)
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_resolve, future, failure)


def _resolve(future: asyncio.Future[BaseException | None], failure: BaseException | None) -> None:
    if not future.done():  # else the worker gave up waiting
        future.set_result(failure)


def _thread(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
