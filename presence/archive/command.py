"""What `presence archive` runs: one worker, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from presence import logs
from presence.archive.numbers import Numbers, Progress
from presence.archive.store import Store
from presence.archive.worker import QUEUE, Archivist, Terms
from presence.client import AsyncClient, PresenceError
from presence.errors import BadSetting
from presence.settings import Settings, masked_url

FILE = "archive.sqlite"
PARALLEL = 2  # connections to the database: one writes, one is there when it breaks

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """What the operator asked for. `server`: address of any node; `metrics_port` None: no page of metrics."""

    database: str
    server: str
    api_key: str
    metrics_host: str
    metrics_port: int | None
    terms: Terms


def make_task(
    settings: Settings,
    *,
    database: str | None,
    server: str | None,
    metrics_host: str,
    metrics_port: int | None,
    terms: Terms,
) -> Task:
    """What is not given comes from the settings. Raises BadSetting."""
    if not settings.api_keys:
        raise BadSetting("the worker needs a key of the server: set PRESENCE_API_KEYS to one that may write")
    return Task(
        database=database or settings.archive_url or default_database(settings.data_dir),
        server=_checked(server) if server else _own_server(settings),
        api_key=settings.api_keys[0],
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        terms=terms,
    )


def default_database(data_dir: Path) -> str:
    """The SQLite file where nothing else is said."""
    return f"sqlite:///{data_dir.absolute()}/{FILE}"


def run(task: Task) -> int:
    """Run one worker until SIGTERM or SIGINT; returns the exit code."""
    logs.setup()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would name every request
    store = Store(task.database, connections=PARALLEL)
    try:
        return asyncio.run(_run(task, store))
    except PresenceError as error:
        print(f"presence archive: the server at {masked_url(task.server)} refuses: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()


async def _run(task: Task, store: Store) -> int:
    numbers = Numbers()
    if task.metrics_port is not None:
        try:
            port = numbers.serve(task.metrics_host, task.metrics_port)
        except OSError as error:
            raise BadSetting(f"--metrics-port {task.metrics_port}: {error.strerror}") from None
        log.info("metrics_ready", url=f"http://{task.metrics_host}:{port}/metrics")
    # The worker is patient itself, and knows when to stop.
    async with AsyncClient(task.server, task.api_key, retries=0) as client:
        queue = client.queue(QUEUE)
        archivist = Archivist(queue, store, numbers, task.terms)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, archivist.stop)
        log.info("archive_starts", database=masked_url(task.database), server=masked_url(task.server))
        showing = asyncio.create_task(Progress(queue, numbers).run())
        try:
            await archivist.run()
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    log.info("archive_stopped", rows=numbers.total)
    return 0


def _checked(server: str) -> str:
    if not re.fullmatch(r"https?://[^\s@/?#]+(/[^\s@?#]*)?", server, re.IGNORECASE):
        raise BadSetting("--server must look like http://host:8080, without user and password: the key opens it")
    return server


def _own_server(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
