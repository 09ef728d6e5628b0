"""How late is a `leave`? Measured at an observer on another node, against deadlines read from Redis.

    python tests/bench/offline_lag.py --live 1000,100000,1000000

Prints a Markdown table; progress goes to stderr; exits with 1 if a leave was early, missing, double or false, or the
p99 is over the target. Everything is real: two server processes, a Redis of their own, sessions that fall silent on
open WebSockets, live ones that are refreshed. Only the live ones' joins and heartbeats skip the network (crowd.py).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a program, `tests` is not on the path

from presence.keys import Keys, entry
from tests.bench import bare
from tests.bench.crowd import ROOM, channel_of
from tests.bench.stand import PARTITIONS, PREFIX, Stand
from tests.support.clients.rooms import Frame
from tests.support.clients.websocket import WebSocketClient

TARGET_MS = 250
WATCHED = 32
AFTERWARDS_S = 3.0
LATE_S = 10.0
REFRESHES_PER_S = 10_000  # more than this two cores shared with everything else are not asked for


@dataclass(frozen=True)
class Plan:
    """One size. `ttl_ms` is that of the silent sessions; the live ones' is longer where they are very many."""

    live: int
    silent: int = 200
    ttl_ms: int = 30_000
    spread_s: float = 20.0
    cut_s: float = 60.0

    @property
    def live_ttl_ms(self) -> int:
        """Ttl of the live sessions: at a third of it, they make at most REFRESHES_PER_S."""
        return max(self.ttl_ms, 3000 * self.live // REFRESHES_PER_S)


@dataclass
class Result:
    """One line of the table; lags are infinite where nothing came."""

    plan: Plan
    notifications: bool
    lags_ms: list[float] = field(default_factory=list)
    early: int = 0
    double: int = 0
    false: int = 0
    lost: int = 0
    refreshed_per_s: float = 0.0
    bare_ms: list[float] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Silent sessions whose leave the observer never saw."""
        return sum(math.isinf(lag) for lag in self.lags_ms)

    @property
    def sound(self) -> bool:
        """Whether every leave came, once, not early, and none came of a session that lives."""
        return not (self.early or self.missing or self.double or self.false or self.lost)

    @property
    def punctual(self) -> bool:
        """Whether the target is met."""
        return percentile(self.lags_ms, 0.99) <= TARGET_MS


@dataclass(frozen=True)
class Silent:
    """A session that showed its last sign of life."""

    user: str
    deadline_ms: int
    client: WebSocketClient | None = None


class Observer(WebSocketClient):
    """Notes when each `leave` was read off the socket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.leaves: list[tuple[float, Frame]] = []

    def _take(self, frame: Frame) -> None:
        now_ms = time.time() * 1000
        if frame["type"] == "events":
            self.leaves += [(now_ms, event) for event in frame["events"] if event["type"] == "leave"]
        super()._take(frame)


async def measure(plan: Plan, notifications: tuple[bool, ...] = (True, False)) -> list[Result]:
    """Measure one size, with notifications and then without, over the same live sessions."""
    results = []
    async with Stand(plan.live, plan.live_ttl_ms, plan.ttl_ms) as stand:
        subscriber = bare.Subscriber(stand.second.url)
        await subscriber.start()
        try:
            for on in notifications:
                await stand.notifications(on)
                first = not results
                results.append(await _phase(plan, stand, on, subscriber if first else None))
            say(f"waiting until {plan.cut_s:g} s after the bare subscriber's last deadline")
            results[0].bare_ms = await subscriber.lags_ms(plan.cut_s * 1000)
        finally:
            await subscriber.stop()
    return results


async def _phase(plan: Plan, stand: Stand, on: bool, subscriber: bare.Subscriber | None) -> Result:
    word = "on" if on else "off"
    say(f"{plan.live:,} live, notifications {word}: {plan.silent} sessions fall silent within {plan.spread_s:g} s")
    before, refreshed, started_s = await stand.claims(), stand.refreshed, time.monotonic()
    channels = watched(plan.live)
    observer = Observer(stand.b, f"observer-{word}")
    silent: list[Silent] = []
    try:
        await observer.connect()
        for channel in channels:
            await observer.join(channel, "observer")
        places = [(f"silent-{word}-{number}", channels[number % len(channels)]) for number in range(plan.silent)]
        silent = list(await asyncio.gather(*(_fall_silent(plan, stand, *place, subscriber) for place in places)))
        last_s = max(session.deadline_ms for session in silent) / 1000
        await _until(last_s + AFTERWARDS_S)
        while len(observer.leaves) < plan.silent and time.time() < last_s + AFTERWARDS_S + LATE_S:
            await asyncio.sleep(0.05)
    finally:
        for client in (observer, *(session.client for session in silent if session.client)):
            await client.drop()
    assert not observer.breaches(), observer.breaches()
    result = judge(plan, on, observer.leaves, silent, stand.offset_ms())
    claims = await stand.claims() - before
    result.false += max(0, claims["announced"] - plan.silent)  # also of channels that nobody watches
    result.lost = stand.lost
    result.refreshed_per_s = (stand.refreshed - refreshed) / (time.monotonic() - started_s)
    slowest = ", ".join(f"{lag:.0f}" for lag in sorted(result.lags_ms)[-5:])
    say(f"claims won: {claims['notification']} by notification, {claims['sweep']} by sweep; slowest: {slowest} ms")
    return result


async def _fall_silent(plan: Plan, stand: Stand, user: str, channel: str, subscriber: bare.Subscriber | None) -> Silent:
    """Join on the first node over a WebSocket and read nothing more, so that no ping is answered; the bare
    subscriber's twin gets the same deadline."""
    await asyncio.sleep(random.random() * plan.spread_s)
    client = WebSocketClient(stand.a, user)
    await client.connect()
    await client.join(channel, ttl_ms=plan.ttl_ms)
    client.freeze()
    await asyncio.sleep(min(0.3, plan.ttl_ms / 10_000))  # what was still on its way is over
    score = await stand.client.zscore(Keys(PREFIX, PARTITIONS).due(channel), entry(channel, user, client.session))
    assert score is not None, f"{user} has no deadline"
    if subscriber is not None:
        await subscriber.set(user, int(score))
    return Silent(user, int(score), client)


def judge(plan: Plan, on: bool, leaves: list[tuple[float, Frame]], silent: list[Silent], offset_ms: float) -> Result:
    """Hold what was observed, each leave with the time it was read, against the deadlines."""
    result = Result(plan, on)
    seen = Counter(event["user"] for _, event in leaves)
    first = {event["user"]: (now_ms, event) for now_ms, event in reversed(leaves)}
    result.false = sum(number for user, number in seen.items() if user not in {s.user for s in silent})
    for session in silent:
        now_ms, event = first.get(session.user, (math.inf, None))
        result.lags_ms.append(now_ms + offset_ms - session.deadline_ms)
        if event is not None:
            # The deadline that the server says must be the one that was read, else the lag means nothing.
            assert event["last_seen"] + plan.ttl_ms == session.deadline_ms, (event, session.deadline_ms)
            result.early += event["at"] < session.deadline_ms
            result.double += seen[session.user] - 1
    return result


def watched(live: int) -> list[str]:
    """Channels in which sessions fall silent, spread over all that have live members."""
    rooms = max(1, live // ROOM)
    return [channel_of(room * ROOM) for room in range(0, rooms, max(1, rooms // WATCHED))][:WATCHED]


async def _until(moment_s: float) -> None:
    while (left_s := moment_s - time.time()) > 0:
        say(f"  {left_s:.0f} s to go")
        await asyncio.sleep(min(10.0, left_s))


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; infinite values sort last."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(results: list[Result]) -> str:
    """All lines as Markdown; times in ms unless they say s."""
    head = "live", "their ttl", "heartbeats/s", "notifications", "silent", "p50", "p99", "max"
    head += "early", "missing", "double", "false", "bare p50", "bare p99", "bare max", "bare: never came"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        plan, lags = result.plan, result.lags_ms
        cells = [f"{plan.live:,}", f"{plan.live_ttl_ms / 1000:g} s", f"{result.refreshed_per_s:,.0f}"]
        cells += ["on" if result.notifications else "off", str(plan.silent)]
        cells += [_ms(percentile(lags, share)) for share in (0.5, 0.99, 1)]
        cells += [str(count) for count in (result.early, result.missing, result.double, result.false)]
        cells += _bare_cells(result) if result.bare_ms else [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _bare_cells(result: Result) -> list[str]:
    never = sum(math.isinf(lag) for lag in result.bare_ms)
    cut = f"> {result.plan.cut_s:g} s"
    lags = [percentile(result.bare_ms, share) for share in (0.5, 0.99, 1)]
    return [*(cut if math.isinf(lag) else f"{lag / 1000:.1f} s" for lag in lags), str(never)]


def _ms(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"


def machine(redis_version: str) -> str:
    """What the figures depend on."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("tornado", "redis", "hiredis", "uvloop"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}; {cores}, Redis {redis_version}, {libraries}; load average afterwards {load}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def say(text: str) -> None:
    """Show progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", default="1000,100000,1000000", help="numbers of live sessions, by comma")
    parser.add_argument("--notifications", choices=("on", "off", "both"), default="both")
    parser.add_argument("--silent", type=int, default=200, help="sessions that fall silent, in each measurement")
    parser.add_argument("--ttl-ms", type=int, default=30_000)
    parser.add_argument("--spread-s", type=float, default=20.0, help="time over which they fall silent")
    parser.add_argument("--cut-s", type=float, default=60.0, help="how long the bare subscriber is waited for")
    options = parser.parse_args()
    modes = {"on": (True,), "off": (False,), "both": (True, False)}[options.notifications]
    results: list[Result] = []
    for live in (int(text) for text in options.live.split(",")):
        plan = Plan(live, options.silent, options.ttl_ms, options.spread_s, options.cut_s)
        results += asyncio.run(measure(plan, modes))
        say("so far:\n" + table(results))
    print(table(results) + "\n")
    print(f"Target: p99 at most {TARGET_MS} ms, none early, missing, double or false. {machine(Stand.redis_version)}.")
    lost = sum(result.lost for result in results)
    if lost:
        print(f"{lost} heartbeats of live sessions were refused: they had timed out.")
    return 0 if all(result.sound and result.punctual for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
