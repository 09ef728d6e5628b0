"""`presence check` names each problem of a real Redis that has it, and says what to do."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from presence import examination
from presence.check import diagnose, run
from presence.findings import Problem
from presence.settings import Settings
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

# What the advice of the check grants; with these rights a node needs nothing more.
RIGHTS = "~presence:* &presence:* &__keyevent@*__:expired +@read +@write +@connection +@scripting +@pubsub +time +info"


def settings(url: str, **others: Any) -> Settings:
    """Settings that are in order, for this Redis."""
    return Settings(redis_url=url, token_secret=(secrets.token_urlsafe(32),), **others)


def problems(url: str, **others: Any) -> dict[str, Problem]:
    """What the check finds, by name."""
    return {problem.name: problem for problem in asyncio.run(diagnose(settings(url, **others)))}


def problems_once(url: str, holds: Callable[[dict[str, Problem]], bool]) -> dict[str, Problem]:
    """What the check finds as soon as this is true of it: servers hear of each other with a delay."""

    async def look() -> list[dict[str, Problem]]:
        found = {problem.name: problem for problem in await diagnose(settings(url))}
        return [found] if holds(found) else []

    (found,) = asyncio.run(eventually(look, within_s=30.0, every_s=0.1))
    return dict(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that this module's tests configure; what they change they say in the URL's user."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def user(server: RedisServer) -> Callable[[str], str]:
    """Make a user with these rights on the module's Redis; its URL."""

    def make(rights: str) -> str:
        name = f"u{secrets.token_hex(4)}"
        server.client().execute_command(  # type: ignore[no-untyped-call]
            "ACL", "SETUSER", name, "on", ">pass/word", *rights.split()
        )
        return server.url.replace("://", f"://{name}:pass%2Fword@")

    return make


@pytest.fixture
def configured(server: RedisServer) -> Iterator[Callable[..., str]]:
    """Set options of the module's Redis until the test ends; its URL."""
    before: dict[str, str] = {}

    def change(**options: str) -> str:
        for option, value in options.items():
            name = option.replace("_", "-")
            before.setdefault(name, str(server.client().config_get(name)[name]))
            server.client().config_set(name, value)
        return server.url

    yield change
    for name, value in before.items():
        server.client().config_set(name, value)


def test_a_redis_in_order_has_no_problem_and_the_exit_code_is_0(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings(server.url)) == 0

    said = capsys.readouterr().out
    assert "keyspace notifications of expired keys arrive" in said
    assert "noeviction" in said
    assert "0 problems, 0 warnings" in said


def test_the_check_leaves_no_key_behind(server: RedisServer) -> None:
    server.client().flushall()

    problems(server.url)

    assert server.client().dbsize() == 0


