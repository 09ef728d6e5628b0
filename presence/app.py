"""Runs one node from its start to its drain, with the embedded server where no Redis is named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from presence import logs
from presence.embedded import EmbeddedError, EmbeddedServer
from presence.errors import BadSetting
from presence.node import Node
from presence.settings import Settings, masked_url

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings) -> int:
    """Run one node until it is told to stop; returns the exit code."""
    logs.setup()
    embedded = None
    if not settings.redis_url:
        embedded = EmbeddedServer(settings.data_dir)
        try:
            embedded.start()
        except EmbeddedError as error:
            raise BadSetting(str(error)) from error
    try:
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            return runner.run(_run(settings, embedded.url if embedded else settings.redis_url))
    finally:
        if embedded is not None:
            embedded.stop()


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make


async def _run(settings: Settings, redis_url: str) -> int:
    node = Node(settings, redis_url)
    stopping = asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        starting = asyncio.get_running_loop().create_task(node.start())
        waiting = asyncio.get_running_loop().create_task(stopping.wait())
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            announce(node)
            tell_manager("READY=1")
            await waiting
            tell_manager("STOPPING=1")
            await node.drain()
        else:
            starting.cancel()
            await asyncio.wait([starting])
        waiting.cancel()
    finally:
        await node.stop()
        for number in STOP_SIGNALS:  # a second one must not turn a good end into a killed one
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
    return 0


def tell_manager(word: str) -> None:
    """Tell systemd how far this node is (`Type=notify`); who else starts it names no socket, and is told nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    where = "\0" + address[1:] if address.startswith("@") else address  # "@": in the abstract name space
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(word.encode(), where)


def announce(node: Node) -> None:
    """Print the ready line, and with --dev what to try."""
    host = f"[{node.settings.host}]" if ":" in node.settings.host else node.settings.host
    url = f"http://{host}:{node.port}"
    print(f"presence ready {url} node={node.name} redis={masked_url(node.redis_url)}", flush=True)
    if not node.settings.dev:
        return
    token = node.services.auth.make_token("ann", None, 3600)
    key = node.settings.api_keys[0]
    print(
        f"\n  open      {url}/?user=ann  and  {url}/?user=ben\n"
        f"  watch     curl -N -H 'Accept: text/event-stream' '{url}/v1/events?channel=lobby&token={token}'\n"
        f"  ask       curl -H 'Authorization: Bearer {key}' {url}/v1/channels/lobby/members\n"
        f"  api key   {key}\n",
        flush=True,
    )
