"""`presence check` on a primary behind Sentinels: what is wrong with them, with it, and with its replicas."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from presence import examination
from presence.check import run
from tests.integration.test_check import problems, problems_once, settings
from tests.support.redis_sentinels import NAME, RedisSentinels
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinels]:
    """Three Sentinels, a primary and a replica; each test leaves them as it found them."""
    with RedisSentinels(tmp_path_factory.mktemp("group"), replicas=1) as running:
        yield running


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[RedisSentinels]:
    """One Sentinel and a primary, for one test."""
    with RedisSentinels(tmp_path / "lone", replicas=0, sentinels=1) as running:
        yield running


def heal(group: RedisSentinels) -> None:
    """Wait until nothing is wrong again."""
    problems_once(group.url, lambda found: not found)


def sentinel_url(*ports: int) -> str:
    """The URL of Sentinels on these ports."""
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{NAME}"


def test_sentinels_in_order_have_no_problem(group: RedisSentinels, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(group.url)) == 0

    said = capsys.readouterr().out
    assert f"3 Sentinels agree: 127.0.0.1:{group.servers[0].port} is the primary of {NAME}" in said
    assert "quorum" in said
    assert "keyspace notifications of expired keys arrive" in said
    assert "1 replica in step" in said
    assert "0 problems, 0 warnings" in said


def test_a_name_that_they_do_not_know_is_fatal_and_those_they_know_are_listed(group: RedisSentinels) -> None:
    found = problems(group.url.replace(f"/{NAME}", "/another"))

    assert list(found) == ["unknown_name"]
    assert found["unknown_name"].fatal
    assert NAME in found["unknown_name"].what


def test_sentinels_that_are_not_there_are_a_warning_and_fatal_if_none_is(group: RedisSentinels) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gone = taken.getsockname()[1]

        some = problems(sentinel_url(gone, *(sentinel.port for sentinel in group.sentinels)))
        none = problems(sentinel_url(gone))

    assert list(some) == ["sentinels_unreachable"]
    assert not some["sentinels_unreachable"].fatal
    assert str(gone) in some["sentinels_unreachable"].what
    assert list(none) == ["unreachable"]
    assert none["unreachable"].fatal


def test_an_address_that_names_few_of_many_sentinels_is_a_warning(group: RedisSentinels) -> None:
    found = problems(sentinel_url(group.sentinels[0].port))

    assert list(found) == ["sentinels_unnamed"]
    assert not found["sentinels_unnamed"].fatal


def test_a_sentinel_that_does_not_know_the_name_or_names_another_primary_is_named(
    group: RedisSentinels, fresh_redis: RedisServer
) -> None:
    stray = group.sentinels[2]
    stray.client().execute_command("SENTINEL", "REMOVE", NAME)
    unknown = problems(group.url)
    stray.client().execute_command("SENTINEL", "MONITOR", NAME, "127.0.0.1", fresh_redis.port, 2)
    differing = problems(group.url)
    stray.client().execute_command("SENTINEL", "REMOVE", NAME)
    stray.client().execute_command("SENTINEL", "MONITOR", NAME, "127.0.0.1", group.servers[0].port, 2)
    stray.client().execute_command("SENTINEL", "SET", NAME, "down-after-milliseconds", 1000)

    assert not unknown["unknown_name"].fatal
    assert f":{stray.port}" in unknown["unknown_name"].what
    assert differing["sentinels_disagree"].fatal
    assert f"{stray.port} says 127.0.0.1:{fresh_redis.port}" in differing["sentinels_disagree"].what
    heal(group)


def test_few_sentinels_and_no_replica_are_warnings(lone: RedisSentinels) -> None:
    found = problems(lone.url)

    assert list(found) == ["few_sentinels", "no_replica"]
    assert not any(problem.fatal for problem in found.values())


def test_a_quorum_that_cannot_be_reached_is_fatal(lone: RedisSentinels) -> None:
    lone.sentinels[0].client().execute_command("SENTINEL", "SET", NAME, "quorum", 5)

    found = problems(lone.url)

    assert found["no_quorum"].fatal
    assert "majority" in found["no_quorum"].advice


def test_the_own_password_of_the_sentinels_is_asked_for_and_never_shown(
    lone: RedisSentinels, capsys: pytest.CaptureFixture[str]
) -> None:
    lone.sentinels[0].client().execute_command("ACL", "SETUSER", "default", "resetpass", ">the-word")
    wrong = f"{lone.url}&sentinel_password=another-word"

    assert "sentinel_password=" in problems(lone.url)["auth"].advice
    assert list(problems(wrong)) == ["auth"]
    assert run(settings(wrong)) == 1
    assert "another-word" not in capsys.readouterr().out
    assert "auth" not in problems(f"{lone.url}&sentinel_password=the-word")


def test_the_password_of_the_primary_is_asked_for(lone: RedisSentinels) -> None:
    lone.servers[0].client().config_set("requirepass", "the-word")

    assert problems(lone.url)["auth"].fatal
    assert "auth" not in problems(lone.url.replace("://", "://:the-word@"))


def test_a_frozen_sentinel_is_unreachable_within_its_time(lone: RedisSentinels) -> None:
    lone.sentinels[0].pause()
    began = time.monotonic()

    found = problems(lone.url)

    assert list(found) == ["unreachable"]
    assert time.monotonic() - began < 2 * examination.TIMEOUT_S + 1


def test_a_primary_that_is_not_there_is_unreachable(lone: RedisSentinels) -> None:
    lone.servers[0].kill()

    found = problems(lone.url)

    assert found["unreachable"].fatal
    assert "replica-announce-ip" in found["unreachable"].advice


def test_everything_that_is_asked_of_one_redis_is_asked_of_the_primary(lone: RedisSentinels) -> None:
    lone.servers[0].client().config_set("maxmemory-policy", "allkeys-lru")
    lone.servers[0].client().config_set("notify-keyspace-events", "")

    found = problems(lone.url)

    assert found["eviction"].fatal
    assert not found["notifications"].fatal


def test_a_replica_that_would_evict_is_a_warning(group: RedisSentinels) -> None:
    group.servers[1].client().config_set("maxmemory-policy", "volatile-lru")
    try:
        found = problems(group.url)
    finally:
        group.servers[1].client().config_set("maxmemory-policy", "noeviction")

    assert list(found) == ["replica_evicts"]
    assert not found["replica_evicts"].fatal
    assert f"127.0.0.1:{group.servers[1].port} (volatile-lru)" in found["replica_evicts"].what


def test_a_replica_that_is_not_in_step_or_down_is_a_warning(group: RedisSentinels) -> None:
    replica = group.servers[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        replica.client().replicaof("127.0.0.1", taken.getsockname()[1])
        astray = problems(group.url)
    replica.client().replicaof("127.0.0.1", group.servers[0].port)
    replica.kill()
    down = problems(group.url)
    replica.start()

    assert "not in step" in astray["replicas"].what
    assert str(replica.port) in down["replicas"].what
    assert not astray["replicas"].fatal
    assert not down["replicas"].fatal
    heal(group)


@pytest.mark.parametrize("database", [0, 1])
def test_a_plain_address_of_a_sentinel_is_told_the_right_scheme(group: RedisSentinels, database: int) -> None:
    found = problems(f"redis://127.0.0.1:{group.sentinels[0].port}/{database}")

    assert list(found) == ["wrong_mode"]
    assert "redis+sentinel://" in found["wrong_mode"].advice


def test_an_address_of_sentinels_that_leads_to_a_redis_is_told_the_right_scheme(group: RedisSentinels) -> None:
    found = problems(sentinel_url(group.servers[0].port))

    assert list(found) == ["wrong_mode"]
    assert found["wrong_mode"].fatal
    assert f"redis://127.0.0.1:{group.servers[0].port}/0" in found["wrong_mode"].advice

    mixed = problems(sentinel_url(group.servers[0].port, *(sentinel.port for sentinel in group.sentinels)))
    assert not mixed["wrong_mode"].fatal


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_servers_of_another_kind_are_told_the_right_scheme(group: RedisSentinels, kind: str) -> None:
    port = group.sentinels[0].port if kind == "sentinel" else group.servers[0].port

    found = problems(f"redis+cluster://127.0.0.1:{port}")

    assert list(found) == ["wrong_mode"]
    assert ("redis+sentinel://" if kind == "sentinel" else "redis://") in found["wrong_mode"].advice
