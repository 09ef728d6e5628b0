"""The benchmark of punctuality works, and finds nothing early, missing, double or false at a small size.

How late the leaves are is left to the benchmark itself, on a machine that has nothing else to do.
"""

from __future__ import annotations

import asyncio
import math

from tests.bench.offline_lag import Plan, Silent, judge, measure, percentile, table


def test_the_lag_benchmark_sees_every_silent_session_leave_once_and_not_early() -> None:
    plan = Plan(live=500, silent=20, ttl_ms=2000, spread_s=1.0, cut_s=2.0)

    results = asyncio.run(measure(plan))

    assert [result.notifications for result in results] == [True, False]
    for result in results:
        assert result.sound, table(results)
        assert len(result.lags_ms) == plan.silent
        assert min(result.lags_ms) > 0
        assert result.refreshed_per_s > plan.live / 2
    assert len(results[0].bare_ms) == plan.silent


def test_the_lag_benchmark_notices_leaves_that_are_early_missing_double_or_false() -> None:
    plan = Plan(live=0, ttl_ms=1000)
    silent = [Silent(user, 5000) for user in ("good", "early", "missing", "double")]
    leaves = [
        (at_ms + 10.0, {"user": user, "at": at_ms, "last_seen": 4000})
        for user, at_ms in (("good", 5001), ("early", 4999), ("double", 5001), ("double", 5300), ("somebody", 5001))
    ]

    result = judge(plan, True, leaves, silent, offset_ms=1.0)

    assert (result.early, result.missing, result.double, result.false) == (1, 1, 1, 1)
    assert not result.sound
    assert not result.punctual
    assert sorted(result.lags_ms) == [10.0, 12.0, 12.0, math.inf]


def test_percentiles_count_what_never_came_as_the_latest() -> None:
    assert percentile([3.0, math.inf, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, math.inf, 1.0, 2.0], 0.99) == math.inf
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 99.0
