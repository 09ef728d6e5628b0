"""Commands a second and connections a node."""

from __future__ import annotations

import pytest

from presence.errors import Unavailable
from presence.limits import Admission, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(50, 100, clock)

    assert sum(bucket.take() for _ in range(150)) == 100
    clock.now_s += 1
    assert sum(bucket.take() for _ in range(150)) == 50
    clock.now_s += 3600
    assert sum(bucket.take() for _ in range(150)) == 100


def test_the_wait_that_is_told_is_enough() -> None:
    clock = Clock()
    bucket = TokenBucket(3, 1, clock)
    bucket.take()

    assert not bucket.take()
    clock.now_s += bucket.retry_ms / 1000

    assert bucket.retry_ms == 0
    assert bucket.take()


def test_a_rate_of_zero_switches_the_limit_off() -> None:
    bucket = TokenBucket(0, 0, Clock())

    assert all(bucket.take() for _ in range(1000))
    assert bucket.retry_ms == 0


def test_a_full_node_is_unavailable_until_a_connection_leaves() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()

    with pytest.raises(Unavailable):
        admission.enter()
    admission.leave()

    admission.enter()
    assert admission.connections == 2
