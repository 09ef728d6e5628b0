"""Fixtures of the tests in a real browser: one Chromium for a module's tests, one connection to it for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.scene import Scene
from tests.conftest import LIVE_NODES, end_nodes
from tests.support.browser import Browser, Chromium, artifacts_folder
from tests.support.front import Front
from tests.support.node import Node
from tests.support.redis_server import RedisServer

PATIENT = {"ttl_ms": 20_000, "grace_ms": 4000, "ping_ms": 2500}
"""So much time has a page to come back, on a busy machine, too; and what comes before the ttl comes by the grace."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium that the tests of a module share."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as process:
        yield process


@pytest.fixture
def browser(chromium: Chromium, tmp_path: Path) -> Browser:
    """The test's own connection and profiles; its pages end with it, and their uncaught errors fail it."""
    return Browser(chromium, artifacts_folder(tmp_path))


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Front]:
    """Another origin, which the nodes allow; only the page is there."""
    with Front() as front:
        front.policy = "default-src 'self' http://127.0.0.1:* ws://127.0.0.1:*; img-src data:"
        yield front


@pytest.fixture(scope="session")
def patient_nodes(
    redis_server: RedisServer,
    elsewhere: Front,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[list[Node]]:
    """Two nodes that all tests share which leave them running."""
    settings = {**PATIENT, "key_prefix": secrets.token_hex(4), "allowed_origins": elsewhere.url}
    folder = tmp_path_factory.mktemp("patient-nodes")
    nodes = [Node.launch(folder, redis_server.url, **settings) for _ in range(2)]
    request.config.stash[LIVE_NODES].extend(nodes)
    yield [node.ready() for node in nodes]
    end_nodes(request.config, nodes)


@pytest.fixture
def scene(patient_nodes: list[Node], redis_server: RedisServer, browser: Browser) -> Scene:
    """An unused channel on nodes with a long ttl, and a browser."""
    return Scene(patient_nodes, redis_server, Front(patient_nodes), browser)


@pytest.fixture
def quick_scene(two_nodes: list[Node], redis_server: RedisServer, browser: Browser) -> Scene:
    """The same on nodes with a ttl of 2 s."""
    return Scene(two_nodes, redis_server, Front(two_nodes), browser)
