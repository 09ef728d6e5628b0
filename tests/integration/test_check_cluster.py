"""`presence check` on a Cluster: what is wrong with its slots, its primaries and their replicas."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator

import pytest

from presence.check import run
from presence.keys import Keys
from tests.integration.test_check import RIGHTS, problems, problems_once, settings
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

GUARD = Keys("presence", 16).script(0)[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries with a replica each; each test leaves them as it found them."""
    config = {"cluster-allow-replica-migration": "no"}
    with RedisCluster(tmp_path_factory.mktemp("cluster"), config=config) as running:
        yield running


@pytest.fixture
def configured() -> Iterator[Callable[..., None]]:
    """Set an option of some servers until the test ends."""
    before: list[tuple[RedisServer, str, str]] = []

    def change(servers: list[RedisServer], option: str, value: str) -> None:
        for server in servers:
            before.append((server, option, server.client().config_get(option)[option]))
            server.client().config_set(option, value)

    yield change
    for server, option, value in reversed(before):
        server.client().config_set(option, value)


@pytest.fixture
def without_slot(cluster: RedisCluster) -> Iterator[Callable[[str], RedisServer]]:
    """Take the slot of a key from everybody until the test ends; its owner."""
    taken: list[tuple[RedisServer, int]] = []

    def take(key: str) -> RedisServer:
        owner = cluster.holder(key)
        slot = owner.client().execute_command("CLUSTER", "KEYSLOT", key)
        taken.append((owner, slot))
        for server in [owner, *(server for server in cluster.servers if server is not owner)]:
            server.client().execute_command("CLUSTER", "DELSLOTS", slot)
        return owner

    yield take
    for owner, slot in taken:
        owner.client().execute_command("CLUSTER", "ADDSLOTS", slot)
    heal(cluster)


def heal(cluster: RedisCluster) -> None:
    """Wait until nothing is wrong again, whichever server is asked."""
    for server in cluster.servers:
        problems_once(f"redis+cluster://127.0.0.1:{server.port}", lambda found: not found)


def test_a_cluster_in_order_has_no_problem_and_says_nothing_thrice(
    cluster: RedisCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings(cluster.url)) == 0

    said = capsys.readouterr().out
    assert "3 primaries serve all 16384 slots" in said
    assert "all 3 primaries: keyspace notifications of expired keys arrive" in said
    assert "all 3 primaries: messages arrive" in said
    assert "3 replicas in step" in said
    assert "0 problems, 0 warnings" in said
    assert len(set(said.splitlines())) == len(said.splitlines())


def test_the_check_leaves_no_key_behind(cluster: RedisCluster) -> None:
    problems(cluster.url)

    assert [server.client().dbsize() for server in cluster.servers[:3]] == [0, 0, 0]