def test_every_problem_is_printed_with_what_to_do_and_a_fatal_one_gives_exit_code_1(
    configured: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = configured(maxmemory_policy="allkeys-lru", notify_keyspace_events="")

    assert run(settings(url)) == 1

    said = capsys.readouterr().out
    assert "PROBLEM  eviction: " in said
    assert "do: CONFIG SET maxmemory-policy noeviction" in said
    assert "WARNING  notifications: " in said
    assert "do: CONFIG SET notify-keyspace-events Ex" in said


def test_a_redis_that_is_not_there_is_unreachable(server: RedisServer, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        gone = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"

        for url in (gone, f"unix://{tmp_path}/none.sock", "redis://no-such-host.invalid/0"):
            found = problems(url)
            assert list(found) == ["unreachable"]
            assert found["unreachable"].fatal


def test_a_frozen_redis_is_unreachable_within_its_time(fresh_redis: RedisServer) -> None:
    fresh_redis.pause()
    began = time.monotonic()

    found = problems(fresh_redis.url)

    assert list(found) == ["unreachable"]
    assert time.monotonic() - began < 2 * examination.TIMEOUT_S + 1


def test_a_wrong_or_missing_password_is_named_and_never_shown(
    fresh_redis: RedisServer, user: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_redis.client().config_set("requirepass", "the-password")
    good = fresh_redis.url.replace("://", "://:the-password@")
    wrong = fresh_redis.url.replace("://", "://:another-word@")

    assert problems(good) == {}
    assert list(problems(fresh_redis.url)) == ["auth"]
    assert list(problems(wrong)) == ["auth"]
    assert list(problems(user(RIGHTS).replace("pass%2Fword", "another-word"))) == ["auth"]
    assert run(settings(wrong)) == 1
    assert "another-word" not in capsys.readouterr().out


def test_a_server_that_knows_no_passwords_and_quotes_ours_is_not_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path / "redis", config={"rename-command": 'AUTH ""'}) as server:
        assert run(settings(server.url.replace("://", "://:the-password@"))) == 1

    said = capsys.readouterr().out
    assert "PROBLEM  auth: " in said
    assert "the-password" not in said


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicting_policy_is_fatal_also_where_config_is_forbidden(
    configured: Callable[..., str], user: Callable[[str], str], policy: str
) -> None:
    url = configured(maxmemory_policy=policy)

    assert problems(url)["eviction"].fatal
    assert policy in problems(user(RIGHTS))["eviction"].what


def test_memory_that_is_nearly_used_up_is_a_warning_and_wholly_used_up_fatal(
    server: RedisServer, configured: Callable[..., str]
) -> None:
    server.client().set("filling", bytes(8 << 20))
    used = server.client().info("memory")["used_memory"]

    nearly = problems(configured(maxmemory=str(int(used * 1.05))))
    wholly = problems(configured(maxmemory=str(used // 2)))

    server.client().delete("filling")
    assert list(nearly) == ["memory_nearly_full"]
    assert not nearly["memory_nearly_full"].fatal
    assert list(wholly) == ["memory_full"]
    assert wholly["memory_full"].fatal


@pytest.mark.parametrize(("flags", "advised"), [("", "Ex"), ("E", "Ex"), ("Kx", "KxE"), ("Kg", "KgEx"), ("KA", "KAE")])
def test_missing_notifications_are_a_warning_with_the_line_that_adds_what_is_missing(
    server: RedisServer, configured: Callable[..., str], flags: str, advised: str
) -> None:
    found = problems(configured(notify_keyspace_events=flags))

    assert list(found) == ["notifications"]
    assert not found["notifications"].fatal
    words = found["notifications"].advice.replace(",", "").split()
    assert set(words[words.index("notify-keyspace-events") + 1]) == set(advised)


@pytest.mark.parametrize("flags", ["Ex", "EA", "AKE"])
def test_any_flags_with_events_of_expired_keys_are_in_order(configured: Callable[..., str], flags: str) -> None:
    assert problems(configured(notify_keyspace_events=flags)) == {}


def test_without_the_right_to_config_notifications_are_tried_out(
    configured: Callable[..., str], user: Callable[[str], str]
) -> None:
    url = user(RIGHTS)

    found = problems(url)
    assert list(found) == ["no_config"]
    assert not found["no_config"].fatal
    assert "they arrive" in found["no_config"].what

    configured(notify_keyspace_events="")
    found = problems(url)
    assert list(found) == ["no_config", "notifications"]
    assert not found["notifications"].fatal


def test_without_the_right_to_info_the_check_says_what_it_cannot_see(user: Callable[[str], str]) -> None:
    found = problems(user(RIGHTS + " -info"))

    assert list(found) == ["no_info", "no_config"]
    assert not any(problem.fatal for problem in found.values())


def test_forbidden_scripts_are_fatal_and_the_advice_names_the_rights(user: Callable[[str], str]) -> None:
    found = problems(user(RIGHTS + " -@scripting"))

    assert found["scripts"].fatal
    assert RIGHTS in found["scripts"].advice


@pytest.mark.parametrize("lack", ["-zadd", "-publish", "resetkeys", "resetchannels", "-xadd", "-time"])
def test_whatever_else_scripts_need_and_may_not_is_fatal(user: Callable[[str], str], lack: str) -> None:
    found = problems(user(f"{RIGHTS} {lack}"))

    assert found["forbidden"].fatal


def test_a_user_who_may_not_hear_of_expired_keys_gets_a_warning(user: Callable[[str], str]) -> None:
    found = problems(user(RIGHTS.replace("&__keyevent@*__:expired", "")))

    assert list(found) == ["no_config", "notifications"]
    assert "__keyevent@0__:expired" in found["notifications"].advice


def test_a_replica_is_fatal_and_its_primary_is_named(server: RedisServer, fresh_redis: RedisServer) -> None:
    fresh_redis.client().replicaof("127.0.0.1", server.port)
    try:
        found = problems(fresh_redis.url)
    finally:
        fresh_redis.client().replicaof("NO", "ONE")

    assert list(found) == ["replica"]
    assert f"127.0.0.1:{server.port}" in found["replica"].advice


def test_a_redis_of_a_cluster_is_fatal(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", appendonly=False, config={"cluster-enabled": "yes"}) as server:
        assert list(problems(server.url)) == ["wrong_mode"]


def test_writes_that_wait_for_replicas_are_fatal(configured: Callable[..., str]) -> None:
    assert list(problems(configured(min_replicas_to_write="1"))) == ["writes_refused"]


def test_a_database_that_does_not_exist_is_named(server: RedisServer) -> None:
    assert list(problems(server.url.replace("/0", "/99"))) == ["database"]


def test_another_number_of_partitions_than_at_the_first_start_is_fatal(server: RedisServer) -> None:
    prefix = secrets.token_hex(4)
    server.client().hset(f"{prefix}:{{p0}}:guard", mapping={"schema": "1", "partitions": "4"})

    found = problems(server.url, key_prefix=prefix, partitions=16)

    assert list(found) == ["partitions"]
    assert "PRESENCE_PARTITIONS=4" in found["partitions"].advice
    assert problems(server.url, key_prefix=prefix, partitions=4) == {}


def test_data_of_a_newer_server_are_fatal(server: RedisServer) -> None:
    prefix = secrets.token_hex(4)
    server.client().hset(f"{prefix}:{{p0}}:guard", mapping={"schema": "999", "partitions": "16"})

    assert list(problems(server.url, key_prefix=prefix)) == ["schema"]
