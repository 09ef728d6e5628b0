"""Back ends' clients under test: the one for threads, and the one for asyncio behind the same interface."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any, Self

from presence.client import AsyncClient, Client
from tests.support import tokens

KINDS = ("threads", "asyncio")


def make_back_end(kind: str, url: str, key: str = tokens.API_KEY, **options: Any) -> Any:
    """A client of that kind; used and closed like `presence.client.Client`."""
    if kind == "threads":
        return Client(url, key, **options)
    return Looped(url, key, options)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, coroutine: Any) -> Any:
        """The result of a coroutine that runs there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Looped:
    """An AsyncClient (or a queue of it) that is called from threads."""

    def __init__(self, url: str, key: str, options: dict[str, Any]) -> None:
        self._loop = Loop()
        self._inner: Any = self._loop.do(_made(url, key, options))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _called(self._loop, getattr(self._inner, name))

    def queue(self, group: str) -> LoopedQueue:
        """As `Client.queue`."""
        return LoopedQueue(self._loop, self._inner.queue(group))

    def close(self) -> None:
        """As `Client.close`."""
        self._loop.do(self._inner.aclose())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LoopedQueue:
    """An AsyncQueue that is called from threads."""

    def __init__(self, loop: Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _called(self._loop, getattr(self._inner, name))

    def worker(self, handle: Callable[[Any], object], **options: Any) -> LoopedWorker:
        """As `Queue.worker`: a plain handler is called in a thread."""

        async def handle_async(event: Any) -> None:
            await asyncio.to_thread(handle, event)

        return LoopedWorker(self._loop, self._inner.worker(handle_async, **options))


class LoopedWorker:
    """An AsyncWorker that is started, stopped and awaited from threads."""

    def __init__(self, loop: Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def wait(self) -> None:
        """As `Worker.wait`."""
        self._loop.do(self._inner.wait())

    def stop(self) -> None:
        """As `Worker.stop`."""
        self._loop.do(self._inner.stop())

    def __enter__(self) -> Self:
        self._loop.do(self._inner.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


async def _made(url: str, key: str, options: dict[str, Any]) -> AsyncClient:
    return AsyncClient(url, key, **options)


def _called(loop: Loop, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        return loop.do(_collected(result) if inspect.isasyncgen(result) else result)

    return call


async def _collected(items: Any) -> list[Any]:
    return [item async for item in items]
