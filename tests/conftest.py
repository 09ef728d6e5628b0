"""Fixtures for all tests: a real Redis, real nodes on it, and a stage that ends whatever a test started."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.support.clients import TRANSPORTS
from tests.support.deployments import OTHERS, PREFIX, STANDALONE, Deployments, Engine, start_engine
from tests.support.nginx import Nginx
from tests.support.node import Node
from tests.support.programs import need_program
from tests.support.redis_server import RedisServer
from tests.support.stage import EngineStageMaker, Stage, StageMaker

CONTRACT = re.compile("test_(p[0-9]+|endpoints)_")
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


def _marks(kind: str) -> list[pytest.MarkDecorator]:
    """Behind Sentinels works one Redis like any other: what is different there the failovers show."""
    return [pytest.mark.engines, *([pytest.mark.long] if kind == "sentinel" else [])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The contract suite (promises and endpoints on the shared nodes) runs on every engine."""
    if "engine_kind" in metafunc.fixturenames:
        contract = "stage" in metafunc.fixturenames and CONTRACT.match(metafunc.module.__name__.rpartition(".")[2])
        others = [pytest.param(kind, marks=_marks(kind)) for kind in OTHERS] if contract else []
        metafunc.parametrize(
            "engine_kind", [STANDALONE, *others], ids=str if contract else lambda kind: pytest.HIDDEN_PARAM
        )


@pytest.fixture(scope="session")
def deployments(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    """The engines and nodes that all tests share which leave them as they are."""
    made = Deployments(tmp_path_factory.mktemp, request.config.stash[LIVE_NODES].append)
    try:
        yield made
    finally:
        try:
            end_nodes(request.config, made.nodes())
        finally:
            made.stop()


@pytest.fixture(scope="session")
def redis_server(deployments: Deployments) -> RedisServer:
    """The Redis that all tests share which leave it as it is; they differ by key prefix."""
    server = deployments.engine(STANDALONE)
    assert isinstance(server, RedisServer)
    return server


@pytest.fixture
def fresh_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be paused, killed or emptied."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def two_nodes(deployments: Deployments, engine_kind: str) -> list[Node]:
    """Two nodes with short times on the shared engine, for all tests that leave them running."""
    return deployments.deployment(engine_kind).nodes


@pytest.fixture
def stage(two_nodes: list[Node], deployments: Deployments, engine_kind: str) -> Iterator[Stage]:
    """The shared two nodes, an unused channel, and clients that end with the test."""
    assert all(node.running for node in two_nodes), "an earlier test ended a node that all share"
    before = [len(node.complaints()) for node in two_nodes]
    yield Stage(two_nodes, deployments.engine(engine_kind))
    fresh = [node.complaints()[seen:] for node, seen in zip(two_nodes, before, strict=True)]
    assert not any(fresh), fresh


@pytest.fixture(scope="session")
def nginx(
    redis_server: RedisServer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    """nginx before three nodes of its own on the shared Redis (`nginx.nodes`), for tests that leave all as it is."""
    folder, prefix = tmp_path_factory.mktemp("behind-nginx"), PREFIX + secrets.token_hex(4)
    need_program("nginx")
    nodes = [Node.launch(folder, redis_server.url, key_prefix=prefix) for _ in range(3)]
    request.config.stash[LIVE_NODES].extend(nodes)
    server = Nginx(folder / "nginx", [node.ready().url for node in nodes])
    server.nodes = nodes
    yield server
    server.stop()
    end_nodes(request.config, nodes)


@pytest.fixture
def front(nginx: Nginx, redis_server: RedisServer) -> Stage:
    """The three nodes behind nginx, an unused channel, and clients that end with the test."""
    return Stage(nginx.nodes, redis_server)


@pytest.fixture
def nodes_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., list[Node]]]:
    """A factory of nodes that end with the test: `nodes_on(url, 2, ttl_ms=1000)`."""
    started: list[Node] = []
    prefix = PREFIX + secrets.token_hex(4)

    def start(url: str, count: int = 2, **settings: Any) -> list[Node]:
        options = {"key_prefix": prefix, **settings}
        launched = [Node.launch(tmp_path, url, **options) for _ in range(count)]
        started.extend(launched)
        request.config.stash[LIVE_NODES].extend(launched)
        return [node.ready() for node in launched]

    yield start
    end_nodes(request.config, started)


@pytest.fixture
def own_nodes(fresh_redis: RedisServer, nodes_on: Callable[..., list[Node]]) -> Iterator[Callable[..., list[Node]]]:
    """A factory of nodes on a Redis of the test's own: `own_nodes(2, ttl_ms=1000)`."""
    yield partial(nodes_on, fresh_redis.url)
    if fresh_redis.running:
        fresh_redis.resume()


@pytest.fixture
def engine_stage(tmp_path: Path, nodes_on: Callable[..., list[Node]]) -> Iterator[EngineStageMaker]:
    """A maker of stages on engines of the test's own: `engine_stage("cluster", nodes=2, ttl_ms=6000)`."""
    engines: list[Engine] = []

    def make(kind: str) -> Engine:
        engines.append(start_engine(kind, tmp_path / kind))
        return engines[-1]

    yield EngineStageMaker(nodes_on, make)
    for engine in engines:
        engine.stop()


@pytest.fixture
def own_stage(own_nodes: Callable[..., list[Node]], fresh_redis: RedisServer) -> StageMaker:
    """A maker of stages on nodes and a Redis of the test's own: `own_stage(nodes=2, ttl_ms=1000)`."""
    return StageMaker(own_nodes, fresh_redis)


@pytest.fixture(scope="session")
def databases() -> Iterator[Any]:
    """SQL servers that all tests share: `databases.of("postgresql").fresh()` is an empty database."""
    support = pytest.importorskip("tests.support.databases", reason="needs the extra `archive`", exc_type=ImportError)
    made = support.Databases()
    yield made
    made.stop()


@pytest.fixture(params=("sqlite", "postgresql", "mariadb"))
def database(databases: Any, request: pytest.FixtureRequest) -> str:
    """The address of an empty database, of every kind in turn."""
    return str(databases.of(request.param).fresh())


@pytest.fixture
def archive_stage(nodes_on: Callable[..., list[Node]], redis_server: RedisServer, tmp_path: Path) -> Any:
    """A maker of stages with an archive: `archive_stage(database, ttl_ms=1000)`."""
    support = pytest.importorskip("tests.support.archivist", reason="needs the extra `archive`", exc_type=ImportError)
    return support.ArchiveStages(nodes_on, redis_server, tmp_path)


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """pytest-tornado's loop, made current in asyncio's way: Tornado's own `make_current` warns."""
    loop = IOLoop(make_current=False)
    asyncio.set_event_loop(loop.asyncio_loop)  # type: ignore[attr-defined]
    yield loop
    loop.run_sync(loop.asyncio_loop.shutdown_asyncgens)  # type: ignore[attr-defined]
    asyncio.set_event_loop(None)
    loop.close(all_fds=True)


def end_nodes(config: pytest.Config, nodes: list[Node]) -> None:
    """Kill the nodes, then fail on anything in a log that no test expects."""
    for node in nodes:
        node.kill()
        config.stash[LIVE_NODES].remove(node)
    complaints = [f"{node.log.name}: {line}" for node in nodes for line in node.complaints()]
    assert not complaints, "\n".join(complaints)
