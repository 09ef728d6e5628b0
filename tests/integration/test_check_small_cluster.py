"""`presence check` on a Cluster of one server: what it is taken for, and what its version lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from presence import examination
from tests.integration.test_check import problems
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A Cluster of one server that knows no sharded pub/sub, as before Redis 7.0."""
    config = {"rename-command": 'SPUBLISH ""'}
    with RedisCluster(tmp_path_factory.mktemp("old"), primaries=1, replicas=0, config=config) as running:
        yield running


def test_servers_without_sharded_announcements_are_a_warning(old: RedisCluster) -> None:
    url = f"redis+cluster://127.0.0.1:{old.servers[0].port}"

    found = problems(url)

    assert list(found) == ["not_sharded", "no_replica"]
    assert not any(problem.fatal for problem in found.values())


def test_an_address_that_names_two_clusters_is_fatal(old: RedisCluster, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "other", config={"cluster-enabled": "yes"}) as other:
        found = problems(f"redis+cluster://127.0.0.1:{old.servers[0].port},127.0.0.1:{other.port}")

    assert found["two_clusters"].fatal
    assert not found["cluster_down"].fatal


def test_a_cluster_without_slots_is_fatal(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "empty", config={"cluster-enabled": "yes"}) as empty:
        found = problems(f"redis+cluster://127.0.0.1:{empty.port}")

    assert list(found) == ["cluster_down", "slots_missing"]
    assert all(problem.fatal for problem in found.values())
    assert "16 of 16 partitions" in found["slots_missing"].what


def test_a_frozen_cluster_is_unreachable_within_its_time(old: RedisCluster) -> None:
    old.servers[0].pause()
    began = time.monotonic()
    try:
        found = problems(f"redis+cluster://127.0.0.1:{old.servers[0].port}")
    finally:
        old.servers[0].resume()

    assert list(found) == ["unreachable"]
    assert time.monotonic() - began < 2 * examination.TIMEOUT_S + 1


@pytest.mark.parametrize("database", [0, 1])
def test_a_plain_address_of_a_cluster_is_told_the_right_scheme(old: RedisCluster, database: int) -> None:
    found = problems(old.servers[0].url.replace("/0", f"/{database}"))

    assert list(found) == ["wrong_mode"]
    assert "redis+cluster://" in found["wrong_mode"].advice


def test_an_address_of_sentinels_that_leads_to_a_cluster_is_told_the_right_scheme(old: RedisCluster) -> None:
    found = problems(f"redis+sentinel://127.0.0.1:{old.servers[0].port}/presence")

    assert list(found) == ["wrong_mode"]
    assert "redis+cluster://" in found["wrong_mode"].advice
