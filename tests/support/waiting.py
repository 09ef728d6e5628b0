"""Waiting for a condition instead of sleeping, with a failure text that says what was seen last."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

SCENARIO_S = 60.0


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]],
    within_s: float = 10.0,
    every_s: float = 0.02,
    what: str = "",
) -> Any:
    """Return the condition's first true value; fail with its last value or error after `within_s`.

    The condition may be async; an AssertionError in it counts as "not yet" and is shown when time is up.
    """
    ends = time.monotonic() + within_s
    while True:
        seen: object
        try:
            seen = condition()
            if inspect.isawaitable(seen):
                seen = await seen
            if seen:
                return seen
        except AssertionError as error:
            seen = error
        if time.monotonic() >= ends:
            raise AssertionError(f"not within {within_s} s: {what or _source(condition)}; last seen: {seen!r}")
        await asyncio.sleep(every_s)


def wait_until(condition: Callable[[], Any], what: str, within_s: float = 30.0) -> None:
    """The same outside of any loop, for servers that are being started; blocks."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def run_async(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test of an async scenario: a loop of its own, at most `SCENARIO_S` (or `within_s=` of `limited`).

    Fixtures that have `aclose()` are closed inside the loop, so no socket outlives its loop.
    """
    limit_s: float = getattr(scenario, "limit_s", SCENARIO_S)

    @functools.wraps(scenario)
    def test(**fixtures: Any) -> None:
        asyncio.run(_guarded(scenario, fixtures, limit_s))

    return test


def limited(limit_s: float) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Give the scenario below `run_async` another time limit."""

    def mark(scenario: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        scenario.limit_s = limit_s  # type: ignore[attr-defined]
        return scenario

    return mark


async def _guarded(scenario: Callable[..., Awaitable[None]], fixtures: dict[str, Any], limit_s: float) -> None:
    closing = [fixture for fixture in fixtures.values() if hasattr(fixture, "aclose")]
    try:
        async with asyncio.timeout(limit_s):
            await scenario(**fixtures)
    finally:
        for fixture in closing:
            await fixture.aclose()
    for fixture in closing:
        fixture.verify()


def _source(condition: Callable[[], Any]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())[:200]
    except (OSError, TypeError):
        return repr(condition)