def test_addresses_that_do_not_answer_are_a_warning_and_fatal_if_none_does(cluster: RedisCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{taken.getsockname()[1]}"

        some = problems(f"{cluster.url},{gone}")
        none = problems(f"redis+cluster://{gone}")

    assert list(some) == ["seeds_unreachable"]
    assert not some["seeds_unreachable"].fatal
    assert gone in some["seeds_unreachable"].what
    assert list(none) == ["unreachable"]
    assert none["unreachable"].fatal


def test_slots_that_nobody_serves_are_fatal_if_a_partition_lies_in_them(
    cluster: RedisCluster, without_slot: Callable[[str], RedisServer]
) -> None:
    without_slot(GUARD)

    found = problems(cluster.url)

    assert list(found) == ["slots_missing"]
    assert found["slots_missing"].fatal
    assert "1 of 16384 slots" in found["slots_missing"].what
    assert "1 of 16 partitions (0)" in found["slots_missing"].what


def test_slots_that_nobody_serves_are_a_warning_if_no_partition_lies_in_them(
    cluster: RedisCluster, without_slot: Callable[[str], RedisServer]
) -> None:
    without_slot("somebody-else")

    found = problems(cluster.url)

    assert list(found) == ["slots_missing"]
    assert not found["slots_missing"].fatal


def test_a_cluster_that_is_down_is_fatal(
    cluster: RedisCluster, configured: Callable[..., None], without_slot: Callable[[str], RedisServer]
) -> None:
    configured(cluster.servers, "cluster-require-full-coverage", "yes")
    without_slot("somebody-else")

    found = problems_once(cluster.url, lambda found: "cluster_down" in found and found["cluster_down"].fatal)
    configured(cluster.servers, "cluster-require-full-coverage", "no")

    assert found["cluster_down"].fatal
    assert "full_coverage" in found


def test_a_demand_for_full_coverage_is_a_warning(cluster: RedisCluster, configured: Callable[..., None]) -> None:
    configured(cluster.servers[:1], "cluster-require-full-coverage", "yes")

    found = problems(cluster.url)

    assert list(found) == ["full_coverage"]
    assert not found["full_coverage"].fatal
    assert str(cluster.servers[0].port) in found["full_coverage"].what


def test_a_primary_without_a_replica_is_a_warning(cluster: RedisCluster) -> None:
    lonely, other = cluster.servers[:2]
    replica = cluster.replica_of(lonely)
    replica.client().execute_command("CLUSTER", "REPLICATE", cluster.identity(other))

    found = problems_once(cluster.url, lambda found: "no_replica" in found)

    replica.client().execute_command("CLUSTER", "REPLICATE", cluster.identity(lonely))
    assert not found["no_replica"].fatal
    assert str(lonely.port) in found["no_replica"].what
    assert str(other.port) not in found["no_replica"].what
    heal(cluster)


def test_a_replica_that_is_down_is_a_warning(cluster: RedisCluster) -> None:
    replica = cluster.servers[3]
    replica.kill()

    found = problems(cluster.url)

    replica.start()
    assert list(found) == ["replicas"]
    assert not found["replicas"].fatal
    assert str(replica.port) in found["replicas"].what
    heal(cluster)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_policy_that_evicts_is_fatal_on_any_primary(
    cluster: RedisCluster, configured: Callable[..., None], number: int
) -> None:
    configured([cluster.servers[number]], "maxmemory-policy", "allkeys-lru")

    found = problems(cluster.url)

    assert list(found) == ["eviction"]
    assert found["eviction"].fatal
    assert found["eviction"].what.startswith(f"127.0.0.1:{cluster.servers[number].port}: ")


def test_a_policy_that_evicts_is_a_warning_on_a_replica(cluster: RedisCluster, configured: Callable[..., None]) -> None:
    configured([cluster.servers[4]], "maxmemory-policy", "allkeys-lru")

    found = problems(cluster.url)

    assert list(found) == ["replica_evicts"]
    assert not found["replica_evicts"].fatal


def test_primaries_that_lack_notifications_are_named_once(
    cluster: RedisCluster, configured: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    configured(cluster.servers[1:3], "notify-keyspace-events", "")

    assert run(settings(cluster.url)) == 0

    said = capsys.readouterr().out
    told = [line for line in said.splitlines() if line.startswith("WARNING  notifications")]
    assert len(told) == 1
    assert all(str(server.port) in told[0] for server in cluster.servers[1:3])
    assert f"127.0.0.1:{cluster.servers[0].port}: keyspace notifications of expired keys arrive" in said


def test_too_few_partitions_for_the_primaries_are_a_warning_with_a_number_that_is_enough(
    cluster: RedisCluster,
) -> None:
    found = problems(cluster.url, partitions=1)

    assert list(found) == ["idle_primary"]
    assert not found["idle_primary"].fatal
    advised = int(found["idle_primary"].advice.partition("PRESENCE_PARTITIONS=")[2].partition(",")[0])
    assert problems(cluster.url, partitions=advised) == {}


def test_another_number_of_partitions_than_at_the_first_start_is_fatal(cluster: RedisCluster) -> None:
    prefix = secrets.token_hex(4)
    guard = Keys(prefix, 4).script(0)[0]
    owner = cluster.holder(guard)
    owner.client().hset(guard, mapping={"schema": "1", "partitions": "4"})

    found = problems(cluster.url, key_prefix=prefix, partitions=16)

    owner.client().delete(guard)
    assert list(found) == ["partitions"]
    assert "PRESENCE_PARTITIONS=4" in found["partitions"].advice


def test_a_slot_that_is_on_its_way_is_a_warning(cluster: RedisCluster) -> None:
    owner = cluster.holder(GUARD)
    other = next(server for server in cluster.servers[:3] if server is not owner)
    slot = owner.client().execute_command("CLUSTER", "KEYSLOT", GUARD)
    owner.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(other))

    found = problems(cluster.url)

    owner.client().execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert list(found) == ["moving"]
    assert not found["moving"].fatal


def test_rights_users_and_passwords_are_judged_as_those_of_one_redis(
    cluster: RedisCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rights in {"full": f"{RIGHTS} +cluster|nodes +cluster|info", "less": RIGHTS}.items():
        for server in cluster.servers:
            server.client().execute_command("ACL", "SETUSER", name, "on", ">pass/word", *rights.split())

    full, less = (cluster.url.replace("://", f"://{name}:pass%2Fword@") for name in ("full", "less"))
    wrong = full.replace("pass%2Fword", "another-word")

    assert list(problems(full)) == ["no_config"]
    assert problems(less)["forbidden"].fatal
    assert "+cluster|nodes" in problems(less)["forbidden"].advice
    assert list(problems(wrong)) == ["auth"]
    assert run(settings(wrong)) == 1
    assert "another-word" not in capsys.readouterr().out


def test_a_primary_that_fails_takes_its_partitions_along(cluster: RedisCluster) -> None:
    owner = cluster.holder(GUARD)
    replica = cluster.replica_of(owner)
    replica.kill()
    owner.kill()
    others = [server for server in cluster.servers[:3] if server is not owner]
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in others)
    try:
        assert problems(url)["unreachable"].fatal

        found = problems_once(url, lambda found: "slots_missing" in found)
    finally:
        owner.start()
        replica.start()
    assert f"127.0.0.1:{owner.port}: down" in found["slots_missing"].what
    assert "partitions (0, " in found["slots_missing"].what
    heal(cluster)
