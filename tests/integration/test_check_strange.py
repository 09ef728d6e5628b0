"""`presence check` on what cannot be had here: a far Redis, one of long ago, and a server that is none."""

from __future__ import annotations

import pytest

from tests.integration.test_check import problems
from tests.support.redis_server import RedisServer
from tests.support.stand_ins import Old, Slow, Web, listening


def test_a_long_way_to_redis_is_a_warning(redis_server: RedisServer) -> None:
    with listening(Slow) as far:
        far.target = redis_server.port

        found = problems(f"redis://127.0.0.1:{far.server_address[1]}/0")

    assert list(found) == ["slow"]
    assert not found["slow"].fatal


@pytest.mark.parametrize("version", ["6.0.16", "5.0.14"])
def test_a_version_that_is_too_old_is_fatal(version: str) -> None:
    with listening(Old) as old:
        old.version = version

        found = problems(f"redis://127.0.0.1:{old.server_address[1]}/0")

    assert found["old_version"].fatal
    assert version in found["old_version"].what
    assert "6.2" in found["old_version"].advice


def test_something_that_is_no_redis_is_fatal() -> None:
    with listening(Web) as web:
        found = problems(f"redis://127.0.0.1:{web.server_address[1]}/0")

    assert list(found) == ["unreachable"]
