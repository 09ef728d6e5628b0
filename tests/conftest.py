"""Fixtures for all tests: a real Redis, real nodes on it, and a stage that ends whatever a test started."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.support.clients import TRANSPORTS
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage, StageMaker

LIVE_NODES = pytest.StashKey[list[Node]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the list of nodes whose logs belong to a failure."""
    config.stash[LIVE_NODES] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log tails of all nodes under a failed test."""
    report = yield
    if report.failed:
        for node in item.config.stash[LIVE_NODES]:
            report.sections.append((f"node {node.name or '?'} at {node.url or 'no address'}", node.tail()))
    return report


@pytest.fixture(params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    """Every transport in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis that all tests share which leave it as it is; they differ by key prefix."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def fresh_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be paused, killed or emptied."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def two_nodes(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Node]]:
    """Two nodes with short times on the shared Redis, for all tests that leave them running."""
    directory, prefix = tmp_path_factory.mktemp("nodes"), secrets.token_hex(4)
    launched = [Node.launch(directory, redis_server.url, key_prefix=prefix) for _ in range(2)]
    request.config.stash[LIVE_NODES].extend(launched)
    try:
        yield [node.ready() for node in launched]
    finally:
        _end(request.config, launched)


@pytest.fixture
def stage(two_nodes: list[Node], redis_server: RedisServer) -> Iterator[Stage]:
    """The shared two nodes, an unused channel, and clients that end with the test."""
    assert all(node.running for node in two_nodes), "an earlier test ended a node that all share"
    before = [len(node.complaints()) for node in two_nodes]
    yield Stage(two_nodes, redis_server)
    fresh = [node.complaints()[seen:] for node, seen in zip(two_nodes, before, strict=True)]
    assert not any(fresh), fresh


@pytest.fixture
def own_nodes(
    request: pytest.FixtureRequest, tmp_path: Path, fresh_redis: RedisServer
) -> Iterator[Callable[..., list[Node]]]:
    """A factory of nodes on a Redis of the test's own: `own_nodes(2, ttl_ms=1000)`."""
    started: list[Node] = []
    prefix = secrets.token_hex(4)

    def start(count: int = 2, **settings: Any) -> list[Node]:
        options = {"key_prefix": prefix, **settings}
        launched = [Node.launch(tmp_path, fresh_redis.url, **options) for _ in range(count)]
        started.extend(launched)
        request.config.stash[LIVE_NODES].extend(launched)
        return [node.ready() for node in launched]

    yield start
    if fresh_redis.running:
        fresh_redis.resume()
    _end(request.config, started)


@pytest.fixture
def own_stage(own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer) -> StageMaker:
    """A maker of stages on nodes and a Redis of the test's own: `own_stage(nodes=2, ttl_ms=1000)`."""
    return StageMaker(own_nodes, fresh_redis)


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """pytest-tornado's loop, made current in asyncio's way: Tornado's own `make_current` warns."""
    loop = IOLoop(make_current=False)
    asyncio.set_event_loop(loop.asyncio_loop)  # type: ignore[attr-defined]
    yield loop
    loop.run_sync(loop.asyncio_loop.shutdown_asyncgens)  # type: ignore[attr-defined]
    asyncio.set_event_loop(None)
    loop.close(all_fds=True)


def _end(config: pytest.Config, nodes: list[Node]) -> None:
    """Kill the nodes, then fail on anything in a log that no test expects."""
    for node in nodes:
        node.kill()
        config.stash[LIVE_NODES].remove(node)
    complaints = [f"{node.log.name}: {line}" for node in nodes for line in node.complaints()]
    assert not complaints, "\n".join(complaints)
